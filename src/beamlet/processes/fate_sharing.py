"""Dying together: what the kernel does for us when a parent is killed, and the sweep for what it cannot do.

    die_with_parent    the kernel signals us when the process that forked us is gone, whatever killed it
    wake_with_parent   the kernel continues us then, so that a stopped process sees what it has to do
    wake               continues a session, whatever of it is stopped
    become_subreaper   orphans below us become our children instead of init's, so that we can find them
    kill_group         a process and everything that stayed in its process group
    descendants        everything below a process that still has its parents
    end_children       a subreaper's last act: nothing below it is left, whatever it made of itself
    sweep              everything started under a session's marker, wherever it hangs by now

Not here: deciding who must die (factory, raylet), and waiting for the deaths.

Only Linux has the two with a parent and become_subreaper. Elsewhere they do nothing and return False, and the
loss is: what a killed process had started lives on until a survivor sweeps; sweep finds nothing there either
(no /proc), so a leftover is then only ended by its closed connection.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

#: The variable that marks everything a session starts; its value is the session's own (its directory name).
SESSION_VARIABLE = "BEAMLET_SESSION"
#: A sweep repeats until it finds nothing; what forks faster than this many passes is reported, not chased.
_SWEEP_PASSES = 20


def die_with_parent(signal_number: int, expected_parent_pid: int) -> bool:
    """Have the kernel send us ``signal_number`` when the parent dies; act at once if it is dead already.

    Call it in the child, first thing after fork. ``expected_parent_pid`` is the parent's pid taken before
    the fork. The kernel means the parent *thread*: fork from one that lives as long as its process.
    Returns False where the system has no such thing.
    """
    if not _prctl(_PR_SET_PDEATHSIG, int(signal_number)):
        return False
    if os.getppid() != expected_parent_pid:  # it died between fork and prctl: nobody will send the signal
        os.kill(os.getpid(), signal_number)
    return True


def wake_with_parent() -> bool:
    """Have the kernel continue us when whoever started us is gone: stopped, we would never learn of it.

    That also takes back a stop that was sent and has not begun. It means the parent *thread*, so it may come
    earlier; that and a second time do no harm.
    """
    return _prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def wake(marker: str) -> None:
    """Continue what is stopped of a session, so that it can obey. For who knows that it is to end.

    Nobody is asked whether it is: a stop may have been sent and begin in a moment.
    """
    for pid in _marked(marker):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGCONT)


def become_subreaper() -> bool:
    """Adopt orphans among our descendants; the caller must reap them. Not inherited by forks."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_group(pid: int, signal_number: int = signal.SIGKILL) -> bool:
    """Signal the process group that ``pid`` leads, or ``pid`` alone while it leads none.

    False: it is gone, or not ours any more.
    """
    for send in (os.killpg, os.kill):
        try:
            send(pid, signal_number)
            return True
        except ProcessLookupError:
            continue  # forked a moment ago and not yet at its setsid, or really gone
        except PermissionError:
            return False  # all that is left of the group changed its user
    return False


def children(pid: int) -> list[int]:
    """Direct children of a process, zombies included; [] when it is gone."""
    try:
        found = []
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as listing:
                found += [int(child) for child in listing.read().split()]
        return found
    except (FileNotFoundError, ProcessLookupError):  # gone, or a kernel without CONFIG_PROC_CHILDREN
        return [child for child, parent in _parents() if parent == pid]


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``, parents before their children. A snapshot: they may fork meanwhile."""
    below: dict[int, list[int]] = {}
    for child, parent in _parents():
        below.setdefault(parent, []).append(child)
    found = list(below.get(pid, ()))
    for each in found:  # grows while it is walked
        found += below.get(each, ())
    return found


def end_children(seconds: float) -> bool:
    """SIGKILL and reap all children of this process, and those that fall to it meanwhile; False: not in time.

    In a subreaper that gets everything below it: who dies leaves its children to us before it can be reaped.
    """
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):  # too many open files: again with the next pass
            for pid in children(os.getpid()):
                _kill(pid)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)


def sweep(marker: str) -> list[int]:
    """SIGKILL every process of this user that carries ``BEAMLET_SESSION=marker``, and all below; not us.

    Returns the pids that were killed. Found by the environment a program was started with, so a program that
    was given an empty one and has lost its parents escapes. Repeat-safe.
    """
    seen: set[int] = {os.getpid()}
    killed: list[int] = []
    for _ in range(_SWEEP_PASSES):
        fresh = [pid for pid in _marked(marker) if pid not in seen]
        if not fresh:
            break
        for pid in fresh:
            below = descendants(pid)
            killed += [each for each in (pid, *below) if each not in seen and _kill(each)]
            seen.update((pid, *below))
    return killed


def sweep_and_wait(marker: str, seconds: float = 2.0) -> list[int]:
    """``sweep``, and wait until all of it has ended: then nothing of the session is left. Bounded."""
    killed = sweep(marker)
    deadline = time.monotonic() + seconds
    while any(map(_lives, killed)) and time.monotonic() < deadline:
        time.sleep(0.002)
    return killed


def is_stopped(pid: int) -> bool:
    """By SIGSTOP, or by a debugger: it does nothing until somebody continues it."""
    return _state(pid) in ("T", "t")


def _lives(pid: int) -> bool:
    """A zombie does not: it only waits to be collected."""
    return _state(pid) not in ("", "Z", "X")


def _state(pid: int) -> str:
    """The kernel's letter for what a process does; "" if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _marked(marker: str) -> Iterator[int]:
    wanted = f"{SESSION_VARIABLE}={marker}".encode()
    ours = os.getuid()
    for pid in _pids():
        try:
            if pid == os.getpid() or os.stat(f"/proc/{pid}").st_uid != ours:
                continue
            with open(f"/proc/{pid}/environ", "rb") as environ:
                if wanted in environ.read().split(b"\0"):
                    yield pid
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # gone meanwhile, or protected (a set-uid program): not ours to read


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
        return True
    except (ProcessLookupError, PermissionError):
        return False


def _parents() -> Iterator[tuple[int, int]]:
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                # "pid (name) state ppid …"; the name may hold spaces and brackets.
                yield pid, int(stat.read().rpartition(b")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except FileNotFoundError:
        return []


@functools.cache
def _libc_prctl() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    import ctypes  # 0.3 MB and some milliseconds, needed only by processes that fork or are forked

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    # Unsigned longs: as plain ints their upper halves would be whatever the registers held.
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    found: Callable[..., int] = prctl
    return found


def _prctl(option: int, value: int) -> bool:
    prctl = _libc_prctl()
    if prctl is None:
        return False
    if prctl(option, value, 0, 0, 0) != 0:
        import ctypes

        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {value}): {os.strerror(number)}")
    return True
