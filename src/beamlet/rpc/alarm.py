"""One timer that fires at the earliest of the times it was asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Cancellable(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """Of the reactor; a simulation has its own."""

    def now(self) -> float: ...
    def call_later(self, delay_s: float, callback: Callable[[], None], /) -> Cancellable: ...


class Alarm:
    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._timer: Cancellable | None = None
        self._when = 0.0

    def by(self, when: float | None) -> None:
        """Ring at ``when`` (monotonic seconds) at the latest; None asks for nothing."""
        if when is None or (self._timer is not None and self._when <= when):
            return
        self.cancel()
        self._when = when
        self._timer = self._clock.call_later(max(0.0, when - self._clock.now()), self._fire)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._ring()
