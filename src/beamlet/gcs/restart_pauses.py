"""● When an actor that keeps dying soon after its start is started again: not at once for ever.

One whose constructor, or whose first call, ends its process would be started a hundred times a second, for as
long as ``max_restarts`` allows: with -1, until its job ends.  The first few restarts follow at once, and so
does that of an actor that has lived; the others wait twice as long each time.  One for which no process could
be had, which may be so for a while, is placed anew after the longest pause.
"""

from __future__ import annotations

from beamlet.base.ids import ActorId
from beamlet.gcs.actor_record import ActorRecord

#: A process that ended sooner after it was given the actor says that something is wrong.
SHORT_LIFE_S = 1.0
#: So many such lives in a row are made good at once.
AT_ONCE = 5
FIRST_PAUSE_S = 0.1
#: Once a second costs next to nothing, and where actors are killed on purpose, to see what happens, all that
#: waits for them waits so much longer: with 5 s three programs that did so stood still for 20.
LONGEST_PAUSE_S = 1.0


class RestartPauses:
    def __init__(self) -> None:
        #: When the next incarnation may be placed.
        self._due: dict[ActorId, float] = {}

    def begin(self, record: ActorRecord, now: float) -> float:
        """The actor's process has died: how many seconds to wait before the next is started."""
        if record.recycling:
            return 0.0  # somebody wanted it to
        lived_s = now - record.placed_at
        record.short_lives = record.short_lives + 1 if lived_s < SHORT_LIFE_S else 0
        excess = record.short_lives - AT_ONCE
        if excess <= 0:
            return 0.0
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(excess - 1, 10), LONGEST_PAUSE_S)
        self._due[record.spec.actor_id] = now + pause_s
        return pause_s

    def begin_again(self, record: ActorRecord, now: float) -> None:
        """There was no process for it."""
        self._due[record.spec.actor_id] = now + LONGEST_PAUSE_S

    def over(self, now: float) -> list[ActorId]:
        """Those whose pause is over; some may have ended meanwhile."""
        over = [actor_id for actor_id, when in self._due.items() if when <= now]
        for actor_id in over:
            del self._due[actor_id]
        return over

    @property
    def next_end(self) -> float | None:
        return min(self._due.values(), default=None)
