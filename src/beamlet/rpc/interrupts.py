"""Ctrl-C while the main thread handles messages: noted, and acted on when no message is half handled.

Python runs signal handlers between any two bytecodes of the main thread.  A KeyboardInterrupt in the middle
of a batch would lose the rest of it, and a later ``get`` would wait for an answer that had already come.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal.signal() wraps it in enums: ten times the cost
import threading
from collections.abc import Callable
from typing import Any

_SIGINT = 2


class Interrupts:
    """Holds SIGINT back between ``hold`` and ``release``. ``wake`` ends the poll that is under way."""

    __slots__ = ("_main", "_previous", "_wake", "came")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._main = threading.main_thread().ident
        self._previous: Any = None
        #: SIGINT came since ``hold``.
        self.came = False

    def hold(self) -> bool:
        """From now on only note it. False where it does not come: another thread, or no handler in Python."""
        if threading.get_ident() != self._main:
            return False
        previous = _signal.getsignal(_SIGINT)
        if not callable(previous):
            return False
        self._previous = previous
        _signal.signal(_SIGINT, self._note)
        return True

    def release(self) -> None:
        """Back to the program's own handler, which is called now if the signal came: it usually raises."""
        _signal.signal(_SIGINT, self._previous)
        if self.came:
            self.came = False
            self._previous(_SIGINT, None)

    def _note(self, *_: Any) -> None:
        self.came = True
        self._wake()
