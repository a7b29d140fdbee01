"""A loop that the test turns by hand: what was asked for soon, and timers on a clock that stands still."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class HandTimer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class HandLoop:
    """Fits ``rpc.alarm.Clock``, ``rpc.loopback.Loop`` and ``raylet.lifelines.Loop``."""

    def __init__(self, now: float = 100.0) -> None:
        self._now = now
        self._soon: deque[Callable[[], None]] = deque()
        self.timers: list[HandTimer] = []
        #: To be called by the test.
        self.readers: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: int, on_readable: Callable[[], None]) -> None:
        assert fd not in self.readers
        self.readers[fd] = on_readable

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def now(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> HandTimer:
        timer = HandTimer(self._now + delay_s, callback)
        self.timers.append(timer)
        return timer

    def settle(self) -> None:
        """Until nothing is left to be done now."""
        while self._soon:
            self._soon.popleft()()

    def pass_time(self, seconds: float) -> None:
        """Timers ring at their times; what they cause happens before the next."""
        self.settle()
        end = self._now + seconds
        while due := [timer for timer in self.timers if timer.callback is not None and timer.when <= end]:
            timer = min(due, key=lambda each: each.when)
            self._now = max(self._now, timer.when)
            callback, timer.callback = timer.callback, None
            assert callback is not None
            callback()
            self.settle()
        self._now = end
        self.timers = [timer for timer in self.timers if timer.callback is not None]
