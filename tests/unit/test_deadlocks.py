"""Circles of waiting calls: every one is found, nothing else is, whatever order messages arrive in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from beamlet.base.ids import Address, ObjectId, TaskId, task_of_object
from beamlet.core_worker.waiting.deadlocks import Blocker, DeadlockDetector, Lead, Wait, describe
from beamlet.core_worker.waiting.waits import Waits
from beamlet.protocol.peer import WaitStep
from beamlet.testing.fake_wire import FakeWire
from support.owner import Owner


@dataclass
class Call:
    number: int
    process: Address
    #: Calls that it waits for, all of them; none: it runs.
    needs: list[int]
    #: Its wait, once begun.
    wait: Wait | None = None
    finished: bool = False

    @property
    def task_id(self) -> TaskId:
        return TaskId(self.number.to_bytes(24, "little"))


def result_of(call: int) -> ObjectId:
    return ObjectId(call.to_bytes(24, "little") + b"\1\0\0\0")


class World:
    """Calls in processes. A result is owned by the process that first needs it; others must ask there."""

    def __init__(self, processes: int, calls: list[tuple[int, list[int]]]) -> None:
        self.addresses = [Address(b"p%d" % i) for i in range(processes)]
        self.calls = [Call(i, self.addresses[where], needs) for i, (where, needs) in enumerate(calls)]
        self.owner: dict[int, Address] = {}
        for call in self.calls:
            for need in call.needs:
                self.owner.setdefault(need, call.process)
        self.wire: FakeWire[object] = FakeWire([bytes(a) for a in self.addresses])
        self.detectors = {a: DeadlockDetector(a, Process(self, a)) for a in self.addresses}
        self.doomed: list[Call] = []
        self.clock = 0.0

    def block(self, call: Call) -> None:
        if call.needs and call.wait is None:
            self.clock += 1.0
            objects = tuple(result_of(n) for n in call.needs)
            call.wait = self.detectors[call.process].began(
                call.task_id, f"c{call.number}", "app.py:1", self.clock, objects
            )

    def finish(self, call: Call) -> None:
        """Only a call that waits for nothing unfinished can finish."""
        if call.finished or any(not self.calls[n].finished for n in call.needs):
            return
        call.finished = True
        if call.wait is not None:
            self.detectors[call.process].ended(call.wait)

    def probe(self, call: Call) -> None:
        if call.wait is not None and not call.finished:
            self.detectors[call.process].probe(call.wait)
            self.collect(call.process)

    def deliver(self, which: int) -> None:
        links = self.wire.ready()
        if links:
            link = links[which % len(links)]
            self.detectors[Address(link[1])].received(self.wire.take(link))  # type: ignore[arg-type]
            self.collect(Address(link[1]))

    def collect(self, address: Address) -> None:
        detector = self.detectors[address]
        for receiver, message in detector.outbox:
            self.wire.send(bytes(address), bytes(receiver), message)
        detector.outbox.clear()
        for wait in detector.doomed:
            call = self.calls[int.from_bytes(wait.task_id, "little")]
            assert self.is_in_circle(call), f"false alarm: {wait.verdict}"
            self.doomed.append(call)
        detector.doomed.clear()

    def settle(self) -> None:
        while self.wire.ready():
            self.deliver(0)

    def reachable(self, start: Call) -> set[int]:
        seen: set[int] = set()
        frontier = [start]
        while frontier:
            call = frontier.pop()
            for need in call.needs if call.wait is not None and not call.finished else []:
                if need not in seen:
                    seen.add(need)
                    frontier.append(self.calls[need])
        return seen

    def is_in_circle(self, call: Call) -> bool:
        return call.number in self.reachable(call)


@dataclass
class Process:
    world: World
    address: Address
    asked: list[ObjectId] = field(default_factory=list)

    def leads(self, objects: Sequence[ObjectId]) -> list[Lead]:
        found = []
        for object_id in objects:
            number = int.from_bytes(object_id[:24], "little")
            call, owner = self.world.calls[number], self.world.owner[number]
            if owner != self.address:
                found.append(Lead(owner, object_id=object_id))
            elif not call.finished:
                found.append(Lead(call.process, call.task_id, f"c{number}"))
        return found

    def blocker(self, task_id: TaskId) -> Blocker | None:
        call = self.world.calls[int.from_bytes(task_id, "little")]
        if call.finished or call.wait is None:
            return None
        return Blocker(call.wait.number)


def run_all(world: World) -> None:
    for call in world.calls:
        world.block(call)
    for call in world.calls:
        world.probe(call)
    world.settle()


def test_a_call_that_waits_for_itself() -> None:
    world = World(1, [(0, [0])])
    run_all(world)
    assert [call.number for call in world.doomed] == [0]


def test_two_calls_in_two_processes_and_only_the_younger_fails() -> None:
    world = World(2, [(0, [1]), (1, [0])])
    run_all(world)
    assert [call.number for call in world.doomed] == [1]
    wait = world.calls[1].wait
    assert wait is not None
    assert "c1 (app.py:1) waits for c0" in wait.verdict
    assert "c0 (app.py:1) waits for c1" in wait.verdict


def test_who_merely_waits_for_a_circle_is_left_alone() -> None:
    world = World(3, [(0, [1]), (1, [0]), (2, [0])])
    run_all(world)
    assert [call.number for call in world.doomed] == [1]


def test_a_chain_is_no_circle() -> None:
    world = World(3, [(0, [1]), (1, [2]), (2, [])])
    run_all(world)
    assert not world.doomed


def test_a_wait_that_ended_while_the_probe_was_on_its_way() -> None:
    world = World(2, [(0, [1]), (1, [2]), (0, [])])
    for call in world.calls:
        world.block(call)
    world.probe(world.calls[0])
    world.finish(world.calls[2])
    world.finish(world.calls[1])
    world.settle()
    assert not world.doomed


def test_a_circle_that_closes_after_the_first_probe_is_found_by_the_next() -> None:
    world = World(2, [(0, [1]), (1, [0])])
    world.block(world.calls[0])
    world.probe(world.calls[0])
    world.settle()
    world.block(world.calls[1])
    world.probe(world.calls[0])
    world.settle()
    assert not world.doomed, "the older wait leaves it to the younger"
    world.probe(world.calls[1])
    world.settle()
    assert [call.number for call in world.doomed] == [1]


def test_a_circle_of_thousands_in_one_process_is_walked_without_recursion() -> None:
    count = 1_200
    world = World(1, [(0, [(number + 1) % count]) for number in range(count)])
    for call in world.calls:
        world.block(call)
    world.probe(world.calls[-1])
    assert [call.number for call in world.doomed] == [count - 1]


class Chain:
    """Tasks of ours, each with the one before as its argument; the first runs at a worker."""

    def __init__(self, owner: Owner, length: int) -> None:
        self.refs = [owner.promise(number) for number in range(length)]
        self.tasks: dict[TaskId, Any] = {}
        for number, ref in enumerate(self.refs):
            spec = SimpleNamespace(task_id=task_of_object(ref._id), name=f"step {number}", deps=[0][:number])
            held = [self.refs[number - 1]._id] if number else []
            self.tasks[spec.task_id] = SimpleNamespace(spec=spec, unresolved=len(held), held=held, deps=held)
        self.looks = 0

    def worker_of(self, task: Any) -> Any:
        self.looks += 1
        assert not task.unresolved
        return SimpleNamespace(address=b"worker")


def test_a_long_chain_of_tasks_leads_to_the_one_that_runs() -> None:
    owner = Owner()
    chain = Chain(owner, 3_000)
    any_: Any = chain
    waits = Waits(owner.reactor, owner.peers, owner.refs, any_, any_, SimpleNamespace(links={}))  # type: ignore[arg-type]
    objects = [ref._id for ref in chain.refs]
    first = Lead(Address(b"worker"), task_of_object(objects[0]), "step 0")
    assert waits.leads(objects[-1:]) == [first]
    assert waits.leads(list(reversed(objects))) == [first]
    assert chain.looks == 2, "each task is followed once, however many ways lead to it"
    owner.close()


def test_a_diamond_costs_one_message_a_wait() -> None:
    """Each wait passes one initiator's probe on once a round, however many ways lead to it."""
    layers = 12
    calls = [(0, [1, 2])]
    for layer in range(layers):
        below = [2 * layer + 3, 2 * layer + 4]
        calls += [(1, below), (1, below)]
    calls += [(1, []), (1, [])]
    world = World(2, calls)
    for call in world.calls:
        world.block(call)
    world.probe(world.calls[0])
    steps = 0
    while world.wire.ready():
        world.deliver(0)
        steps += 1
    assert steps <= 4 * len(calls)


