"""The lock that guards what handlers touch, one per core worker: what was queued under it leaves with it."""

from __future__ import annotations

import _thread
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

from beamlet.base.stack_room import FOR_A_SECTION

if TYPE_CHECKING:
    from beamlet.rpc.turns import SharedReactor


class CoreLock(_thread.RLock):  # type: ignore[misc]  # CPython's can be derived from
    """The lock of a core worker. What was queued under it is on its way when it is let go."""

    def __init__(self, reactor: SharedReactor) -> None:
        self._reactor = reactor

    @property
    def is_held_here(self) -> bool:
        """By the calling thread."""
        return bool(self._is_owned())  # type: ignore[attr-defined]  # threading.Condition relies on it, too

    def step_aside(self) -> bool | None:
        """The calling thread, which may lead, is about to run a signal's handler. For ``step_back``."""
        return self._reactor.step_aside()

    def step_back(self, led: bool | None) -> None:
        self._reactor.step_back(led)

    def __enter__(self) -> bool:  # type: ignore[override]
        # What fits in here fits where it is let go, which takes as many frames; see also StackRoom.
        if FOR_A_SECTION.may_lack():
            FOR_A_SECTION.demand()
        return bool(self.acquire())

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            reactor = self._reactor
            if reactor.dirty or reactor._soon:
                reactor.leave()
        finally:
            self.release()


def without_leaving(lock: CoreLock) -> AbstractContextManager[object]:
    """The same lock for ``with``, in C alone: nothing leaves when it is let go."""
    in_c: Any = super(CoreLock, lock)
    kind = type("BareCoreLock", (), {"__slots__": (), "__enter__": in_c.__enter__, "__exit__": in_c.__exit__})
    return cast("AbstractContextManager[object]", kind())
