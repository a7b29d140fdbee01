"""``beamlet start --head``: a cluster of this machine that outlives the command."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

from beamlet.api import option_rules as rules
from beamlet.api.head_process import StartedHead, head_options, new_session, start_head
from beamlet.api.head_start import HEAD_STARTS_S, await_head, let_go, stop_head
from beamlet.cli.held_signals import heard, hold_back
from beamlet.cli.terminal import Paint, nobody_reads
from beamlet.processes.session import find_current, secure_root, session_root
from beamlet.processes.session_lock import one_at_a_time

#: Flags of `ray start` whose feature is not there, or not needed: taken, and said to do nothing.
_WITH_VALUE = (
    *("port", "node-ip-address", "node-name", "labels", "labels-file", "dashboard-host", "dashboard-port"),
    *("include-dashboard", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port"),
    *("runtime-env-agent-port", "object-manager-port", "node-manager-port", "min-worker-port"),
    *("max-worker-port", "worker-port-list", "ray-client-server-port", "plasma-directory", "temp-dir"),
    *("object-spilling-directory", "autoscaling-config", "system-config", "tracing-startup-hook"),
    *("include-log-monitor", "redis-username", "redis-password", "redis-shard-ports", "cgroup-path"),
    *("system-reserved-cpu", "system-reserved-memory", "proxy-server-url", "log-style", "log-color"),
)
_WITHOUT_VALUE = (
    *("no-redirect-output", "enable-object-reconstruction", "no-monitor", "ray-debugger-external"),
    *("disable-usage-stats", "enable-resource-isolation"),
)
_INSTEAD = {
    "temp-dir": "set BEAMLET_TMPDIR for all your beamlet commands and programs",
    "port": "no port is opened; programs of this machine join with init('auto')",
}


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "start",
        help="start a cluster on this machine",
        description="Start a cluster on this machine. Programs join it with beamlet.init('auto').",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--head", action="store_true", help="be the first node (required)")
    parser.add_argument("--num-cpus", type=_amount, metavar="N", help="default: what this machine may use")
    parser.add_argument("--num-gpus", type=_amount, metavar="N", help="default: those visible here")
    parser.add_argument(
        "--resources", type=_resources, default={}, metavar="JSON", help="""custom ones: '{"gizmo": 2}'"""
    )
    parser.add_argument("--memory", type=_amount, metavar="BYTES", help="memory offered to tasks, in bytes")
    parser.add_argument(
        "--object-store-memory", type=_bytes, metavar="BYTES", help="default: 30 %% of the memory available"
    )
    parser.add_argument(
        "--preload",
        action="append",
        default=[],
        metavar="MODULE",
        help="import once, before workers are forked",
    )
    parser.add_argument("--block", action="store_true", help="stay until the cluster ends or Ctrl-C ends it")
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("-v", "--verbose", action="count", default=0, help=argparse.SUPPRESS)
    for name in _WITH_VALUE:
        parser.add_argument(f"--{name}", dest=f"ray_{name}", help=argparse.SUPPRESS)
    for name in _WITHOUT_VALUE:
        parser.add_argument(f"--{name}", dest=f"ray_{name}", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Start the head, which announces itself, and leave it running; or with --block stay with it.

    A command that fails or is interrupted leaves nothing; one that is killed that, or a cluster to be found.
    """
    _refuse_other_nodes(options)
    for note in notes_on(options):
        sys.stderr.write(f"beamlet start: {note}\n")
    hold_back()
    with contextlib.ExitStack() as stack:
        # Else two that begin at once would not see each other, and `beamlet stop` would end one.
        lock = secure_root(session_root()) / ".starting"
        with heard():
            turn = stack.enter_context(one_at_a_time(lock, within_s=2 * HEAD_STARTS_S))
        _refuse_second()
        head = _start(options, turn)
    with _undone_unless_done(head):
        _announce(head)
    return _stay_with(head) if options.block else 0


