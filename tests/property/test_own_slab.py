"""A process's own slab under random takers, executors and deaths, against what each of them was told."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from beamlet.core_worker.owning.own_slab import AskSlab, GiveSlab, OwnSlab, Place

PAGE = 4096
EXECUTORS = [b"one", b"two", b"three"]


class OwnSlabMachine(RuleBasedStateMachine):
    """The raylet answers as it likes; work, views and executors come and go."""

    @initialize()
    def start(self) -> None:
        self.own = OwnSlab(16 * PAGE)
        self.asked = False
        #: (offset, size) of the slab that the raylet thinks is ours.
        self.leased: tuple[int, int] | None = None
        self.next_offset = 0
        #: Each place that somebody uses, and how often it is wanted, viewed, read.
        self.used: dict[int, tuple[Place, Counter[str]]] = {}

    def perform(self) -> None:
        outbox, self.own.outbox = self.own.outbox, []
        for effect in outbox:
            if isinstance(effect, AskSlab):
                assert not self.asked, "it asks twice"
                assert self.leased is None, "it has one"
                self.asked = True
            else:
                assert isinstance(effect, GiveSlab)
                assert self.leased is not None
                assert effect.offset == self.leased[0]
                assert not self.used, "somebody still uses it"
                self.leased = None

    @precondition(lambda self: self.asked)
    @rule(pages=st.integers(2, 16), warm=st.integers(0, 16 * PAGE))
    def granted(self, pages: int, warm: int) -> None:
        self.asked = False
        self.next_offset += 64 * PAGE
        self.leased = self.next_offset, pages * PAGE
        self.own.came(self.next_offset, pages * PAGE, min(warm, pages * PAGE))

    @precondition(lambda self: self.asked)
    @rule()
    def refused(self) -> None:
        self.asked = False
        self.own.refused()

    @rule(size=st.integers(1, 10 * PAGE))
    def take(self, size: int) -> None:
        place = self.own.take(size)
        self.perform()
        if place is None:
            return
        assert self.leased is not None
        start, length = self.leased
        assert start <= place.offset
        assert place.offset + place.size <= start + length
        assert place.size >= size
        for other, _ in self.used.values():
            apart = other.offset + other.size <= place.offset or place.offset + place.size <= other.offset
            assert apart, "somebody uses that"
        self.used[id(place)] = place, Counter({"wants": 1})

    def some(self, data: Any, kind: str) -> tuple[Place, Counter[str]] | None:
        having = [entry for entry in self.used.values() if not kind or entry[1][kind]]
        return data.draw(st.sampled_from(having)) if having else None

    def less(self, place: Place, counts: Counter[str], kind: str) -> None:
        counts[kind] -= 1
        if not +counts:
            del self.used[id(place)]

    @rule(data=st.data())
    def want_more(self, data: Any) -> None:
        if (entry := self.some(data, "")) is not None:
            entry[0].wants += 1
            entry[1]["wants"] += 1

    @rule(data=st.data())
    def let_go(self, data: Any) -> None:
        if (entry := self.some(data, "wants")) is not None:
            self.less(*entry, "wants")
            self.own.let_go(entry[0])
            self.perform()

    @rule(data=st.data())
    def view(self, data: Any) -> None:
        if (entry := self.some(data, "wants")) is not None:
            entry[0].views += 1
            entry[1]["views"] += 1

    @rule(data=st.data())
    def view_ends(self, data: Any) -> None:
        if (entry := self.some(data, "views")) is not None:
            self.less(*entry, "views")
            self.own.view_ended(entry[0])
            self.perform()

    @rule(data=st.data(), executor=st.sampled_from(EXECUTORS))
    def lend(self, data: Any, executor: bytes) -> None:
        if (entry := self.some(data, "wants")) is not None:
            entry[0].lend(executor)
            entry[1][executor.decode()] += 1

    @rule(data=st.data(), executor=st.sampled_from(EXECUTORS))
    def answered(self, data: Any, executor: bytes) -> None:
        if (entry := self.some(data, executor.decode())) is not None:
            self.less(*entry, executor.decode())
            self.own.answered([entry[0]], executor)
            self.perform()

    @rule(executor=st.sampled_from(EXECUTORS))
    def executor_dies(self, executor: bytes) -> None:
        for place, counts in list(self.used.values()):
            if counts[executor.decode()]:
                counts[executor.decode()] = 1
                self.less(place, counts, executor.decode())
        self.own.died(executor)
        self.perform()

    @rule()
    def recalled(self) -> None:
        self.own.recall()
        self.perform()
        assert self.used or self.leased is None, "others wait, and it is empty"

    @rule(times=st.integers(1, 12))
    def time_passes(self, times: int) -> None:
        for _ in range(times):
            self.own.tick()
            self.perform()
        assert times < 12 or self.used or self.leased is None, "an idle slab is kept"

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "own"):
            self.own.check_invariants()
            assert len(self.own) == len(self.used), "free and used disagree"


TestOwnSlab = OwnSlabMachine.TestCase
TestOwnSlab.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
