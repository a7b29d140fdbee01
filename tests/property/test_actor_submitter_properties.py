"""Calls of an actor that may restart at any moment: in order, one at a time, each ending exactly once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beamlet.base.ids import ActorId, Address
from beamlet.core_worker.submitting.actor_submitter import ActorLink, LinkState
from beamlet.core_worker.submitting.pending import PendingCall
from beamlet.protocol.gcs import ActorUpdate
from support.tasks import SentMessages, a_call

ACTOR = ActorId(b"a" * 16)
ACTIONS = [
    *["submit", "submit", "resolve", "answer", "answer"],
    *["alive", "connect", "alive", "connect", "restarting", "lose", "cancel", "say_it_again"],
]
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1000)), max_size=80)


class World:
    def __init__(self, ordered: bool) -> None:
        self.link = ActorLink(ACTOR, "Counter")
        self.link.ordered = ordered
        self.incarnation = 0
        self.wire = SentMessages()
        self.calls: list[PendingCall] = []
        #: Names of calls in the order in which they ended.
        self.ended: list[str] = []
        self.last: ActorUpdate | None = None

    def do(self, action: str, number: int) -> None:
        getattr(self, action)(number)
        self.link.check_invariants()
        link = self.link
        held = [*link.waiting(), *link.in_flight.values(), *link.interrupted]
        assert sorted([*(call.spec.name for call in held), *self.ended]) == sorted(
            call.spec.name for call in self.calls
        ), "each call is at exactly one place"

    def end(self, calls: list[PendingCall]) -> None:
        self.ended += [call.spec.name for call in calls]

    def submit(self, number: int) -> None:
        call = a_call(f"{len(self.calls):04}", retries=number % 3 - 1, unresolved=int(number % 4 == 0))
        self.calls.append(call)
        if not self.link.submit(call):
            assert self.link.state is LinkState.RESTARTING
            assert call.spec.method.max_task_retries == 0
            self.end([call])

    def resolve(self, number: int) -> None:
        waiting = [call for call in self.calls if call.unresolved]
        if waiting:
            call = waiting[number % len(waiting)]
            call.unresolved = 0
            if call in self.link.waiting():
                self.link.resolved(call)

    def answer(self, _: int) -> None:
        if self.link.in_flight:
            call = self.link.answered(next(iter(self.link.in_flight)))
            assert call is not None
            self.end([call])

    def cancel(self, number: int) -> None:
        call = self.calls[number % len(self.calls)] if self.calls else None
        found = self.link.find(call.spec.task_id) if call is not None else None
        if found is None or found.spec.name in self.ended:
            return
        assert found is call
        found.unwanted = True
        if not found.seq:
            self.link.drop(found)
            self.end([found])

    def tell(self, state: str) -> None:
        self.last = ActorUpdate(ACTOR, state, Address(b"w%d" % self.incarnation), self.incarnation)
        address, failed = self.link.update(self.last)
        assert (address is not None) == (self.link.state is LinkState.CONNECTING and state == "ALIVE")
        self.end(failed)

    def alive(self, _: int) -> None:
        if self.link.incarnation < self.incarnation or self.link.state in (
            LinkState.WAITING,
            LinkState.RESTARTING,
            LinkState.LOST,
        ):
            self.incarnation = max(self.incarnation, self.link.incarnation + 1)
            self.tell("ALIVE")

    def connect(self, _: int) -> None:
        if self.link.state is LinkState.CONNECTING:
            self.wire = SentMessages()
            self.link.connected(self.wire)

    def restarting(self, _: int) -> None:
        if self.link.incarnation == self.incarnation:
            self.incarnation += 1
            self.tell("RESTARTING")

    def lose(self, _: int) -> None:
        self.link.lost()

    def say_it_again(self, _: int) -> None:
        """The last update once more, in a state that it cannot change."""
        if self.last is not None and self.link.state in (
            LinkState.READY,
            LinkState.WAITING,
            LinkState.RESTARTING,
        ):
            before = self.link.state
            if not (before is LinkState.READY and self.last.state == "RESTARTING"):
                self.end(self.link.update(self.last)[1])
                assert self.link.state is before


@given(STEPS)
def test_an_ordered_actor_sees_calls_in_their_order_at_every_start(steps: list[tuple[str, int]]) -> None:
    world = World(ordered=True)
    for action, number in steps:
        world.do(action, number)
        names = world.wire.names()
        assert names == sorted(names), "sent out of order on one connection"
        assert len(names) == len(set(names)), "sent twice on one connection"
    world.tell("DEAD")
    assert sorted(world.ended) == [call.spec.name for call in world.calls]


@given(STEPS)
def test_calls_that_need_no_order_go_as_soon_as_they_can(steps: list[tuple[str, int]]) -> None:
    world = World(ordered=False)
    for action, number in steps:
        world.do(action, number)
        if world.link.state is LinkState.READY:
            assert all(call.unresolved for call in world.link.waiting())
    world.tell("DEAD")
    assert sorted(world.ended) == [call.spec.name for call in world.calls]


@given(STEPS)
def test_retries_are_counted(steps: list[tuple[str, int]]) -> None:
    world = World(ordered=True)
    for action, number in steps:
        world.do(action, number)
    for number, call in enumerate(world.calls):
        assert call.retries_left >= -1, f"call {number} was tried more often than it may be"
