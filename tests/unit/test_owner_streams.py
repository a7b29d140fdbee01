"""What owns objects, driven without sockets: items of generators, taken, dropped, stopped."""

from __future__ import annotations

import gc
import pickle
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from beamlet.base.ids import Address, TaskId
from beamlet.core_worker.owning import releases
from beamlet.core_worker.owning.streams import Stream
from beamlet.exceptions import RaySystemError
from beamlet.protocol.node import DeleteObjects
from beamlet.protocol.peer import Consumed, ReleaseHold, StoredAt, StreamDropped, Yielded
from support.owner import NODE, OTHER_NODE, Owner, settled
from support.tasks import a_task

OTHER = Address(b"o" * 32)
ONE, TWO = pickle.dumps(1, 5), pickle.dumps(2, 5)
TASK = TaskId(b"g" * 24)


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.close()


def test_items_are_taken_in_order_and_a_limited_producer_hears_of_each(owner: Owner) -> None:
    producer = owner.peers.get(OTHER)
    stream = Stream(TASK, limit=2)
    owner.streams.take(producer, stream, Yielded(1, 1, ONE), 0)
    owner.blocking.script = [
        lambda: owner.streams.take(producer, stream, Yielded(1, 2, TWO), 0),
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
        owner.streams.take(producer, stream, Yielded(1, index, StoredAt(NODE, 9)), 0)
    first, second = owner.streams.next(stream, None), owner.streams.next(stream, None)
    ids = [first._id, second._id]
    del first
    assert settled(owner) == ids[1:]
    for index in (1, 2):
        owner.streams.take(producer, stream, Yielded(1, index, StoredAt(OTHER_NODE, 9)), 1)
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
            owner.streams.take(producer, stream, Yielded(1, 1, StoredAt(NODE, 9), hold=5), 0)
    owner.streams.take(producer, stream, Yielded(1, 2, TWO), 0)
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
    owner.streams.take(first, stream, Yielded(1, 1, ONE), 0)
    owner.streams.take(second, stream, Yielded(1, 1, ONE, hold=5), 1)
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
    owner.streams.take(producer, stream, Yielded(1, 1, ONE), 0)
    owner.streams.take(producer, stream, Yielded(1, 2, StoredAt(NODE, 9)), 0)
    if read:
        owner.streams.next(stream, None)
    owner.streams.abandon(stream)
    assert owner.releases.is_due
    assert not settled(owner)
    owner.streams.take(producer, stream, Yielded(1, 3, StoredAt(NODE, 9)), 0)
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
    owner.streams.take(producer, stream, Yielded(1, 1, ONE), 0)
    assert producer.sent == [StreamDropped(TASK)]


def test_a_generator_that_has_ended_is_not_told_to_stop(owner: Owner) -> None:
    producer = owner.peers.get(OTHER)
    stream = Stream(TASK, limit=1)
    owner.streams.take(producer, stream, Yielded(1, 1, ONE), 0)
    owner.streams.end(stream, None)
    owner.streams.abandon(stream)
    assert not settled(owner)
    assert not producer.sent


@pytest.mark.parametrize("limit", [1, 3])
def test_a_second_attempt_by_the_same_process_hears_how_far_the_program_has_read(
    owner: Owner, limit: int
) -> None:
    """It counts from nothing, and would wait for ever for what was read before it began."""
    producer = owner.peers.get(OTHER)
    stream = Stream(TASK, limit)
    owner.streams.take(producer, stream, Yielded(1, 1, ONE), 0)
    owner.streams.take(producer, stream, Yielded(1, 2, TWO), 0)
    read = [owner.streams.next(stream, None)]
    producer.sent.clear()
    for attempt in (1, 2):
        owner.streams.take(producer, stream, Yielded(attempt + 1, 1, ONE), attempt)
        owner.streams.take(producer, stream, Yielded(attempt + 1, 2, TWO), attempt)
        assert producer.sent == [Consumed(TASK, 1)]
        producer.sent.clear()
    read.append(owner.streams.next(stream, None))
    assert producer.sent == [Consumed(TASK, 2)]
    assert len(stream.ready) == 0, "no item comes twice"
    owner.streams.take(producer, stream, Yielded(4, 1, ONE), 3)
    assert producer.sent == [Consumed(TASK, 2)] * 2
    read.clear()
    assert not settled(owner)


@pytest.mark.parametrize("is_read", [False, True])
def test_each_attempt_of_a_dropped_generator_is_stopped_also_in_the_same_process(
    owner: Owner, is_read: bool
) -> None:
    """The first word may have come before it began, when nobody there knew it."""
    producer = owner.peers.get(OTHER)
    stream = Stream(TASK, limit=1)
    owner.streams.take(producer, stream, Yielded(1, 1, ONE), 0)
    if is_read:
        owner.streams.next(stream, None)
    owner.streams.abandon(stream)
    assert not settled(owner)
    for attempt in (1, 2):
        producer.sent.clear()
        owner.streams.take(producer, stream, Yielded(1, 1, ONE), attempt)
        owner.streams.take(producer, stream, Yielded(1, 2, TWO), attempt)
        assert producer.sent == [StreamDropped(TASK)]
    assert not settled(owner)


@pytest.mark.parametrize(
    ("limit", "is_read", "is_stopped"), [(1, False, True), (-1, True, True), (-1, False, False)]
)
def test_a_generator_that_is_stopped_is_given_no_further_attempt(
    owner: Owner, limit: int, is_read: bool, is_stopped: bool
) -> None:
    work = a_task("g")
    stream = Stream(TASK, limit, work)
    if is_read:
        owner.streams.take(owner.peers.get(OTHER), stream, Yielded(1, 1, ONE), 0)
        owner.streams.next(stream, None)
    owner.streams.abandon(stream)
    assert not settled(owner)
    assert work.unwanted is is_stopped
    owner.streams.end(stream, None)
    assert stream.work is None, "a generator that is kept does not keep the arguments"
