"""Awaiting a head, joining a node, ending one: what may be interrupted between ``init()`` and a socket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import msgspec

from beamlet.api.head_process import StartedHead
from beamlet.api.option_rules import brief
from beamlet.base.deferring import deliver, is_from_handler
from beamlet.head.options import HeadReady
from beamlet.processes.fate_sharing import is_stopped, sweep_and_wait
from beamlet.processes.session import SessionDirectory, find_current, session_root
from beamlet.rpc.auth import HandshakeError
from beamlet.rpc.listener import connect

HEAD_STARTS_S = 30.0
#: The factory's own bound is 5 s.
FACTORY_ENDS_S = 6.0


def await_head(head: StartedHead) -> None:
    """Until it listens. Raises RuntimeError saying why it never will.

    A head that is ours alone ends if its pipe closes before we joined: ``let_go`` closes it afterwards.
    """
    import select

    deliver()  # a Ctrl-C that came while it was made: from here on who calls us can undo that
    process = head.process
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    line = process.stdout.readline() if poll.poll(HEAD_STARTS_S * 1000) else b""
    ready = msgspec.json.decode(line, type=HeadReady) if line.startswith(b"{") else None
    if ready is None or ready.error:
        stop_head(head, at_once=True)
        why = ready.error if ready is not None else f"it said nothing within {HEAD_STARTS_S:g} s or ended"
        raise RuntimeError(f"the head process did not start: {why}\n{_take_log(head)}")


def explain_end(head: StartedHead) -> None:
    """We could not join a head that listened. Raises RuntimeError saying why it ended, if it did.

    It says so before it closes its socket: there is nothing to wait for.
    """
    report = head.process.stdout
    if report is None or report.closed:
        return
    os.set_blocking(report.fileno(), False)
    line = report.readline() or b""
    if line.startswith(b"{"):
        stop_head(head)
        why = msgspec.json.decode(line, type=HeadReady).error
        raise RuntimeError(f"the cluster ended as soon as it had started: {why}\n{_take_log(head)}")


def _take_log(head: StartedHead) -> str:
    """The end of what it said, for our error; its session goes."""
    log = head.session.logs / "head.log"
    tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    head.session.remove()
    return tail


def let_go(head: StartedHead) -> None:
    """We joined: from now on our connection is what it lives by. Idempotent."""
    if head.process.stdout is not None:
        head.process.stdout.close()


def stop_head(head: StartedHead, at_once: bool = False) -> None:
    """End it, and whatever it leaves. Bounded; idempotent."""
    let_go(head)
    process = head.process
    if process.poll() is None:
        process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)
        try:
            process.wait(8.0)
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: a dead disk
                process.wait(FACTORY_ENDS_S)
    if process.returncode:
        clean_up_after(head.session)


def clean_up_after(session: SessionDirectory) -> None:
    """The head died without cleaning up: end what it left, and disarm its session.

    First comes the factory, which holds the session's lock for so long: it finds what a sweep cannot.
    """
    deadline = time.monotonic() + FACTORY_ENDS_S
    while session.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    sweep_and_wait(session.marker)
    session.remove(keep_logs=True)


def find_session(address: str) -> SessionDirectory:
    """The running local session that ``address`` means: "auto", a session directory, or its socket.

    Raises ConnectionError if there is none.
    """
    root = session_root()
    if address == "auto":
        session = find_current(root)
        if session is None:
            raise ConnectionError(
                "no running Beamlet session of this user was found (looked for the one that `beamlet start "
                f"--head` announces in {root}). Start one with `beamlet start --head`, or call init() "
                "without an address."
            )
        return session
    if address.startswith(("ray://", "beamlet://")):
        raise ConnectionError(
            f"{address}: connecting from another machine is not in this release. Run the driver on the "
            "head's machine, with address='auto'."
        )
    path = Path(address)
    if path.name == "node.sock":
        path = path.parent
    if not _is_directory(path):
        path = root / address
    session = SessionDirectory(path)
    if not _is_directory(path) or not session.is_alive():
        raise ConnectionError(
            f"{brief(address)} does not name a running session of this user. Valid addresses are 'auto', "
            f"'local', a session directory below {root}, or its name; host:port addresses come with "
            "clusters of several nodes."
        )
    return session


def _is_directory(path: Path) -> bool:
    """Whatever was given for a path: it may be too long for one."""
    try:
        return path.is_dir()
    except OSError:
        return False


def join(session: SessionDirectory) -> socket.socket:
    """A proven connection to the session's node. Raises ConnectionError."""
    try:
        return connect(str(session.socket), session.secret())
    except (OSError, HandshakeError) as error:
        if is_from_handler(error):
            raise
        # A stranger's words are in the text; their class is none that a program could catch.
        cause = None if isinstance(error, HandshakeError) else error
        raise ConnectionError(
            f"cannot join session {session.path}: {_why_silent(session) or error}"
        ) from cause


def _why_silent(session: SessionDirectory) -> str:
    """What else than its own words tells of a head; "" if nothing does."""
    info = session.info()
    if info is None or not session.head_is_here() or not is_stopped(info.pid):
        return ""
    return (
        f"its head, process {info.pid}, is stopped, by SIGSTOP or a debugger. "
        f"`kill -CONT {info.pid}` continues it, `beamlet stop --session {session.path.name}` ends it."
    )
