"""● Room for the unfinished frames of many connections: who may go on to send a large one, and who waits.

    begins ──room for all of it──► inside ──finished, or closed──► gone
      │                              ▲  └──nothing came for STALL_S while others wait──► cut off
      └────► waits, unread ──room────┘

Whoever is let in has room for its whole frame, so it can finish whatever the others do: there is no circle of
halves that wait for each other. Who waits is let in in the order of arrival, so none waits for ever. Frames
of up to FREE_BYTES always pass, and those of a few MiB, batches of many messages, have a quarter of the room
for themselves: nobody's ordinary messages wait behind large functions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct, field

#: Unfinished frames of so many bytes are nobody's concern.
FREE_BYTES = 1 << 20
#: Larger than any batch of messages that are not large themselves (rpc/batches.py).
_MIDDLE_BYTES = 12 << 20
#: Nothing may come for so long of a frame for whose room others wait.
STALL_S = 30.0
#: How often to look for that while somebody waits.
LOOK_S = 1.0


class Stream(Protocol):
    """What brings a frame."""

    @property
    def arrived_bytes(self) -> int:
        """How much of the unfinished frame is here."""

    def hold_back(self, held: bool) -> None:
        """Do not read on; or do again."""

    def cut_off(self, reason: str) -> None: ...


class Claim(Struct, eq=False):
    """A large frame that has begun."""

    stream: Stream
    size: int
    lane: _Lane
    is_inside: bool = False
    #: What had arrived at the last look, and since when it is so, or it is the first that waits; None: it was
    #: not looked at.
    arrived: int = 0
    since: float | None = None


class _Lane(Struct, eq=False):
    limit: int
    used: int = 0
    inside: dict[int, Claim] = {}
    waiting: deque[Claim] = field(default_factory=deque)

    def has_room(self, claim: Claim) -> bool:
        return self.used + claim.size <= self.limit

    def let_in(self, claim: Claim) -> None:
        self.used += claim.size
        claim.is_inside, claim.since = True, None
        self.inside[id(claim)] = claim

    def admit(self) -> None:
        while self.waiting and self.has_room(self.waiting[0]):
            claim = self.waiting.popleft()
            self.let_in(claim)
            claim.stream.hold_back(False)

    def worst(self, now: float) -> Claim | None:
        """Who is to be cut off: the largest that stalls, when nobody was let in for as long."""
        if not self.waiting:
            for claim in self.inside.values():
                claim.since = None
            return None
        first = self.waiting[0]
        first.since = now if first.since is None else first.since
        stalled = [claim for claim in self.inside.values() if _has_stalled(claim, now)]
        if not stalled or now - first.since < STALL_S:
            return None
        return max(stalled, key=lambda claim: claim.size)


class FrameBudget:
    """``limit`` bytes for all together.

    ``on_wait``: somebody waits; ``tick`` is to be called every LOOK_S until nobody does.
    """

    def __init__(self, limit: int, on_wait: Callable[[], None] = lambda: None) -> None:
        self._on_wait = on_wait
        self._middle = _Lane(limit // 4)
        self._large = _Lane(limit - limit // 4)

    @property
    def used(self) -> int:
        return self._middle.used + self._large.used

    @property
    def is_crowded(self) -> bool:
        """Somebody waits."""
        return bool(self._middle.waiting or self._large.waiting)

    def enter(self, stream: Stream, size: int) -> Claim:
        """A frame of ``size`` bytes has begun; ``stream`` is held back until there is room for it."""
        lane = self._middle if size <= min(_MIDDLE_BYTES, self._middle.limit) else self._large
        claim = Claim(stream, min(size, lane.limit), lane)  # the largest frame fits when it is alone
        if not lane.waiting and lane.has_room(claim):
            lane.let_in(claim)
        else:
            lane.waiting.append(claim)
            stream.hold_back(True)
            self._on_wait()
        return claim

    def leave(self, claim: Claim) -> None:
        """The frame is finished, or never will be."""
        lane = claim.lane
        if claim.is_inside:
            del lane.inside[id(claim)]
            lane.used -= claim.size
        else:
            lane.waiting.remove(claim)
        lane.admit()

    def tick(self, now: float) -> None:
        """Cut off who keeps others waiting for too long: one of each lane at a time, it may be enough."""
        for lane in (self._middle, self._large):
            if (worst := lane.worst(now)) is not None:
                worst.stream.cut_off(
                    f"of a message of {worst.size >> 20} MiB it sent {worst.arrived >> 20} MiB, and then "
                    f"nothing for {STALL_S:g} s, while others waited to send theirs"
                )

    def check_invariants(self) -> None:
        for lane in (self._middle, self._large):
            assert lane.used == sum(claim.size for claim in lane.inside.values()) <= lane.limit
            assert all(claim.is_inside for claim in lane.inside.values())
            assert not any(claim.is_inside for claim in lane.waiting)
            assert not lane.waiting or not lane.has_room(lane.waiting[0]), "there is room, and one waits"


def _has_stalled(claim: Claim, now: float) -> bool:
    arrived = claim.stream.arrived_bytes
    if claim.since is None or arrived != claim.arrived:
        claim.arrived, claim.since = arrived, now
    return now - claim.since >= STALL_S
