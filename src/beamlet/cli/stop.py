"""``beamlet stop``: end a cluster and whatever it started; no process is left when the command returns.

What is stopped (SIGSTOP) is continued, so that it can end in order.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time
from typing import Any

from beamlet.api.argument_table import FOREVER_S
from beamlet.api.head_start import clean_up_after, find_session
from beamlet.cli.terminal import Paint
from beamlet.processes.fate_sharing import sweep, wake
from beamlet.processes.session import (
    SessionDirectory,
    find_current,
    find_running,
    session_root,
    sweep_dead,
)

GRACE_S = 16.0
#: Longer than a head takes to see that its files are gone, and to make them again (SessionKeeper).
_NAMED_AGAIN_S = 5.0
#: The kernel's time to end what cannot refuse.
_KILLED_S = 10.0


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "stop",
        help="end the cluster that `start` started",
        description="End the cluster that `beamlet start` started, and everything that runs in it.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--session", metavar="ID", help="end this one (a session's name or directory)")
    which.add_argument(
        "--all",
        action="store_true",
        help="end all sessions of this user, including those of running programs",
    )
    parser.add_argument(
        "-f", "--force", action="store_true", help="kill at once, without a chance to clean up"
    )
    parser.add_argument(
        "-g",
        "--grace-period",
        type=_seconds,
        default=GRACE_S,
        metavar="S",
        help=f"seconds before it is killed ({GRACE_S:g})",
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help=argparse.SUPPRESS)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= FOREVER_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def run(options: argparse.Namespace) -> int:
    """End the chosen sessions. It is no error if there is none."""
    root = session_root()
    chosen = choose(options)
    for session in chosen:
        how = end(session, 0.0 if options.force else options.grace_period)
        print(f"{Paint.on(sys.stdout)('green', 'Stopped')} session {session.path.name}{how}.")
        if session.logs.is_dir():  # it failed, was killed, or had drivers whose errors name it
            print(f"Its logs stay in {session.logs}")
    sweep_dead(root)
    if not chosen:
        others = find_running(root)
        hint = (
            f" {len(others)} started by running programs: `beamlet stop --all` ends them." if others else ""
        )
        print(f"No cluster started by `beamlet start` is running.{hint}")
    return 0


def choose(options: argparse.Namespace) -> list[SessionDirectory]:
    if options.session is not None:
        return [find_session(options.session)]
    if options.all:
        return find_running(session_root())
    current = find_current(session_root())
    return [] if current is None else [current]


def end(session: SessionDirectory, grace_s: float) -> str:
    """SIGTERM to the head, then after ``grace_s`` SIGKILL and a sweep. Returns how it went, for a person.

    Raises RuntimeError if even that does not help.
    """
    info = session.info()
    if info is None:
        return _unnamed(session, grace_s)
    try:
        pidfd = os.pidfd_open(info.pid)
    except ProcessLookupError:
        return _without_head(session)
    try:
        # From here on the descriptor means one process, whatever becomes of its number: is it the head?
        if not session.head_is_here():
            return _without_head(session)
        if grace_s > 0:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            wake(session.marker)
            if _ends(pidfd, grace_s):
                return "" if not sweep(session.marker) else ", and killed what it left behind"
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not _ends(pidfd, _KILLED_S):
            raise RuntimeError(
                f"process {info.pid}, the head of session {session.path.name}, survives SIGKILL: it "
                "hangs in the kernel (a dead disk or network mount?)."
            )
    finally:
        os.close(pidfd)
    clean_up_after(session)
    return ", by force" if grace_s <= 0 else f", by force: it did not end within {grace_s:g} s"


def _unnamed(session: SessionDirectory, grace_s: float) -> str:
    """Its session.json is gone, say through a cleaner of temporary files: a head that can makes it again."""
    deadline = time.monotonic() + min(grace_s, _NAMED_AGAIN_S)
    wake(session.marker)
    while session.is_alive():
        if session.info() is not None:
            return end(session, grace_s)
        if time.monotonic() >= deadline:
            sweep(session.marker)  # its head is among them, whichever it is
            _without_head(session)
            return ", by force" if grace_s <= 0 else ", by force: which process is its head was not found"
        time.sleep(0.01)
    return _without_head(session)


def _ends(pidfd: int, seconds: float) -> bool:
    """Whether the process ends in time; one that nobody reaps counts as ended."""
    waiter = select.poll()
    waiter.register(pidfd, select.POLLIN)
    return bool(waiter.poll(seconds * 1000))


def _without_head(session: SessionDirectory) -> str:
    """Nobody here is the head: it is gone, or it lives in another container."""
    deadline = time.monotonic() + _KILLED_S
    wake(session.marker)
    while session.is_alive():  # the factory ends what a head that was killed has left
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"the processes of session {session.path.name} cannot be seen from here: it runs in another "
                "container (PID namespace) that shares this directory. Run `beamlet stop` there."
            )
        time.sleep(0.01)
    clean_up_after(session)
    return ": its head was already gone; the rest was cleaned up"
