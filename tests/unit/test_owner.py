"""What owns objects, driven without sockets: gets, waits, streams, errors, and what others are told."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from beamlet.base.ids import Address, ObjectId, TaskId
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
from beamlet.serialization.values import dump_error
from support.owner import NODE, Owner

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


# -- get ---------------------------------------------------------------------------------------------


def test_get_waits_for_what_is_missing_and_nothing_else(owner: Owner) -> None:
    here, late = owner.promise(1), owner.promise(2)
    owner.keep_promise(here, ONE)
    owner.blocking.script = [lambda: owner.keep_promise(late, TWO)]
    assert owner.objects.get([here, late], None) == [1, 2]
    assert owner.objects.get([here, late], 0.0) == [1, 2]
    assert owner.blocking.waits == 1


def test_the_first_error_ends_a_get(owner: Owner) -> None:
    first, second = owner.promise(1), owner.promise(2)
    owner.blocking.script = [lambda: owner.keep_promise(second, dump_error(TaskCancelledError("ab")))]
    with pytest.raises(TaskCancelledError):
        owner.objects.get([first, second], None)
    assert not owner.record(first).waiters


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
        owner.objects.wait([ref], 1, None, True)


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
    owner.refs.set_stored(owner.record(ref), NODE, 7)
    owner.ownership.handle(other, GetObject(ref._id))
    assert other.sent == [ObjectStored(ref._id, NODE, 7)]
    object_id = ref._id
    del ref
    assert not settled(owner)
    assert owner.raylet.sent == [DeleteObjects(NODE, [object_id])]


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
