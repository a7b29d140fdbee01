"""● Whether the stack has room: RecursionError must come before our books are touched, not amid them.

Asked on the way of every call, so it is asked in C: 3.11 counts C's calls as Python's, and a check of types
that nests deep enough fails by itself; from 3.12 on a frame so far up can be asked for without an exception.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any


def _nested(depth: int) -> Any:
    nested: Any = ()
    for _ in range(depth):
        nested = (nested,)
    return nested


class StackRoom:
    """Room for so many frames of ours below the one that asks.

    ``may_lack()`` is fast: it raises RecursionError, or returns something true, if it may be lacking; only in
    the latter case ``demand`` knows.  ``is_lacking`` is for those who want to be told.
    """

    __slots__ = ("_frames", "may_lack")

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self.may_lack: Callable[[], object]
        if sys.version_info >= (3, 12):
            self._look_at(sys.getrecursionlimit())
        else:
            self.may_lack = partial(isinstance, None, _nested(frames))

    if sys.version_info >= (3, 12):

        def _look_at(self, limit: int) -> None:
            self.may_lack = partial(sys._getframemodulename, max(0, limit - self._frames))

        def demand(self) -> None:
            """Raises RecursionError. The limit may have been raised since we were made."""
            self._look_at(sys.getrecursionlimit())
            if self.may_lack():
                raise RecursionError("maximum recursion depth exceeded: Beamlet has no room for its own work")

        def is_lacking(self) -> bool:
            if not self.may_lack():
                return False
            self._look_at(sys.getrecursionlimit())
            return bool(self.may_lack())

    else:

        def demand(self) -> None:
            """``may_lack`` has raised already."""

        def is_lacking(self) -> bool:
            try:
                self.may_lack()
            except RecursionError:
                return True
            return False


#: For a call of the API, and for what is done under the core worker's lock: so deep they go, and a few more.
#: The former is larger, so that whoever began can tidy up.
FOR_A_CALL = StackRoom(40)
FOR_A_SECTION = StackRoom(24)
