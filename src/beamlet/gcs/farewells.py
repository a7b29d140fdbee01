"""● Drivers that are about to leave, and which of their actors clean up before.

Keeps whom to tell when the last of them has ended; how they are told to end is the actor table's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from beamlet.base.ids import ActorId, Address


class Farewell(NamedTuple):
    """Which request to answer when these have ended."""

    req: int
    actors: set[ActorId]


class Farewells:
    def __init__(self, tell: Callable[[Address, int], None]) -> None:
        """``tell(driver, req)``: nobody is waited for any more."""
        self._tell = tell
        self._of: dict[Address, Farewell] = {}

    def begin(self, driver: Address, req: int, actors: Iterable[ActorId]) -> None:
        """It waits for these. To be followed by ``settle``, for there may be none."""
        self._of[driver] = Farewell(req, set(actors))

    def settle(self, driver: Address) -> None:
        """Tell it if nobody is left."""
        farewell = self._of.get(driver)
        if farewell is not None and not farewell.actors:
            del self._of[driver]
            self._tell(driver, farewell.req)

    def ended(self, driver: Address, actor_id: ActorId) -> None:
        """One of its actors has."""
        farewell = self._of.get(driver)
        if farewell is not None:
            farewell.actors.discard(actor_id)
            self.settle(driver)

    def is_awaited(self, driver: Address, actor_id: ActorId) -> bool:
        farewell = self._of.get(driver)
        return farewell is not None and actor_id in farewell.actors

    def gone(self, driver: Address) -> set[ActorId]:
        """The driver waits no longer; for whom it did."""
        farewell = self._of.pop(driver, None)
        return farewell.actors if farewell is not None else set()

    def check_invariants(
        self, is_gone: Callable[[Address], bool], lives: Callable[[ActorId], object]
    ) -> None:
        for driver, farewell in self._of.items():
            assert not is_gone(driver), "the dead wait for their actors"
            assert farewell.actors, "nobody is waited for, and the driver was not told"
            assert all(lives(actor_id) for actor_id in farewell.actors), "the dead are waited for"