def notes_on(options: argparse.Namespace) -> list[str]:
    """One line for each flag that was given and does nothing."""
    given = [name for name in (*_WITH_VALUE, *_WITHOUT_VALUE) if getattr(options, f"ray_{name}")]
    return [
        f"--{name} has no effect in this release" + (f": {_INSTEAD[name]}" if name in _INSTEAD else "")
        for name in given
    ]


def banner(head: StartedHead, paint: Paint) -> str:
    name = head.session.path.name
    return "\n".join(
        [
            paint("green", "Beamlet runtime started.") + f" Session {name}, head process {head.process.pid}.",
            "",
            paint("bold", "Next steps"),
            "  Join it from a program of yours on this machine:",
            "    " + paint("cyan", "import beamlet as ray; ray.init('auto')"),
            "  See what it has and does:  " + paint("cyan", "beamlet status"),
            "  End it:                    " + paint("cyan", "beamlet stop"),
            paint("dim", f"Logs are in {head.session.logs}"),
        ]
    )


def _announce(head: StartedHead) -> None:
    with heard():
        try:
            print(banner(head, Paint.on(sys.stdout)), flush=True)
        except BrokenPipeError:
            nobody_reads()  # the cluster is there all the same


def _start(options: argparse.Namespace, turn: int) -> StartedHead:
    """The head shares in our ``turn`` until it has announced itself: we may be killed before."""
    session = new_session()
    try:
        made = head_options(
            session,
            num_cpus=options.num_cpus,
            num_gpus=options.num_gpus,
            resources=options.resources,
            memory=options.memory,
            object_store_memory=options.object_store_memory,
            owned=False,
            infeasible_grace_s=10.0,
            preload=options.preload,
            turn_fd=turn,
        )
        head = start_head(session, made)
    except BaseException:
        session.remove()
        raise
    with _undone_unless_done(head):
        with heard():
            await_head(head)
        let_go(head)
    return head


@contextlib.contextmanager
def _undone_unless_done(head: StartedHead) -> Iterator[None]:
    try:
        yield
    except BaseException:
        stop_head(head, at_once=True)
        head.session.remove()
        raise


def _stay_with(head: StartedHead) -> int:
    """Until the head ends (1: it was not us), or a signal ends us: then it goes first."""
    try:
        with heard():
            code = head.process.wait()
    except KeyboardInterrupt:
        print("Stopping.", flush=True)
        return 0
    finally:
        stop_head(head)
    sys.stderr.write(
        f"beamlet start: the cluster has ended (head process {head.process.pid}, exit code {code}).\n"
    )
    return 1


def _refuse_other_nodes(options: argparse.Namespace) -> None:
    if options.address is not None:
        raise ValueError(
            "--address joins this machine to another's cluster: clusters of several nodes are not in this "
            "release. Start a cluster of this machine with `beamlet start --head`."
        )
    if not options.head:
        raise ValueError("say what to start: `beamlet start --head` starts a cluster on this machine.")


def _refuse_second() -> None:
    running = find_current(session_root())
    if running is not None:
        info = running.info()
        raise ValueError(
            f"a cluster is running already: session {running.path.name}, head process "
            f"{info.pid if info else '?'}. Use it with init('auto'), or end it with `beamlet stop`."
        )


def _amount(text: str) -> float:
    try:
        return rules.amount(_number(text))
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"{rules.brief(text)} {problem}") from None


def _bytes(text: str) -> int:
    return int(_amount(text))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("is not a number") from None


def _resources(text: str) -> dict[str, float]:
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not JSON ({error}); write '{{\"gizmo\": 2}}'"
        ) from None
    if not isinstance(given, dict):
        raise argparse.ArgumentTypeError(f"{text!r} must be an object of numbers, such as '{{\"gizmo\": 2}}'")
    try:
        return rules.custom_resources(given)
    except (TypeError, ValueError) as problem:
        said = str(problem)
        for option in ("num_cpus", "num_gpus", "memory"):
            said = said.replace(f"use {option}", f"use --{option.replace('_', '-')}")
        raise argparse.ArgumentTypeError(f"{rules.brief(text)} {said}") from None
