"""Objects of a store: created, sealed, pinned, deleted, evicted; clients that vanish half-way."""

from __future__ import annotations

from typing import Any

import pytest

from beamlet.base.ids import Address, ObjectId
from beamlet.object_store.allocator import Allocator
from beamlet.object_store.lifecycle import ObjectState, StoredObject, StoreLifecycle
from beamlet.object_store.outcomes import Answer, Created, CreateRequest, Located, Missing, StoreMisuse

PAGE = 4096
WRITER, READER, OTHER = 1, 2, 3
OWNER = Address(b"o" * 56)


def oid(number: int) -> ObjectId:
    return ObjectId(bytes([number]) * 28)


class Store:
    """A lifecycle over ten pages, with shorthands; invariants are checked after every step."""

    def __init__(self, pages: int = 10) -> None:
        self.allocator = Allocator(pages * PAGE)
        self.core = StoreLifecycle(self.allocator)

    def create(
        self, number: int, pages: int = 1, *, client: int = WRITER, primary: bool = True, now: float = 0.0
    ) -> Created | None:
        request = CreateRequest(client, 0, oid(number), pages * PAGE, OWNER, f"user.py:{number}", primary)
        created = self.core.create(request, now)
        self.core.check_invariants()
        return created

    def seal(self, number: int, *, client: int = WRITER) -> list[Answer]:
        answers = self.core.seal(client, oid(number))
        self.core.check_invariants()
        return answers

    def put(self, number: int, pages: int = 1, *, primary: bool = True) -> None:
        assert self.create(number, pages, primary=primary)
        assert self.seal(number) == []

    def delete(self, number: int) -> list[Answer]:
        answers = self.core.delete(oid(number))
        self.core.check_invariants()
        return answers

    def unpin(self, client: int, number: int) -> None:
        self.core.unpin(client, oid(number))
        self.core.check_invariants()

    def disconnect(self, client: int) -> list[Answer]:
        answers = self.core.disconnect(client)
        self.core.check_invariants()
        return answers

    @property
    def used_pages(self) -> int:
        return self.allocator.used_bytes // PAGE


def test_an_object_is_readable_once_sealed() -> None:
    store = Store()
    assert store.create(1, 2) == Created(offset=0, size=2 * PAGE, warm=0)
    assert not store.core.contains(oid(1))
    assert store.core.pin(READER, oid(1)) is None
    store.seal(1)
    assert store.core.contains(oid(1))
    assert store.core.pin(READER, oid(1)) == Located(0, 2 * PAGE)


def test_deleting_an_unpinned_object_frees_it_at_once() -> None:
    store = Store()
    store.put(1, 3)
    assert store.used_pages == 3
    store.delete(1)
    assert store.used_pages == 0
    assert store.delete(1) == []  # repeat-safe


def test_a_deleted_object_stays_until_its_last_pin_goes() -> None:
    store = Store()
    store.put(1, 3)
    store.core.pin(READER, oid(1))
    store.core.pin(READER, oid(1))
    store.core.pin(OTHER, oid(1))
    store.delete(1)
    assert not store.core.contains(oid(1))
    assert store.core.pin(READER, oid(1)) is None
    for client in (READER, OTHER):
        store.unpin(client, 1)
        assert store.used_pages == 3
    store.unpin(READER, 1)
    assert store.used_pages == 0


def test_an_object_deleted_while_written_goes_when_its_writer_seals() -> None:
    store = Store()
    store.create(1)
    store.delete(1)
    assert store.used_pages == 1
    assert store.seal(1) == []
    assert store.used_pages == 0


def test_readers_parked_before_the_seal_are_pinned_and_answered_by_it() -> None:
    store = Store()
    store.create(1)
    assert store.core.wait(READER, 7, oid(1))
    assert store.core.wait(OTHER, 8, oid(1))
    assert store.seal(1) == [Answer(READER, 7, Located(0, PAGE)), Answer(OTHER, 8, Located(0, PAGE))]
    store.delete(1)
    assert store.used_pages == 1
    store.unpin(READER, 1)
    store.unpin(OTHER, 1)
    assert store.used_pages == 0


@pytest.mark.parametrize("ending", ["abort", "delete", "writer dies"])
def test_readers_parked_for_an_object_that_never_comes_are_told_why(ending: str) -> None:
    store = Store()
    store.create(1)
    store.core.wait(READER, 7, oid(1))
    answers = {
        "abort": lambda: store.core.abort(WRITER, oid(1)),
        "delete": lambda: store.delete(1),
        "writer dies": lambda: store.disconnect(WRITER),
    }[ending]()
    [answer] = answers
    assert (answer.client, answer.request_id) == (READER, 7)
    assert isinstance(answer.outcome, Missing)
    assert oid(1).hex() in answer.outcome.reason
    store.core.check_invariants()


def test_nobody_waits_for_what_nobody_writes() -> None:
    store = Store()
    assert not store.core.wait(READER, 7, oid(1))
    store.put(1)
    assert not store.core.wait(READER, 7, oid(1))


