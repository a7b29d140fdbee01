"""What owns objects, driven without sockets: gets, waits, streams, errors, and what others are told."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from beamlet.api.object_ref import ObjectRef
from beamlet.base.ids import Address, ObjectId, TaskId
from beamlet.core_worker.owning import releases
from beamlet.core_worker.owning.borrowing import DeleteStored, Freed
from beamlet.core_worker.owning.streams import Stream
from beamlet.exceptions import GetTimeoutError, ObjectLostError, RaySystemError, TaskCancelledError
from beamlet.protocol.node import DeleteObjects
from beamlet.protocol.peer import (
    AddBorrower,
    BorrowerAdded,
    Consumed,
    GetObject,
    ObjectGone,
    ObjectStored,
    ObjectValue,
    ReleaseHold,
    RemoveBorrower,
    StoredAt,
    StreamDropped,
    Yielded,
)
from beamlet.rpc.containment import Containment
from beamlet.serialization.values import dump_error, pack, serialize
from support.owner import NODE, OTHER_NODE, SELF, Owner
from support.waiting import wait_until

OTHER = Address(b"o" * 32)
ONE, TWO = pickle.dumps(1, 5), pickle.dumps(2, 5)
TASK = TaskId(b"g" * 24)


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.close()


def settled(owner: Owner) -> list[ObjectId]:
    """What is still counted once everything dead was counted down."""
    gc.collect()
    owner.releases.drain()
    owner.refs.check_invariants()
    return list(owner.refs.objects)


def test_a_flood_of_dead_references_is_counted_down_in_steps(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    promised = [owner.promise(number) for number in range(10_000)]
    steps: list[int] = []
    release_many = owner.refs.release_many

    def count(ids: list[ObjectId]) -> None:
        steps.append(len(ids))
        release_many(ids)

    monkeypatch.setattr(owner.refs, "release_many", count)
    del promised
    owner.releases.drain()
    assert sum(steps) == 10_000
    assert max(steps) < 5_000
    assert not owner.refs.objects


# -- get ---------------------------------------------------------------------------------------------


def test_get_waits_for_what_is_missing_and_nothing_else(owner: Owner) -> None:
    here, late = owner.promise(1), owner.promise(2)
    owner.keep_promise(here, ONE)
    owner.blocking.script = [lambda: owner.keep_promise(late, TWO)]
    assert owner.objects.get([here, late], None) == [1, 2]
    assert owner.objects.get([here, late], 0.0) == [1, 2]
    assert owner.blocking.waits == 1


def test_a_list_may_name_a_reference_twice(owner: Owner) -> None:
    late, later = owner.promise(1), owner.promise(2)
    owner.blocking.script = [lambda: (owner.keep_promise(late, ONE), owner.keep_promise(later, TWO))]
    assert owner.objects.get([late, later, late], None) == [1, 2, 1]
    assert owner.blocking.waits == 1


def test_the_first_error_ends_a_get(owner: Owner) -> None:
    first, second = owner.promise(1), owner.promise(2)
    owner.blocking.script = [lambda: owner.keep_promise(second, dump_error(TaskCancelledError("ab")))]
    with pytest.raises(TaskCancelledError):
        owner.objects.get([first, second], None)
    assert not owner.record(first).waiters


def test_an_error_that_means_something_to_iterators_arrives(owner: Owner) -> None:
    first, second = owner.promise(1), owner.promise(2)
    owner.keep_promise(first, ONE)
    owner.keep_promise(second, dump_error(StopIteration("stop")))
    with pytest.raises(StopIteration, match="stop"):
        owner.objects.get([first, second], None)


def test_a_get_that_times_out_leaves_nothing_behind(owner: Owner) -> None:
    ref = owner.promise()
    with pytest.raises(GetTimeoutError, match="1 late"):
        owner.objects.get([ref], 1.0)
    assert not owner.record(ref).waiters


def test_a_reference_of_an_earlier_session_is_named(owner: Owner) -> None:
    ref = owner.promise()
    owner.refs.objects.clear()
    with pytest.raises(RaySystemError, match="earlier session"):
        owner.objects.get([ref], None)
    with pytest.raises(RaySystemError, match="earlier session"):
        owner.selecting.wait([ref], 1, None, True)


# -- wait --------------------------------------------------------------------------------------------


class CountedTable(dict[ObjectId, Any]):
    looks = 0

    def get(self, key: ObjectId, default: Any = None) -> Any:
        self.looks += 1
        return super().get(key, default)


def looks_of_a_loop(owner: Owner, count: int, order: list[int]) -> int:
    """How often ``wait`` looks at a reference until all of ``count`` were returned, as they get ready."""
    refs = [owner.promise(number) for number in range(count)]
    table = owner.selecting._table = CountedTable(owner.refs.objects)
    by_number = list(refs)
    owner.blocking.script = [lambda i=i: owner.keep_promise(by_number[i], ONE) for i in order]  # type: ignore[misc]
    returned = []
    while refs:
        ready, refs = owner.selecting.wait(refs, 1, None)
        returned += [by_number.index(ref) for ref in ready]
    assert returned == order
    return table.looks


@pytest.mark.parametrize("spread", [1, 7], ids=["in order", "mixed"])
def test_waiting_for_all_one_at_a_time_looks_at_each_a_few_times(owner: Owner, spread: int) -> None:
    def order(count: int) -> list[int]:
        return [at for start in range(0, count, spread) for at in reversed(range(start, start + spread))]

    few, many = looks_of_a_loop(owner, 210, order(210)), looks_of_a_loop(owner, 840, order(840))
    assert many <= 4.5 * few


def test_wait_returns_in_the_order_of_the_list_and_never_more_than_asked_for(owner: Owner) -> None:
    refs = [owner.promise(number) for number in range(100)]
    for number in (70, 3, 50):
        owner.keep_promise(refs[number], ONE)
    ready, rest = owner.selecting.wait(refs, 2, None)
    assert ready == [refs[3], refs[50]]
    assert rest == [ref for ref in refs if ref not in ready]
    assert owner.selecting.wait(rest, 2, 0)[0] == [refs[70]]


def test_a_wait_that_ends_early_leaves_nothing_behind(owner: Owner) -> None:
    refs = [owner.promise(number) for number in range(3)]
    assert owner.selecting.wait(refs, 2, 1.0) == ([], refs)
    assert not any(owner.record(ref).waiters for ref in refs)


def test_a_list_given_up_leaves_at_most_the_last_ones_registrations(owner: Owner) -> None:
    refs = [owner.promise(number) for number in range(200)]
    for _ in range(5):
        owner.selecting.wait(list(refs), 1, 1.0)
    assert all(len(owner.record(ref).waiters or ()) <= 1 for ref in refs)
    owner.selecting.wait(refs[:2], 1, 1.0)
    assert not any(owner.record(ref).waiters for ref in refs)


def test_a_returned_list_that_was_changed_in_place_is_seen_as_it_is(owner: Owner) -> None:
    refs = [owner.promise(number) for number in range(100)]
    owner.keep_promise(refs[0], ONE)
    _, rest = owner.selecting.wait(refs, 1, None)
    owner.selecting.wait(rest, 1, 1.0)  # registers all
    _, rest = owner.selecting.wait(rest, 1, 1.0)
    new = rest[40] = owner.promise(500)
    owner.keep_promise(new, ONE)
    assert owner.selecting.wait(rest, 1, None)[0] == [new]


def test_what_was_taken_out_of_a_returned_list_ends_no_wait_for_it(owner: Owner) -> None:
    """A loop that replaces a straggler: rest[i] = f.remote()."""
    refs = [owner.promise(number) for number in range(100)]
    _, rest = owner.selecting.wait(refs, 1, 1.0)
    straggler, rest[40] = rest[40], owner.promise(500)
    expected = rest[70]
    owner.blocking.script = [
        lambda: owner.keep_promise(straggler, ONE),
        lambda: owner.keep_promise(expected, ONE),
    ]
    assert owner.selecting.wait(rest, 1, None)[0] == [expected]
    assert not owner.blocking.script


def test_two_threads_may_wait_for_the_same_list(owner: Owner) -> None:
    """The second one comes while the first is in its wait: a nested call stands for it."""
    refs = [owner.promise(number) for number in range(100)]
    _, rest = owner.selecting.wait(refs, 1, 1.0)
    inner: list[Any] = []

    def second() -> None:
        owner.blocking.script.insert(0, lambda: owner.keep_promise(refs[9], ONE))
        inner.extend(owner.selecting.wait(rest, 1, None)[0])

    owner.blocking.script = [second]
    ready, _ = owner.selecting.wait(rest, 1, None)
    assert inner == ready == [refs[9]]


class Faulty:
    def __reduce__(self) -> Any:
        return divmod, (1, 0)


def test_a_value_that_cannot_be_unpickled_gives_back_the_counts_on_what_is_in_it(owner: Owner) -> None:
    inner = owner.promise(), owner.promise()
    parts = [ObjectRef(ref._id, SELF) for ref in inner]
    for ref in inner:
        owner.record(ref).local += 1
    outer = owner.promise()
    data = serialize([parts[0], Faulty(), parts[1]])
    del parts
    owner.refs.set_inline(owner.record(outer), pack(data), data.contained)
    del data
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            owner.objects.get([outer], None)
    owner.releases.drain()
    assert [owner.record(ref).local for ref in inner] == [1, 1]
    del inner, outer, ref
    assert not settled(owner)


def test_one_who_is_told_and_raises_does_not_lose_the_others(owner: Owner) -> None:
    said: list[str] = []
    owner.reactor.containment = Containment(said.append)
    ref, told = owner.promise(), []

    def faulty(_: Any) -> None:
        raise ZeroDivisionError

    for callback in (faulty, told.append):
        owner.objects.when_ready(ref._id, owner.record(ref), callback)
    owner.keep_promise(ref, ONE)
    assert told == [owner.record(ref)]
    stream = Stream(TASK, limit=-1)
    stream.waiters = {faulty: None, told.append: None}
    owner.streams.take(owner.peers.get(OTHER), stream, Yielded(1, 1, ONE))
    assert told[1:] == [stream]
    assert owner.reactor.containment.count == 2
    assert "telling who waits for an object" in said[0]


def test_an_effect_that_raises_does_not_lose_those_behind_it(owner: Owner) -> None:
    def faulty(*_: Any) -> None:
        raise ZeroDivisionError

    owner.releases.on_freed = faulty
    effects = [Freed(ObjectId(b"a" * 28), b""), DeleteStored(NODE, [ObjectId(b"b" * 28)])]
    owner.refs.outbox += effects
    with pytest.raises(ZeroDivisionError):
        owner.releases.perform()
    owner.releases.perform()
    assert owner.raylet.sent == [DeleteObjects(NODE, [ObjectId(b"b" * 28)])]


# -- coroutines --------------------------------------------------------------------------------------


def test_a_cancelled_await_leaves_nothing_behind(owner: Owner) -> None:
    ref = owner.promise()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(owner.futures.await_ref(ref), 0.001)

    asyncio.run(give_up())
    assert not owner.record(ref).waiters


def test_a_value_for_a_loop_that_is_closed_harms_nobody(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    ref = owner.promise()
    loop = asyncio.new_event_loop()
    task = loop.create_task(owner.futures.await_ref(ref))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    owner.keep_promise(ref, ONE)
    assert not caplog.text
    with pytest.raises(RuntimeError, match="closed"):
        task.cancel()


def test_a_loop_that_misbehaves_is_reported_and_harms_nobody(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    ref = owner.promise()
    loop = asyncio.new_event_loop()

    def refuse(*_: Any) -> None:
        raise ZeroDivisionError

    loop.call_soon_threadsafe = refuse  # type: ignore[assignment]
    task = loop.create_task(owner.futures.await_ref(ref))
    loop.run_until_complete(asyncio.sleep(0))
    owner.keep_promise(ref, ONE)
    wait_until(lambda: caplog.text, 10.0, "the log")  # in a thread of its own
    assert "ZeroDivisionError" in caplog.text
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()


def test_an_awaited_value_comes_back_through_the_loop(owner: Owner) -> None:
    ref = owner.promise()

    async def await_it() -> Any:
        task = asyncio.create_task(owner.futures.await_ref(ref))
        await asyncio.sleep(0)
        owner.keep_promise(ref, ONE)
        return await task

    assert asyncio.run(await_it()) == 1


def test_a_step_of_a_stream_that_is_given_up_leaves_nothing_behind(owner: Owner) -> None:
    stream = Stream(TASK, limit=-1)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(owner.streams.next_async(stream), 0.001)

    asyncio.run(give_up())
    with pytest.raises(GetTimeoutError):
        owner.streams.next(stream, 1.0)
    assert not stream.waiters


# -- borrowed ----------------------------------------------------------------------------------------


def test_the_owner_is_asked_once_however_many_wait(owner: Owner) -> None:
    other = owner.peers.get(OTHER)
    ref = owner.borrow(other)
    for _ in range(2):
        with pytest.raises(GetTimeoutError):
            owner.objects.get([ref], 0.0)
    assert [type(message) for message in other.sent] == [AddBorrower, GetObject]
    owner.ownership.handle(other, ObjectValue(ref._id, ONE))
    assert owner.objects.get([ref], None) == [1]


def test_a_borrowed_object_dropped_before_its_owner_answered_leaves_nothing(owner: Owner) -> None:
    other = owner.peers.get(OTHER)
    for _ in range(2):
        ref: Any = owner.borrow(other)
        with pytest.raises(GetTimeoutError):
            owner.objects.get([ref], 0.0)
        del ref
        assert not settled(owner)
    asked = [type(message) for message in other.sent]
    assert asked == [AddBorrower, GetObject, RemoveBorrower] * 2, "the owner may have freed it meanwhile"


def test_who_asks_twice_is_answered_once(owner: Owner) -> None:
    other = owner.peers.get(OTHER)
    ref = owner.promise()
    for _ in range(2):
        owner.ownership.handle(other, GetObject(ref._id))
    assert len(owner.record(ref).waiters or ()) == 1
    owner.keep_promise(ref, ONE)
    assert other.sent == [ObjectValue(ref._id, ONE)]


def test_what_the_owner_no_longer_has_is_lost(owner: Owner) -> None:
    other = owner.peers.get(OTHER)
    ref = owner.borrow(other)
    owner.blocking.script = [lambda: owner.ownership.handle(other, ObjectGone(ref._id, "it was freed"))]
    with pytest.raises(ObjectLostError) as lost:
        owner.objects.get([ref], None)
    assert "it was freed" in lost.value.__notes__[0]


def test_the_last_reference_is_taken_back_at_the_owner(owner: Owner) -> None:
    other = owner.peers.get(OTHER)
    ref = owner.borrow(other)
    owner.ownership.handle(other, BorrowerAdded(other.sent[0].token))
    object_id = ref._id
    del ref
    assert not settled(owner)
    assert other.sent[-1] == RemoveBorrower([object_id])


# -- serving -----------------------------------------------------------------------------------------


def test_who_asks_early_is_answered_when_the_value_comes(owner: Owner) -> None:
    other = owner.peers.get(OTHER)
    ref = owner.promise()
    owner.ownership.handle(other, GetObject(ref._id))
    assert not other.sent
    owner.keep_promise(ref, ONE)
    assert other.sent == [ObjectValue(ref._id, ONE)]


def test_an_object_that_is_not_here_is_said_to_be_gone(owner: Owner) -> None:
    other = owner.peers.get(OTHER)
    owner.ownership.handle(other, GetObject(ObjectId(b"x" * 28)))
    assert isinstance(other.sent[0], ObjectGone)


def test_a_stored_object_is_answered_with_its_place_and_deleted_there_in_the_end(owner: Owner) -> None:
    other = owner.peers.get(OTHER)
    ref = owner.promise()
    owner.refs.set_stored(owner.record(ref), (NODE, OTHER_NODE), 7)
    owner.ownership.handle(other, GetObject(ref._id))
    assert other.sent == [ObjectStored(ref._id, [NODE, OTHER_NODE], 7)]
    object_id = ref._id
    del ref
    assert not settled(owner)
    assert owner.raylet.sent == [DeleteObjects(NODE, [object_id]), DeleteObjects(OTHER_NODE, [object_id])]


# -- streams -----------------------------------------------------------------------------------------


def test_items_are_taken_in_order_and_a_limited_producer_hears_of_each(owner: Owner) -> None:
    producer = owner.peers.get(OTHER)
    stream = Stream(TASK, limit=2)
    owner.streams.take(producer, stream, Yielded(1, 1, ONE))
    owner.blocking.script = [
        lambda: owner.streams.take(producer, stream, Yielded(1, 2, TWO)),
        lambda: owner.streams.end(stream, None) and None,
    ]
    values = []
    while (ref := owner.streams.next(stream, None)) is not None:
        values += owner.objects.get([ref], None)
    assert values == [1, 2]
    assert producer.sent == [Consumed(TASK, 1), Consumed(TASK, 2)]
    del ref
    assert not settled(owner)


def test_items_that_a_second_attempt_stores_are_copies_or_deleted(owner: Owner) -> None:
    producer = owner.peers.get(OTHER)
    stream = Stream(TASK, limit=-1)
    for index in (1, 2):
        owner.streams.take(producer, stream, Yielded(1, index, StoredAt(NODE, 9)))
    first, second = owner.streams.next(stream, None), owner.streams.next(stream, None)
    ids = [first._id, second._id]
    del first
    assert settled(owner) == ids[1:]
    for index in (1, 2):
        owner.streams.take(producer, stream, Yielded(1, index, StoredAt(OTHER_NODE, 9)))
    assert owner.record(second).nodes == (NODE, OTHER_NODE)
    del second
    assert not settled(owner)
    deleted = {(message.node, i) for message in owner.raylet.sent for i in message.object_ids}
    assert deleted == {(node, i) for node in (NODE, OTHER_NODE) for i in ids}


def test_an_item_that_cannot_be_taken_is_that_error_and_the_others_come(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = owner.peers.get(OTHER)
    stream = Stream(TASK, limit=-1)

    def faulty(*_: Any) -> None:
        raise ZeroDivisionError("a mistake of ours")

    with monkeypatch.context() as broken:
        broken.setattr(owner.refs, "set_stored", faulty)
        with pytest.raises(ZeroDivisionError):  # contained by who called
            owner.streams.take(producer, stream, Yielded(1, 1, StoredAt(NODE, 9), hold=5))
    owner.streams.take(producer, stream, Yielded(1, 2, TWO))
    owner.streams.end(stream, None)
    first, second = owner.streams.next(stream, None), owner.streams.next(stream, None)
    with pytest.raises(RaySystemError, match="item 1 could not be taken: ZeroDivisionError"):
        owner.objects.get([first], None)
    assert owner.objects.get([second], None) == [2]
    assert owner.streams.next(stream, None) is None
    owner.releases.perform()
    assert owner.raylet.sent == [DeleteObjects(NODE, [first._id])]
    assert producer.sent == [ReleaseHold(5)]
    del first, second
    assert not settled(owner)


def test_items_of_an_attempt_that_crashed_are_not_taken_twice(owner: Owner) -> None:
    first, second = owner.peers.get(OTHER), owner.peers.get(Address(b"p" * 32))
    stream = Stream(TASK, limit=-1)
    owner.streams.take(first, stream, Yielded(1, 1, ONE))
    owner.streams.take(second, stream, Yielded(1, 1, ONE, hold=5))
    assert len(stream.ready) == 1
    owner.releases.perform()
    assert second.sent == [ReleaseHold(5)]


@pytest.mark.parametrize(
    ("limit", "read", "is_stopped"), [(2, False, True), (2, True, True), (-1, True, True), (-1, False, False)]
)
def test_a_dropped_generator_is_stopped_unless_it_was_called_for_what_it_does(
    owner: Owner, limit: int, read: bool, is_stopped: bool
) -> None:
    producer = owner.peers.get(OTHER)
    stream = Stream(TASK, limit)
    owner.streams.take(producer, stream, Yielded(1, 1, ONE))
    owner.streams.take(producer, stream, Yielded(1, 2, StoredAt(NODE, 9)))
    if read:
        owner.streams.next(stream, None)
    owner.streams.abandon(stream)
    assert owner.releases.is_due
    assert not settled(owner)
    owner.streams.take(producer, stream, Yielded(1, 3, StoredAt(NODE, 9)))
    assert not settled(owner)
    assert producer.sent.count(StreamDropped(TASK)) == is_stopped
    deleted = [i for message in owner.raylet.sent for i in message.object_ids]
    assert len(deleted) == len(set(deleted)) == 2


def test_a_signal_handler_in_the_middle_of_counting_down_may_count_down_the_rest(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(deque[Any]):
        def popleft(self) -> Any:
            taken = super().popleft()
            if len(self) == 2:
                owner.releases.drain()
            return taken

    refs = [owner.promise(number) for number in range(1, 5)]
    del refs
    gc.collect()
    monkeypatch.setattr(releases, "released", Interrupted(releases.released))
    assert not settled(owner)


def test_a_generator_dropped_before_its_first_item_is_stopped_at_that(owner: Owner) -> None:
    producer = owner.peers.get(OTHER)
    stream = Stream(TASK, limit=1)
    owner.streams.abandon(stream)
    owner.releases.drain()
    owner.streams.take(producer, stream, Yielded(1, 1, ONE))
    assert producer.sent == [StreamDropped(TASK)]


def test_a_generator_that_has_ended_is_not_told_to_stop(owner: Owner) -> None:
    producer = owner.peers.get(OTHER)
    stream = Stream(TASK, limit=1)
    owner.streams.take(producer, stream, Yielded(1, 1, ONE))
    owner.streams.end(stream, None)
    owner.streams.abandon(stream)
    assert not settled(owner)
    assert not producer.sent


# -- errors ------------------------------------------------------------------------------------------


def test_an_error_that_was_looked_at_is_not_told(owner: Owner, caplog: pytest.LogCaptureFixture) -> None:
    ref = owner.promise()
    payload = dump_error(ValueError("looked at"))
    owner.keep_promise(ref, payload)
    owner.unseen.failed("f", [ref._id], [owner.record(ref)], payload)
    with pytest.raises(ValueError, match="looked at"):
        owner.objects.get([ref], None)
    del ref
    assert not settled(owner)
    owner.unseen.tell_all()
    assert not caplog.text


def test_an_error_that_somebody_else_asked_for_is_theirs(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    ref = owner.promise()
    payload = dump_error(ValueError("theirs"))
    owner.keep_promise(ref, payload)
    owner.unseen.failed("f", [ref._id], [owner.record(ref)], payload)
    owner.ownership.handle(owner.peers.get(OTHER), GetObject(ref._id))
    owner.unseen.tell_all()
    assert not caplog.text


def test_errors_told_at_the_end_name_their_task(owner: Owner, caplog: pytest.LogCaptureFixture) -> None:
    ref: Any = owner.promise()
    payload = dump_error(RaySystemError(ValueError("lost")))
    owner.keep_promise(ref, payload)
    owner.unseen.failed("work", [ref._id], [owner.record(ref)], payload)
    owner.unseen.tell_all()
    assert "work failed, and nobody asked for its result" in caplog.text


class LookedAt(list[Any]):
    """Records of a failed task, and how often somebody looked whether they are gone."""

    looks = 0

    def __iter__(self) -> Iterator[Any]:
        LookedAt.looks += 1
        return super().__iter__()


def test_errors_that_wait_to_be_seen_cost_nothing_when_other_references_die(owner: Owner) -> None:
    payload = dump_error(ValueError("waits"))
    LookedAt.looks = 0
    failed = [owner.promise(number) for number in range(500)]
    for ref in failed:
        owner.keep_promise(ref, payload)
        owner.unseen.failed("f", [ref._id], LookedAt([owner.record(ref)]), payload)
    for number in range(1000, 1500):
        owner.promise(number)
        owner.releases.drain()
    assert LookedAt.looks <= 1000
    for ref in failed:
        owner.unseen.seen(ref._id)


def told(caplog: pytest.LogCaptureFixture) -> bool:
    """Once the thread that tells has ended."""
    for thread in threading.enumerate():
        if thread.name == "beamlet-errors":
            thread.join()
    return "nobody asked for its result" in caplog.text


@pytest.mark.parametrize("first", ["the reference", "the error"])
def test_an_error_is_told_when_its_last_reference_goes(
    owner: Owner, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    ref: Any = owner.promise()
    object_id, record = ref._id, owner.record(ref)
    payload = dump_error(RaySystemError("unseen"))
    if first == "the reference":
        ref = None
        owner.releases.drain()
    owner.unseen.failed("f", [object_id], [record], payload)
    if first == "the error":
        owner.releases.drain()
        assert not told(caplog)
        ref = None
    owner.releases.drain()
    assert told(caplog)


def test_an_error_let_go_with_a_value_around_it_is_told(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    ref: Any = owner.promise()
    outer: Any = owner.promise(1)
    payload = dump_error(RaySystemError("unseen"))
    owner.keep_promise(ref, payload)
    owner.unseen.failed("f", [ref._id], [owner.record(ref)], payload)
    owner.refs.set_inline(owner.record(outer), ONE, [(ref._id, SELF)])
    ref = None
    owner.releases.drain()
    outer = None
    owner.releases.drain()
    owner.unseen.look_round()
    assert told(caplog)
