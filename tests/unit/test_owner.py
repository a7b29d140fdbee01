"""What owns objects, driven without sockets: gets, what comes and goes with values, borrowing, serving."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from beamlet.api.object_ref import ObjectRef
from beamlet.base.ids import Address, ObjectId, TaskId
from beamlet.core_worker.owning.borrowing import DeleteStored, Freed
from beamlet.core_worker.owning.object_record import INLINE, ObjectRecord
from beamlet.core_worker.owning.own_slab import Place
from beamlet.core_worker.owning.streams import Stream
from beamlet.exceptions import GetTimeoutError, ObjectLostError, RaySystemError, TaskCancelledError
from beamlet.protocol.node import DeleteObjects
from beamlet.protocol.peer import (
    AddBorrower,
    BorrowerAdded,
    GetObject,
    ObjectGone,
    ObjectStored,
    ObjectValue,
    RemoveBorrower,
    Yielded,
)
from beamlet.rpc.containment import Containment
from beamlet.serialization.values import dump_error, pack, serialize
from support.owner import NODE, OTHER_NODE, SELF, Owner, settled

OTHER = Address(b"o" * 32)
ONE, TWO = pickle.dumps(1, 5), pickle.dumps(2, 5)
TASK = TaskId(b"g" * 24)


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.close()


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
    owner.streams.take(owner.peers.get(OTHER), stream, Yielded(1, 1, ONE), 0)
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


class Moves:
    """The lock, for which another thread came first: it moved an object out of our slab."""

    def __init__(self, record: ObjectRecord) -> None:
        self._record = record

    def __enter__(self) -> None:
        self._record.payload, self._record.state, self._record.place = ONE, INLINE, None

    def __exit__(self, *_: object) -> None: ...


def test_a_value_that_moves_out_of_our_slab_while_it_is_got_is_found(owner: Owner) -> None:
    ref = owner.promise()
    record = owner.record(ref)
    owner.refs.set_stored(record, (), 4096, place=Place(0, 4096, 0))
    lock: Any = Moves(record)
    owner.objects.decoder._bare_lock = lock
    assert owner.objects.load(ref._id, record) == 1


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
