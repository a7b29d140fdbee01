"""Notices when a call keeps an async actor's event loop to itself, and says which line it was.

The loop reports when it runs code of users and when it is back; whoever does the reactor's idle work looks at
how long that has been.  What it sees of the loop's stack is told once the loop is back, when it is known how
long it took: once per line, and only if other calls waited, or the line waits in ``get``.
"""

from __future__ import annotations

import asyncio
import linecache
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import NamedTuple

from beamlet.base.our_folder import OUR_FOLDER

logger = logging.getLogger("beamlet")

#: A loop that is away for longer is looked at.
STALL_S = 1.0


class Sighting(NamedTuple):
    """What the loop's thread was seen doing."""

    name: str
    filename: str
    line: int
    is_get: bool
    #: Other calls of the actor that were unfinished then.
    others: int


class LoopWatch:
    """``name_of(asyncio task)``: the call it runs. ``unfinished()``: how many calls the actor has."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name_of: Callable[[asyncio.Task[None]], str],
        unfinished: Callable[[], int],
    ) -> None:
        self._loop = loop
        self._name_of = name_of
        self._unfinished = unfinished
        #: Since when users' code runs (monotonic); 0.0 while the loop waits.
        self._away_since = 0.0
        self._sighting: Sighting | None = None
        self._told: set[tuple[str, int]] = set()

    # -- on the loop's thread --------------------------------------------------------------------

    def back(self) -> None:
        """The loop has run what was ready."""
        if self._sighting is not None:
            self._tell(self._sighting, monotonic() - self._away_since)
            self._sighting = None
        self._away_since = 0.0

    def away(self) -> None:
        """The loop goes to run what is ready."""
        self._away_since = monotonic()

    # -- on any thread ---------------------------------------------------------------------------

    def look(self) -> None:
        """Now and then: has it been away for long?"""
        away_since = self._away_since
        if not away_since or self._sighting is not None or monotonic() - away_since < STALL_S:
            return
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        if task is not None and frame is not None:
            self._sighting = _sight(frame, self._name_of(task), self._unfinished() - 1)

    def _tell(self, seen: Sighting, seconds: float) -> None:
        others = seen.others
        if (seen.filename, seen.line) in self._told or (others <= 0 and not seen.is_get):
            return
        self._told.add((seen.filename, seen.line))
        where = f"{Path(seen.filename).name}:{seen.line}"
        source = linecache.getline(seen.filename, seen.line).strip()
        waited = f"{others} other call{'s' if others != 1 else ''} waited"
        remedy = (
            "Use `await ref` instead of get."
            if seen.is_get
            else "Await something asynchronous instead (asyncio.sleep), or asyncio.to_thread(…)."
        )
        doing = "in beamlet.get" if seen.is_get else f"in `{source}`" if source else ""
        logger.warning(
            "%s blocked its event loop for %.1f s %s (%s); %s. %s",
            seen.name,
            seconds,
            doing,
            where,
            waited,
            remedy,
        )


def _sight(frame: FrameType, name: str, others: int) -> Sighting | None:
    """The innermost line that is not ours; None if it is all ours."""
    is_get = False
    current: FrameType | None = frame
    while current is not None and current.f_code.co_filename.startswith(OUR_FOLDER):
        is_get = is_get or current.f_code.co_name in ("get", "wait")
        current = current.f_back
    if current is None:
        return None
    return Sighting(name, current.f_code.co_filename, current.f_lineno, is_get, max(0, others))
