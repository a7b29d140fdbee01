"""● Asks everybody one question and waits for all answers, or until patience ends: one round at a time.

    ask ──► round 1: everybody is asked ──all told, or late──► those who wanted to know are answered
    ask ──► waits for round 2, which begins then: what was told before it was asked is not news

However many want to know at once, everybody is asked once a round, so a flood of questions costs what the
rounds cost.  ``P``: whoever is asked. ``A``: whoever wants to know.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from msgspec import Struct

P = TypeVar("P", bound=Hashable)
A = TypeVar("A")


class Ask(Struct, Generic[P], frozen=True):
    """To be sent to ``parties``, who answer with ``round``."""

    round: int
    parties: list[P]


class Answered(Struct, Generic[P, A], frozen=True):
    """These can be answered now; ``silent`` did not tell in time."""

    askers: list[A]
    silent: list[P]


class RollCall(Generic[P, A]):
    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._round = 0
        #: Who has not told yet in the round under way.
        self._missing: dict[P, None] = {}
        self._askers: list[A] = []
        self._deadline: float | None = None
        #: Who wants to know in the next round.
        self._next: list[A] = []

    @property
    def deadline(self) -> float | None:
        """When ``tick`` is due; None between rounds."""
        return self._deadline

    def waiting(self) -> list[A]:
        return [*self._askers, *self._next]

    def ask(self, asker: A, parties: Iterable[P], now: float) -> list[Ask[P] | Answered[P, A]]:
        self._next.append(asker)
        return self._begin(parties, now) if self._deadline is None else []

    def told(self, party: P, round: int, parties: Iterable[P], now: float) -> list[Ask[P] | Answered[P, A]]:
        """``parties``: whom to ask in the round that may follow."""
        return self.gone(party, parties, now) if round == self._round else []

    def gone(self, party: P, parties: Iterable[P], now: float) -> list[Ask[P] | Answered[P, A]]:
        """It will tell nothing any more."""
        if self._deadline is None or party not in self._missing:
            return []
        del self._missing[party]
        return self._end(parties, now) if not self._missing else []

    def tick(self, parties: Iterable[P], now: float) -> list[Ask[P] | Answered[P, A]]:
        late = self._deadline is not None and now >= self._deadline
        return self._end(parties, now) if late else []

    def forget(self, is_gone: A) -> None:
        """``is_gone`` does not want to know any more."""
        self._askers = [each for each in self._askers if each != is_gone]
        self._next = [each for each in self._next if each != is_gone]

    def _begin(self, parties: Iterable[P], now: float) -> list[Ask[P] | Answered[P, A]]:
        self._round += 1
        self._askers, self._next = self._next, []
        self._missing = dict.fromkeys(parties)
        self._deadline = now + self._patience_s
        if not self._missing:
            return self._end((), now)
        return [Ask(self._round, list(self._missing))]

    def _end(self, parties: Iterable[P], now: float) -> list[Ask[P] | Answered[P, A]]:
        done = Answered(self._askers, list(self._missing))
        self._askers, self._missing, self._deadline = [], {}, None
        return [done, *(self._begin(parties, now) if self._next else [])]
