"""One timer that fires at the earliest of the times it was asked for."""

from __future__ import annotations

from collections.abc import Callable

from beamlet.rpc.reactor import Reactor, Timer


class Alarm:
    def __init__(self, reactor: Reactor, ring: Callable[[], None]) -> None:
        self._reactor = reactor
        self._ring = ring
        self._timer: Timer | None = None
        self._when = 0.0

    def by(self, when: float | None) -> None:
        """Ring at ``when`` (monotonic seconds) at the latest; None asks for nothing."""
        if when is None or (self._timer is not None and self._when <= when):
            return
        self.cancel()
        self._when = when
        self._timer = self._reactor.call_later(max(0.0, when - self._reactor.now()), self._fire)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._ring()
