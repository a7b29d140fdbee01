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