def test_a_lost_client_loses_its_pins_waits_and_unfinished_objects() -> None:
    store = Store()
    store.put(1)
    store.create(2, client=OTHER)
    store.create(3, 2, client=READER)
    store.core.pin(READER, oid(1))
    store.core.pin(READER, oid(1))
    store.core.wait(READER, 7, oid(2))
    store.delete(1)
    assert store.used_pages == 4
    assert store.disconnect(READER) == []
    assert store.used_pages == 1
    assert store.seal(2, client=OTHER) == []  # the lost reader is not answered
    assert store.disconnect(READER) == []


def test_sealed_objects_outlive_their_writer() -> None:
    store = Store()
    store.put(1)
    store.disconnect(WRITER)
    assert store.core.contains(oid(1))
    assert store.core.owned_by(OWNER) == [oid(1)]


def test_a_death_costs_nothing_for_what_is_not_of_the_dead() -> None:
    """Each looked at all objects, twice: a head with a million of them stood still for half a second."""

    class NotWalked(dict[ObjectId, StoredObject]):
        def walk(self) -> Any:
            raise AssertionError("all objects are looked at")

        items = values = keys = __iter__ = walk

    core = StoreLifecycle(Allocator(10 * PAGE))
    for number in (1, 2):
        core.create(CreateRequest(WRITER, 0, oid(number), PAGE, OWNER), 0.0)
        core.seal(WRITER, oid(number))
    core._objects = NotWalked(core._objects)
    for client, owner, found in ((OTHER, Address(b"x" * 56), []), (WRITER, OWNER, [oid(1), oid(2)])):
        assert core.owned_by(owner) == found
        assert core.stored_by(client) == ({owner: found} if found else {})
        assert core.disconnect(client) == []
    assert core.stored_by(WRITER) == {}, "it is dead"
    for object_id in core.owned_by(OWNER):
        core.delete(object_id)
    assert not core.owned_by(OWNER)


def test_secondary_copies_are_evicted_least_recently_used_first() -> None:
    store = Store(pages=6)
    for number in (1, 2, 3):
        store.put(number, 2, primary=False)
    store.core.pin(READER, oid(1))
    store.unpin(READER, 1)  # now the most recently used
    assert store.create(4, 2)
    assert [store.core.contains(oid(n)) for n in (1, 2, 3)] == [True, False, True]


def test_pinned_and_primary_objects_are_never_evicted() -> None:
    store = Store(pages=4)
    store.put(1, 2, primary=False)
    store.put(2, 2)
    store.core.pin(READER, oid(1))
    assert store.create(3, 2) is None
    store.unpin(READER, 1)
    assert store.create(3, 2)
    assert store.core.contains(oid(2))


def test_nothing_is_evicted_when_it_would_not_help() -> None:
    store = Store(pages=4)
    store.put(1, 1, primary=False)
    store.put(2, 2)
    assert store.create(3, 3) is None
    assert store.core.contains(oid(1))


def test_usage_tells_what_the_bytes_are_for() -> None:
    store = Store()
    store.create(1)
    store.put(2, 2, primary=False)
    store.put(3, 3)
    store.core.pin(READER, oid(3))
    store.delete(3)
    usage = store.core.usage()
    assert (usage.used_bytes, usage.free_bytes, usage.capacity_bytes) == (6 * PAGE, 4 * PAGE, 10 * PAGE)
    assert (usage.object_count, usage.creating_bytes, usage.evictable_bytes) == (3, PAGE, 2 * PAGE)
    assert (usage.pinned_bytes, usage.deleted_bytes) == (3 * PAGE, 3 * PAGE)


def test_biggest_names_the_largest_objects_first() -> None:
    store = Store()
    store.create(1, 1, now=1.0)
    store.create(2, 4, now=2.0)
    store.create(3, 2, now=3.0)
    largest, second = store.core.biggest(2, now=10.0)
    assert (largest.object_id, largest.size, largest.age_s) == (oid(2), 4 * PAGE, 8.0)
    assert (largest.owner, largest.call_site, largest.state) == (OWNER, "user.py:2", ObjectState.CREATED)
    assert second.object_id == oid(3)


def test_only_the_creator_may_seal_and_only_once() -> None:
    store = Store()
    store.create(1)
    with pytest.raises(StoreMisuse, match=r"client 2 may not seal.*being written, created by client 1"):
        store.core.seal(READER, oid(1))
    store.seal(1)
    with pytest.raises(StoreMisuse, match=r"may not seal.*it is sealed"):
        store.core.seal(WRITER, oid(1))
    with pytest.raises(StoreMisuse, match=r"may not abort.*not in the store"):
        store.core.abort(WRITER, oid(9))


def test_unpinning_without_a_pin_is_refused() -> None:
    store = Store()
    store.put(1)
    store.core.pin(READER, oid(1))
    with pytest.raises(StoreMisuse, match="holds no pin"):
        store.core.unpin(OTHER, oid(1))
    store.unpin(READER, 1)
    with pytest.raises(StoreMisuse, match="holds no pin"):
        store.core.unpin(READER, oid(1))


def test_an_id_cannot_be_created_twice() -> None:
    store = Store()
    store.put(1)
    with pytest.raises(StoreMisuse, match="already"):
        store.create(1)
