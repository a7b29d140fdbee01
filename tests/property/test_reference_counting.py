"""What a live reference can reach is never freed; when no reference is left, everything is freed everywhere.

Four processes with real ReferenceCounters on a fake wire; the shell around each is the smallest that plays by
the rules in the counter's docstring.  A crash may take with it what only the dead process kept for somebody
still registering: such objects are *excused* from then on, and nothing else is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from beamlet.base.ids import Address, NodeId, ObjectId
from beamlet.core_worker.owning.borrowing import (
    ArgumentsGuard,
    DeleteStored,
    Guard,
    ReplyMayGo,
    ResultsGuard,
    SendAddBorrower,
    SendReleaseHold,
    SendRemoveBorrower,
)
from beamlet.core_worker.owning.object_record import INLINE, LOST, PENDING, STORED, UNREGISTERED
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.protocol.peer import AddBorrower, BorrowerAdded, GetObject, ReleaseHold, RemoveBorrower
from beamlet.testing.fake_wire import FakeWire, PeerGone

ADDRESSES = [Address(name) for name in (b"ann", b"bob", b"cat", b"dan")]
NODE = NodeId(b"node")
Ref = tuple[ObjectId, Address]


class Task(NamedTuple):
    seq: int
    refs: list[Ref]


class Answer(NamedTuple):
    """A value or an error: both may contain references. ``again``: an error that is worth another attempt."""

    seq: int
    refs: list[Ref]
    hold: int
    again: bool = False


class Value(NamedTuple):
    object_id: ObjectId
    refs: list[Ref]


@dataclass
class Running:
    submitter: Address
    task: Task
    guard: ArgumentsGuard


@dataclass
class Process:
    address: Address
    world: World
    counter: ReferenceCounter = field(init=False)
    #: Live ObjectRef instances: in user code, in actor state, in the arguments of running tasks.
    roots: Counter[Ref] = field(default_factory=Counter)
    running: list[Running] = field(default_factory=list)
    #: seq → (executor, return id, arguments)
    submitted: dict[int, tuple[Address, ObjectId, list[ObjectId]]] = field(default_factory=dict)
    #: Answers that wait for ReplyMayGo.
    held_back: dict[int, tuple[Address, Answer]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counter = ReferenceCounter(self.address)

    def send(self, receiver: bytes, message: Any) -> None:
        self.world.wire.send(self.address, receiver, message)

    def perform(self) -> None:
        for effect in self.counter.take_effects():
            match effect:
                case SendAddBorrower(owner, token, ids):
                    self.send(owner, AddBorrower(token, list(ids)))
                case SendRemoveBorrower(owner, ids):
                    self.send(owner, RemoveBorrower(list(ids)))
                case SendReleaseHold(executor, hold):
                    self.send(executor, ReleaseHold(hold))
                case ReplyMayGo(reply):
                    self.send(*self.held_back.pop(reply))
                case DeleteStored(_, ids):
                    for object_id in ids:
                        self.world.stored.remove(object_id)

    def refs(self) -> list[Ref]:
        return [ref for ref, count in self.roots.items() if count]

    def drop(self, refs: list[Ref]) -> None:
        self.roots.subtract(refs)
        self.counter.release_many([ref[0] for ref in refs])

    def put(self, refs: list[Ref], stored: bool) -> Ref:
        ref = self.world.new_ref(self.address)
        record = self.counter.new_owned(ref[0])
        self.roots[ref] += 1
        self.set_value(ref[0], record, refs, stored, None)
        return ref

    def set_value(
        self, object_id: ObjectId, record: Any, refs: list[Ref], stored: bool, guard: Guard | None
    ) -> None:
        self.world.values[object_id] = self.world.promised[object_id] = refs
        if stored:
            self.world.stored.add(object_id)
            self.counter.set_stored(record, (NODE,), 1, refs, guard)
        else:
            self.counter.set_inline(record, b"value", refs, guard)
        for waiter in record.waiters or []:
            self.send(waiter, Value(object_id, refs))
        record.waiters = None

    def get(self, ref: Ref) -> None:
        record = self.counter.objects[ref[0]]
        if record.state in (INLINE, STORED) and ref[1] in self.world.wire.alive:
            self.decode(ref[0], self.world.values[ref[0]])
        elif record.state == PENDING and ref[1] != self.address:
            self.send(ref[1], GetObject(ref[0]))

    def decode(self, outer: ObjectId, refs: list[Ref]) -> None:
        self.counter.found_in_value(outer, refs)
        self.roots.update(refs)

    def submit(self, executor: Address, refs: list[Ref]) -> None:
        result = self.world.new_ref(self.address)
        self.counter.new_owned(result[0])
        self.roots[result] += 1
        seq = self.world.next_number()
        ids = [ref[0] for ref in refs]
        self.counter.add_submitted(ids)
        self.submitted[seq] = (executor, result[0], ids)
        self.send(executor, Task(seq, refs))

    def fail_for_argument(self, argument: Ref) -> None:
        """A task whose argument is an error is never sent: the error is its result, too."""
        record = self.counter.objects[argument[0]]
        if record.state not in (INLINE, STORED) or argument[1] not in self.world.wire.alive:
            return
        result = self.world.new_ref(self.address)
        record = self.counter.new_owned(result[0])
        self.roots[result] += 1
        self.counter.add_submitted([argument[0]])
        guard = self.counter.guard_copies(argument[0])
        refs = self.world.values[argument[0]]
        self.set_value(result[0], record, refs, stored=False, guard=guard)
        self.counter.settle(guard)
        self.counter.remove_submitted([argument[0]])

    def finish(
        self,
        running: Running,
        keep: list[Ref],
        returned: list[Ref],
        made: Iterable[Ref] = (),
        again: bool = False,
    ) -> None:
        """The task ends: of its arguments and what it made it keeps some (actor state), and returns some."""
        self.running.remove(running)
        hold = self.counter.hold_results(running.submitter, returned, running.guard)
        dropped = Counter([*running.task.refs, *made]) - Counter(keep)
        self.drop(list(dropped.elements()))
        answer = Answer(running.task.seq, returned, hold, again)
        if self.counter.task_finished(running.guard):
            self.perform()
            self.send(running.submitter, answer)
        else:
            self.held_back[running.guard.reply] = (running.submitter, answer)
        self.perform()

    def receive(self, sender: Address, message: Any) -> None:
        counter = self.counter
        match message:
            case AddBorrower(token, ids):
                self.send(sender, BorrowerAdded(token, counter.add_borrower(sender, ids)))
            case BorrowerAdded(token, missing):
                counter.registered(token, missing)
            case RemoveBorrower(ids):
                counter.remove_borrower(sender, ids)
            case ReleaseHold(hold):
                counter.release_hold(hold)
            case Task():
                guard = ArgumentsGuard(self.world.next_number(), [ref[0] for ref in message.refs])
                counter.found_in_arguments(guard, message.refs)
                self.roots.update(message.refs)
                self.running.append(Running(sender, message, guard))
            case Answer():
                self.answered(sender, message)
            case GetObject(object_id):
                self.asked(sender, object_id)
            case Value(object_id, refs):
                if (record := counter.objects.get(object_id)) is not None and record.local:
                    counter.set_inline(record, b"value")
                    self.decode(object_id, refs)
            case PeerGone(peer):
                self.mourn(Address(peer))
        self.perform()

    def answered(self, executor: Address, answer: Answer) -> None:
        guard = ResultsGuard(executor, answer.hold)
        if answer.again:
            self.counter.settle(guard)
            refs = [(i, self.world.owners[i]) for i in self.submitted[answer.seq][2]]
            self.send(executor, Task(answer.seq, refs))
            return
        _, result, ids = self.submitted.pop(answer.seq)
        record = self.counter.objects.get(result)
        if record is not None:
            self.set_value(result, record, answer.refs, stored=answer.seq % 2 == 0, guard=guard)
        self.counter.settle(guard)
        self.counter.remove_submitted(ids)

    def asked(self, borrower: Address, object_id: ObjectId) -> None:
        record = self.counter.objects.get(object_id)
        if record is None or record.state == LOST:
            return  # the borrower dropped it meanwhile, or is excused
        if record.state == PENDING:
            record.waiters = [*(record.waiters or []), borrower]
        else:
            self.send(borrower, Value(object_id, self.world.values[object_id]))

    def mourn(self, peer: Address) -> None:
        self.counter.peer_gone(peer)
        for seq in [seq for seq, task in self.submitted.items() if task[0] == peer]:
            _, result, ids = self.submitted.pop(seq)
            if (record := self.counter.objects.get(result)) is not None:
                self.counter.set_inline(record, b"error")
                self.world.values[result] = []
            self.counter.remove_submitted(ids)


class World:
    def __init__(self) -> None:
        self.wire: FakeWire[Any] = FakeWire(list(ADDRESSES))
        self.processes = {address: Process(address, self) for address in ADDRESSES}
        #: What each value contains, whoever owns it.
        self.values: dict[ObjectId, list[Ref]] = {}
        #: The same, but known as soon as the executor ended.
        self.promised: dict[ObjectId, list[Ref]] = {}
        #: Objects in the arena, which outlives the processes.
        self.stored: set[ObjectId] = set()
        self.excused: set[ObjectId] = set()
        self.owners: dict[ObjectId, Address] = {}
        self._number = 0

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def new_ref(self, owner: Address) -> Ref:
        object_id = ObjectId(b"o%d" % self.next_number())
        self.owners[object_id] = owner
        return object_id, owner

    def reaches(self, refs: list[Ref], target: ObjectId) -> bool:
        found = [ref[0] for ref in refs]
        for object_id in found:
            found.extend(i for i, _ in self.promised.get(object_id, []) if i not in found)
        return target in found

    def alive(self) -> list[Process]:
        return [self.processes[Address(address)] for address in self.wire.alive]

    def deliver(self, link: tuple[bytes, bytes]) -> None:
        self.processes[Address(link[1])].receive(Address(link[0]), self.wire.take(link))

    def crash(self, victim: Process, keep: int) -> None:
        exposed = {ref[0] for message in self.wire.in_flight() for ref in getattr(message, "refs", [])}
        for process in self.alive():
            records = process.counter.objects.items()
            exposed.update(i for i, r in records if r.owner and r.borrow >= UNREGISTERED)
            exposed.update(r[0] for _, answer in process.held_back.values() for r in answer.refs)
        self.excuse(exposed & victim.counter.objects.keys())
        self.wire.crash(victim.address, keep)

    def excuse(self, ids: set[ObjectId]) -> None:
        found = list(ids - self.excused)
        self.excused.update(found)
        for object_id in found:
            inner = {ref[0] for ref in self.values.get(object_id, [])} - self.excused
            self.excused.update(inner)
            found.extend(inner)

    def check_nothing_reachable_is_freed(self) -> None:
        for process in self.alive():
            for object_id, owner in process.refs():
                assert process.counter.objects[object_id].local == process.roots[object_id, owner]
        arguments = [i for p in self.alive() for task in p.submitted.values() for i in task[2]]
        owners = {i: p.address for p in self.alive() for i, r in p.counter.objects.items() if not r.owner}
        reached = dict.fromkeys([ref[0] for p in self.alive() for ref in p.refs()] + arguments)
        queue = list(reached)
        dead = {a for a in ADDRESSES if a not in self.wire.alive}
        for object_id in queue:
            if object_id in self.excused or self.owner_is(object_id, dead):
                continue
            assert object_id in owners, f"{object_id!r} can be reached and was freed by its owner"
            record = self.processes[owners[object_id]].counter.objects[object_id]
            assert record.state != LOST
            if record.state == STORED:
                assert object_id in self.stored, f"{object_id!r} can be reached and was deleted"
            for inner in record.contains:
                if inner not in reached:
                    reached[inner] = None
                    queue.append(inner)

    def owner_is(self, object_id: ObjectId, dead: set[Address]) -> bool:
        return self.owners[object_id] in dead


class ReferencesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def some(self, data: st.DataObject, refs: list[Ref], most: int = 3) -> list[Ref]:
        return data.draw(st.lists(st.sampled_from(refs), max_size=most)) if refs else []

    def someone(self, data: st.DataObject) -> Process:
        return data.draw(st.sampled_from(self.world.alive()))

    @rule(data=st.data(), stored=st.booleans())
    def put(self, data: st.DataObject, stored: bool) -> None:
        process = self.someone(data)
        process.put(self.some(data, process.refs()), stored)
        process.perform()

    @rule(data=st.data())
    def get(self, data: st.DataObject) -> None:
        process = self.someone(data)
        for ref in self.some(data, process.refs(), 1):
            process.get(ref)
        process.perform()

    @rule(data=st.data())
    def submit(self, data: st.DataObject) -> None:
        process = self.someone(data)
        process.submit(self.someone(data).address, self.some(data, process.refs()))
        process.perform()

    @rule(data=st.data())
    def fail_for_argument(self, data: st.DataObject) -> None:
        process = self.someone(data)
        for ref in self.some(data, process.refs(), 1):
            process.fail_for_argument(ref)
        process.perform()

    @precondition(lambda self: any(process.running for process in self.world.alive()))
    @rule(data=st.data(), makes_one=st.booleans(), again=st.booleans())
    def finish(self, data: st.DataObject, makes_one: bool, again: bool) -> None:
        process = data.draw(st.sampled_from([p for p in self.world.alive() if p.running]))
        running = data.draw(st.sampled_from(process.running))
        made = [process.put(self.some(data, process.refs(), 1), stored=True)] if makes_one else []
        # Counting never frees a cycle: a task handed the reference to its own result does not return it.
        result = self.world.processes[running.submitter].submitted[running.task.seq][1]
        chosen = made + self.some(data, process.refs(), 2)
        returned = [ref for ref in chosen if not self.world.reaches([ref], result)]
        if not again:
            self.world.promised[result] = returned
        process.finish(running, self.some(data, running.task.refs + made, 2), returned, made, again)

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        process = self.someone(data)
        in_arguments = Counter(ref for running in process.running for ref in running.task.refs)
        for ref in self.some(data, list(+(process.roots - in_arguments)), 1):
            process.drop([ref])
        process.perform()

    @precondition(lambda self: self.world.wire.ready())
    @rule(data=st.data(), how_many=st.integers(1, 4))
    def deliver(self, data: st.DataObject, how_many: int) -> None:
        for _ in range(how_many):
            if links := self.world.wire.ready():
                self.world.deliver(data.draw(st.sampled_from(links)))

    @precondition(lambda self: len(self.world.alive()) > 2)
    @rule(data=st.data(), keep=st.integers(0, 2), sure=st.integers(0, 3))
    def crash(self, data: st.DataObject, keep: int, sure: int) -> None:
        if sure == 3:
            self.world.crash(self.someone(data), keep)

    @invariant()
    def nothing_reachable_is_freed(self) -> None:
        for process in self.world.alive():
            process.counter.check_invariants()
        self.world.check_nothing_reachable_is_freed()

    def teardown(self) -> None:
        """End all tasks, drop all references, let the network drain: nothing may be left."""
        world = self.world
        for _ in range(1000):
            for process in world.alive():
                for running in list(process.running):
                    process.finish(running, keep=[], returned=[])
                process.drop(list(process.roots.elements()))
                process.perform()
            if not (links := world.wire.ready()):
                break
            world.deliver(links[0])
        assert not world.wire.ready()
        for process in world.alive():
            counter = process.counter
            counter.check_invariants()
            assert not counter.objects, f"{process.address!r} still has {counter.objects}"
            assert not any((counter._registrations, counter.held_results, counter.lent, counter._borrowed))
            assert not process.held_back
        super().teardown()


TestReferenceCounting = ReferencesMachine.TestCase
TestReferenceCounting.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_an_outer_value_guards_a_third_partys_reference_on_slow_links() -> None:
    """The race random walks seldom meet: dan's AddBorrower to bob is slow, ann could let go fast."""
    world = World()
    ann, bob, cat, dan = world.alive()
    inner = bob.put([], stored=True)
    bob.submit(ann.address, [inner])
    world.deliver((b"bob", b"ann"))
    outer = ann.put([inner], stored=True)
    ann.finish(ann.running[0], keep=[], returned=[])
    while links := world.wire.ready():
        world.deliver(links[0])
    bob.drop(bob.refs())
    ann.submit(dan.address, [outer])
    ann.drop([outer])
    ann.perform()
    world.deliver((b"ann", b"dan"))
    dan.get(outer)
    world.deliver((b"dan", b"ann"))
    world.deliver((b"ann", b"dan"))
    dan.finish(dan.running[0], keep=[], returned=[])
    while links := [link for link in world.wire.ready() if link != (b"dan", b"bob")]:
        world.deliver(links[0])
        world.check_nothing_reachable_is_freed()
    assert outer[0] in ann.counter.objects
    while links := world.wire.ready():
        world.deliver(links[0])
        world.check_nothing_reachable_is_freed()
    assert dan.refs() == [inner]
    assert outer[0] not in ann.counter.objects
    assert not cat.counter.objects
