"""The first and the last moments of a forked worker: from a copy of the factory to a process of its own.

Order matters in ``become_worker``: signals stay blocked until no handler of the factory is left, and the
worker dies with the factory before it does anything else that could block.

It is one long function of names that were looked up at import, and uses the C modules behind ``signal`` and
``socket``: what is run, looked up or counted here is so for the first time in each child, and costs it the
copy of a page, 3 µs and 4 KB.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import signal
import sys
import traceback
from _signal import SIG_DFL, SIG_SETMASK, SIGINT, SIGKILL, default_int_handler, pthread_sigmask, set_wakeup_fd
from _signal import signal as set_handler
from atexit import _clear as forget_exit_handlers
from collections.abc import Callable, Iterable
from gc import enable as collect_garbage
from os import close, dup2, setsid
from sys import modules
from types import ModuleType
from typing import NoReturn, TextIO

import msgspec

from beamlet.base.ids import WorkerId
from beamlet.processes.fate_sharing import become_subreaper, die_with_parent

#: What ``ps`` shows of a worker that has nothing to do.
IDLE_TITLE = "beamlet::IDLE"


class WorkerBoot(msgspec.Struct, frozen=True):
    """What a worker is born with. Whatever all workers share is in the closure of ``child_main``."""

    worker_id: WorkerId
    #: A socket connected to the raylet; authenticated by having been passed. Ours to close.
    link: int


ChildMain = Callable[[WorkerBoot], None]


def become_worker(
    worker_id: WorkerId,
    descriptors: tuple[int, int, int],
    child_main: ChildMain,
    *,
    factory_pid: int,
    factory_fds: Iterable[int],
    handled_signals: Iterable[int],
    signal_mask: Iterable[int],
) -> NoReturn:
    """Run ``child_main`` as a process of its own and exit with what it came to. Call with signals blocked.

    descriptors: its link, stdout and stderr.
    factory_fds: the factory's own descriptors, closed here; all others (the arena, the link) stay.
    handled_signals: those the factory has handlers for. signal_mask: what was blocked before the fork.
    """
    code = 1
    try:
        die_with_parent(SIGKILL, factory_pid)
        setsid()
        # What a task leaves orphaned hangs below this worker for as long as it lives, so that the factory
        # never has to guess whose orphan it is.
        become_subreaper()
        set_wakeup_fd(-1)
        for number in handled_signals:
            set_handler(number, default_int_handler if number == SIGINT else SIG_DFL)
        pthread_sigmask(SIG_SETMASK, signal_mask)
        for fd in factory_fds:
            close(fd)
        link, stdout, stderr = descriptors
        for source, target in ((stdout, 1), (stderr, 2)):
            if source != target:
                dup2(source, target)
                close(source)
        # Handlers that the head registered are the head's. `random` seeds itself again after a fork, numpy
        # does not.
        forget_exit_handlers()
        if "numpy.random" in modules:
            modules["numpy.random"].seed()
        collect_garbage()
        set_title(IDLE_TITLE)
        code = _run(child_main, WorkerBoot(worker_id, link))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


#: It reads where the title may stand when it is loaded, so: not before the process is what it will be.
_titles: ModuleType | None = None


def set_title(title: str) -> None:
    """What ``ps`` and ``top`` show. Longer than the original command line: cut by the C library's rules."""
    global _titles
    if _titles is None:
        _titles = _load_titles()
    _titles.setproctitle(title)


def _load_titles() -> ModuleType:
    # Without this the title is written over the environment that /proc/PID/environ shows, and a sweep finds
    # leftovers by that. The room is then the length of the command line that started the head.
    before = os.environ.get("SPT_NOENV")
    os.environ["SPT_NOENV"] = "1"
    try:
        import setproctitle

        setproctitle.setproctitle(setproctitle.getproctitle())  # the setting is read once, and then
        return setproctitle
    finally:
        if before is None:
            del os.environ["SPT_NOENV"]
        else:
            os.environ["SPT_NOENV"] = before


def install_streams() -> None:
    """In the factory, once: the stream objects that all workers inherit and use on their own descriptors.

    Made by each worker they cost it 0.2 MB of copied pages.  New ones in any case: those of the head may be
    buffered differently, closed, or a test's capture.  A stream remembers what kind of file it was made on,
    so it is made on what workers have: nothing to read, and pipes.  The factory has nothing to read, either.
    """
    kept = [os.dup(fd) for fd in (1, 2)]
    null = os.open(os.devnull, os.O_RDONLY)
    reading, writing = os.pipe()
    try:
        for source, target in ((null, 0), (writing, 1), (writing, 2)):
            os.dup2(source, target, inheritable=True)
        streams = os.fdopen(0, encoding="utf-8", closefd=False), _text_on(1), _text_on(2)
    finally:
        for target, source in enumerate(kept, 1):
            os.dup2(source, target, inheritable=True)
        for fd in (*kept, null, reading, writing):
            os.close(fd)
    for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    faulthandler.enable(sys.stderr)


def _text_on(fd: int) -> TextIO:
    """Line by line, so that a line is on its way when ``print`` returns; nothing printable can fail."""
    return os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)


def _run(child_main: ChildMain, boot: WorkerBoot) -> int:
    """What an interpreter does around a main program, for a process whose exit it may not use."""
    try:
        child_main(boot)
        code = 0
    except SystemExit as request:
        code = _exit_code(request)
    except KeyboardInterrupt:
        _flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        code = 128 + signal.SIGINT  # only if SIGINT is blocked
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    _flush()
    return code


def _exit_code(request: SystemExit) -> int:
    if request.code is None:
        return 0
    if isinstance(request.code, int):
        return request.code & 0xFF
    print(request.code, file=sys.stderr)
    return 1


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # The raylet may have closed its end, a task may have closed or replaced the stream: too late to care.
        with contextlib.suppress(Exception):
            stream.flush()
