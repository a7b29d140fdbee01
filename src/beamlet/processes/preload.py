"""Modules imported once, before the first fork, and the judgement whether a process may still be forked then.

A fork copies one thread.  A module that has started others, or opened a GPU, works in the factory and hangs
or crashes in its children, unless it registers fork handlers.  So after each import the threads and the GPU
descriptors are counted, and what left any is not preloaded but named: workers import it themselves.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
from collections.abc import Iterable
from typing import NamedTuple

from beamlet.processes.fate_sharing import children

#: Leave threads behind and restart them in a fork. numpy: OpenBLAS registers pthread_atfork handlers; held by
#: tests/process/test_factory.py, which multiplies matrices in a child.
FORK_SAFE = frozenset({"numpy"})


class Unfit(NamedTuple):
    """A module that must not be imported before a fork."""

    module: str
    reason: str


def preload(modules: Iterable[str]) -> list[Unfit]:
    """Import those of ``modules`` here that a fork can use, and return the others.

    Each is imported in a fork of ours first: once here, an unfit one could not be taken back.  A module that
    does not import is unfit too: what it needs may exist only in the worker's environment, and there the user
    sees the real traceback. Repeat-safe.
    """
    unfit = []
    for module in modules:
        is_safe = module.partition(".")[0] in FORK_SAFE
        reason = "" if is_safe else _try_in_a_fork(module)
        reason = reason or _import(module, may_start_threads=is_safe)
        if reason:
            unfit.append(Unfit(module, reason))
    return unfit


def _import(module: str, may_start_threads: bool = False) -> str:
    """Import it into this process. Returns why it should not have been; "": nothing speaks against it."""
    threads, gpus = count_threads(), open_gpus()
    try:
        importlib.import_module(module)
    except Exception as error:
        return f"it does not import here: {type(error).__name__}: {error}"
    started, opened = count_threads() - threads, open_gpus() - gpus
    if started > 0 and not may_start_threads:
        return f"importing it started {started} threads; a fork would lose them"
    if opened:
        return f"importing it opened {', '.join(sorted(opened))}; no fork can use that"
    return ""


def _try_in_a_fork(module: str) -> str:
    """What ``_import`` says in a child, which then ends with all that the module started there."""
    before = set(children(os.getpid()))
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        reason = "importing it ended the process"
        try:
            reason = _import(module)
        finally:
            os.write(writing, b"!" + reason.encode(errors="backslashreplace")[: select.PIPE_BUF - 1])
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = answer.read1(select.PIPE_BUF)  # not to its end: a helper of the module may keep it open
    _, status = os.waitpid(pid, 0)
    for helper in set(children(os.getpid())) - before:
        os.kill(helper, signal.SIGKILL)
        os.waitpid(helper, 0)
    return said[1:].decode() if said else f"importing it ended the process (status {status})"


def count_threads() -> int:
    """Threads of this process, also those Python knows nothing of."""
    try:
        return len(os.listdir("/proc/self/task"))
    except FileNotFoundError:  # no /proc: only Python's own can be seen
        import threading

        return threading.active_count()


def open_gpus() -> set[str]:
    """GPU device files this process holds open: a sign of a live CUDA or ROCm context."""
    found = set()
    for fd in os.listdir("/dev/fd"):
        try:
            target = os.readlink(f"/dev/fd/{fd}")
        except OSError:
            continue  # the descriptor of this listing
        if target.startswith(("/dev/nvidia", "/dev/kfd", "/dev/dri/")):
            found.add(target)
    return found
