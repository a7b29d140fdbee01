"""How a workload is timed: warm up, repeat for a set time, keep every sample.

It decides how often a body is repeated and what counts as one sample; the median is taken by `summary`.
Uses the standard library alone, because it also runs in Ray's own virtual environment.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Made = TypeVar("Made")

#: A block of calls timed together lasts about this long, so that reading the clock costs nothing visible.
BLOCK_S = 0.02

#: The share of the measuring time that is spent warming up first.
WARM_UP_SHARE = 0.3


class Meter:
    """Times bodies for about `seconds` each and returns one sample per block of calls."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = seconds
        self._clock = clock

    def rate(self, body: Callable[[], object], operations: int = 1) -> list[float]:
        """Operations per second, one sample per block; one call of `body` does `operations` of them."""
        calls_per_block = self._warm_up(body)
        samples: list[float] = []
        end = self._clock() + self.seconds
        while not samples or self._clock() < end:
            took_s = self._time_block(body, calls_per_block)
            samples.append(calls_per_block * operations / took_s)
        return samples

    def rate_making(
        self, make: Callable[[], Made], unmake: Callable[[Made], object], operations: int = 1
    ) -> list[float]:
        """Like `rate`, for what leaves something behind: removing that is not timed. There is no warm-up."""
        samples: list[float] = []
        end = self._clock() + self.seconds
        while not samples or self._clock() < end:
            started = self._clock()
            made = make()
            samples.append(operations / (self._clock() - started))
            unmake(made)
        return samples

    def once(self, body: Callable[[], object]) -> float:
        """The seconds that one call takes, without any warm-up."""
        started = self._clock()
        body()
        return self._clock() - started

    def each(self, body: Callable[[], object], warm_up: int, calls: int) -> list[float]:
        """The seconds of each of `calls` calls after `warm_up` others, however long that takes."""
        for _ in range(warm_up):
            body()
        return [self.once(body) for _ in range(calls)]

    def _warm_up(self, body: Callable[[], object]) -> int:
        """Call `body` for a share of the measuring time; say how many calls fill a block."""
        calls = 0
        started = self._clock()
        elapsed_s = 0.0
        while calls == 0 or elapsed_s < self.seconds * WARM_UP_SHARE:
            body()
            calls += 1
            elapsed_s = self._clock() - started
        return max(1, int(BLOCK_S * calls / max(elapsed_s, 1e-9)))

    def _time_block(self, body: Callable[[], object], calls: int) -> float:
        repeats = range(calls)
        started = self._clock()
        for _ in repeats:
            body()
        return self._clock() - started