def test_the_text_of_a_call_that_queues_behind_itself() -> None:
    step = WaitStep(Address(b"p"), 1, 0.0, "A.outer", "app.py:6", "A.inner", "queues behind A.outer here")
    text = describe([step])
    assert text.startswith("A.outer (app.py:6) waits for A.inner, which queues behind it here. To break")


graphs = st.integers(2, 7).flatmap(
    lambda count: st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.integers(0, count - 1), max_size=3, unique=True)),
        min_size=count,
        max_size=count,
    )
)
actions = st.lists(st.tuples(st.sampled_from("bpdf"), st.integers(0, 30)), max_size=60)


@settings(max_examples=150, deadline=None)
@given(graphs, actions)
def test_any_order_of_events(calls: list[tuple[int, list[int]]], steps: list[tuple[str, int]]) -> None:
    """No false alarm on the way (``collect`` asserts it); at the end every circle has its victim."""
    world = World(3, calls)
    for what, number in steps:
        call = world.calls[number % len(world.calls)]
        if what == "d":
            world.deliver(number)
        else:
            {"b": world.block, "p": world.probe, "f": world.finish}[what](call)
    for call in world.calls:
        world.block(call)
    for call in sorted(world.calls, key=lambda call: -call.number):
        world.probe(call)
        world.settle()
    victims = {call.number for call in world.doomed}
    for call in world.calls:
        if world.is_in_circle(call):
            assert victims & {n for n in world.reachable(call) if world.is_in_circle(world.calls[n])}


def test_all_waits_of_a_process_can_be_looked_up_until_they_end() -> None:
    world = World(1, [(0, [0])])
    world.block(world.calls[0])
    detector = world.detectors[world.addresses[0]]
    wait = world.calls[0].wait
    assert wait is not None
    assert list(detector.waits.values()) == [wait]
    detector.ended(wait)
    detector.probe(wait)
    assert not detector.waits
    assert not detector.outbox
