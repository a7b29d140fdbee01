"""Memory that the process freed goes back to the machine, when there was a lot of it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import cache

#: Python 3.12 starts with some hundred objects of its own frozen, to no purpose; others with none.
_FROZEN_BY_PYTHON = 1000 if sys.version_info[:2] == (3, 12) else 0


def give_back_memory() -> None:
    """Have the interpreter and the C library return what they keep for later.

    The library keeps up to twice as much as the largest block it ever got back: a driver that had a million
    tasks in flight had 86 MB when all were freed, of which 38 MB were nobody's.
    """
    _empty_free_lists()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """The library's function, glibc's alone. Each look-up makes classes, which would stay in the way."""
    import ctypes  # 5 ms and 1 MB: only for those who had so much

    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def _empty_free_lists() -> None:
    """Dead floats, lists and tuples that the interpreter keeps for use each hold a MiB that is empty else.

    Only a full collection frees them. With everything set aside there is nothing for it to look at, so it
    takes no time, however many objects the user has.
    """
    if gc.get_freeze_count() <= _FROZEN_BY_PYTHON:  # otherwise the user's own would thaw with ours
        gc.freeze()
        gc.collect()
        gc.unfreeze()
