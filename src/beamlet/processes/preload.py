"""Modules imported once, before the first fork, and the judgement whether a process may still be forked then.

A fork copies one thread.  A module that has started others, or opened a GPU, works in the factory and hangs
or crashes in its children, unless it registers fork handlers.  So after each import the threads and the GPU
descriptors are counted, and what left any is named: its runtime environment must spawn instead.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from typing import NamedTuple

#: Leave threads behind and restart them in a fork. numpy: OpenBLAS registers pthread_atfork handlers; held by
#: tests/process/test_factory.py, which multiplies matrices in a child.
FORK_SAFE = frozenset({"numpy"})


class Unfit(NamedTuple):
    """A module that must not be imported before a fork."""

    module: str
    reason: str


def preload(modules: Iterable[str]) -> list[Unfit]:
    """Import ``modules`` here and return those whose users must be spawned instead of forked.

    A module that does not import is among them: what it needs may exist only in the worker's environment,
    and there the user sees the real traceback. Repeat-safe.
    """
    unfit = []
    for module in modules:
        threads, gpus = count_threads(), open_gpus()
        try:
            importlib.import_module(module)
        except Exception as error:
            unfit.append(Unfit(module, f"does not import here: {type(error).__name__}: {error}"))
            continue
        started, opened = count_threads() - threads, open_gpus() - gpus
        if started > 0 and module.partition(".")[0] not in FORK_SAFE:
            unfit.append(Unfit(module, f"importing it started {started} threads; a fork would lose them"))
        elif opened:
            unfit.append(
                Unfit(module, f"importing it opened {', '.join(sorted(opened))}; no fork can use that")
            )
    return unfit


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
