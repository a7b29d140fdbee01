"""The object store's shell on a fake wire: answers, misuse, and memory given back in small steps."""

from __future__ import annotations

import pytest

from beamlet.base.ids import NodeId, ObjectId
from beamlet.object_store.outcomes import StoreMisuse
from beamlet.object_store.store import GIVE_BACK_STEP
from beamlet.protocol import node
from beamlet.raylet.members import Member, PeerMisuse
from support.fake_node import NODE, FakeNode, line_of

MIB = 1 << 20


def oid(number: int) -> ObjectId:
    return ObjectId(b"%028d" % number)


def create(fake: FakeNode, who: Member, number: int, size: int, req: int = 1, seal: bool = True) -> None:
    fake.stores.create(who, node.CreateObject(req, oid(number), size, "app.py:1"))
    if seal:
        fake.stores.seal(who, node.SealObject(oid(number)))


def test_written_pinned_read_deleted() -> None:
    fake = FakeNode()
    driver, reader = fake.driver(), fake.driver()
    create(fake, driver, 1, 10 * MIB)
    (created,) = line_of(driver).take(node.ObjectCreated)
    fake.stores.pin(reader, node.PinObject(5, oid(1), driver.address, [NODE]))
    (pinned,) = line_of(reader).take(node.ObjectPinned)
    assert (pinned.req, pinned.offset) == (5, created.offset)
    fake.stores.delete(driver, node.DeleteObjects(NODE, [oid(1)]))
    assert fake.stores.usage().used_bytes, "it is being read"
    fake.stores.unpin(reader, node.UnpinObject(oid(1)))
    assert not fake.stores.usage().used_bytes


def test_others_objects_and_other_nodes_objects_are_not_deleted() -> None:
    fake = FakeNode()
    owner, stranger = fake.driver(), fake.driver()
    create(fake, owner, 1, MIB)
    fake.stores.delete(stranger, node.DeleteObjects(NODE, [oid(1)]))
    fake.stores.delete(owner, node.DeleteObjects(NodeId(b"o" * 28), [oid(1)]))
    assert fake.store.contains(oid(1))
    fake.stores.delete(owner, node.DeleteObjects(NODE, [oid(1), oid(2)]))
    assert not fake.store.contains(oid(1))


def test_what_waits_for_room_is_withdrawn_by_its_owner_only() -> None:
    fake = FakeNode(store_bytes=10 * MIB)
    owner, stranger = fake.driver(), fake.driver()
    create(fake, stranger, 1, 9 * MIB)
    create(fake, owner, 2, 5 * MIB, req=7, seal=False)
    fake.stores.delete(stranger, node.DeleteObjects(NODE, [oid(2)]))
    assert not line_of(owner).take(node.ObjectRefused)
    fake.stores.delete(owner, node.DeleteObjects(NODE, [oid(2)]))
    (refused,) = line_of(owner).take(node.ObjectRefused)
    assert refused.req == 7


def test_one_req_twice_while_the_store_is_full_is_misuse_and_harms_nobody() -> None:
    """It was a plain ValueError, which ended the head."""
    fake = FakeNode(store_bytes=10 * MIB)
    driver = fake.driver()
    create(fake, driver, 1, 9 * MIB)
    create(fake, driver, 2, 5 * MIB, req=7, seal=False)
    with pytest.raises(StoreMisuse):
        fake.store.create(_request(driver, 3), fake.loop.now())
    fake.stores.create(driver, node.CreateObject(7, oid(3), 5 * MIB, ""))
    assert line_of(driver).take(node.ObjectRefused)
    fake.check()


def _request(who: Member, number: int) -> object:
    from beamlet.object_store.outcomes import CreateRequest

    return CreateRequest(who.number, 7, oid(number), 5 * MIB, who.address)


@pytest.mark.parametrize("size", [0, -1, -(1 << 63)])
def test_an_impossible_size_is_misuse(size: int) -> None:
    fake = FakeNode()
    with pytest.raises(PeerMisuse):
        create(fake, fake.driver(), 1, size, seal=False)
    fake.check()


def test_a_size_beyond_all_bounds_is_refused_with_an_answer() -> None:
    fake = FakeNode()
    driver = fake.driver()
    create(fake, driver, 1, (1 << 63) - 1, seal=False)
    assert line_of(driver).take(node.ObjectRefused)
    fake.check()


def test_who_waits_for_room_is_told_in_time() -> None:
    fake = FakeNode(store_bytes=10 * MIB)
    driver = fake.driver()
    create(fake, driver, 1, 9 * MIB)
    create(fake, driver, 2, 5 * MIB, req=7, seal=False)
    fake.loop.pass_time(9.9)
    assert not line_of(driver).take(node.ObjectRefused)
    fake.loop.pass_time(0.2)
    assert len(line_of(driver).take(node.ObjectRefused)) == 1


def test_memory_goes_back_to_the_kernel_in_small_steps_between_others_turns() -> None:
    fake = FakeNode(store_bytes=200 * MIB)
    driver = fake.driver()
    create(fake, driver, 1, 150 * MIB)
    fake.stores.delete(driver, node.DeleteObjects(NODE, [oid(1)]))
    at_once = list(fake.arena.released)
    assert sum(size for _, size in at_once) <= GIVE_BACK_STEP
    fake.loop.pass_time(5.0)
    assert max(size for _, size in fake.arena.released) <= GIVE_BACK_STEP
    assert fake.store.surplus_bytes == 0
    assert sum(size for _, size in fake.arena.released) >= 80 * MIB
    assert not fake.loop.timers, "nothing ticks when nothing is to be done"


def test_a_dead_process_leaves_nothing_in_the_store() -> None:
    fake = FakeNode()
    owner, reader = fake.driver(), fake.driver()
    create(fake, owner, 1, MIB)
    create(fake, owner, 2, MIB, req=2, seal=False)
    fake.stores.pin(reader, node.PinObject(5, oid(1), owner.address, [NODE]))
    fake.stores.pin(reader, node.PinObject(6, oid(2), owner.address, [NODE]))
    fake.killed_driver(owner)
    (not_here,) = line_of(reader).take(node.ObjectNotHere)
    assert not_here.req == 6
    fake.killed_driver(reader)
    assert not fake.stores.usage().used_bytes
    fake.check()


def test_what_is_stored_for_an_owner_that_has_died_is_nobodys() -> None:
    """A result, made while its caller was killed. Who pinned it before it was whole may read it."""
    fake = FakeNode()
    owner, executor, reader = fake.driver(), fake.driver(), fake.driver()
    fake.killed_driver(owner)
    for number in (1, 2):
        fake.stores.create(executor, node.CreateObject(number, oid(number), MIB, "", owner.address))
    fake.stores.pin(reader, node.PinObject(5, oid(2), owner.address, [NODE]))
    for number in (1, 2):
        fake.stores.seal(executor, node.SealObject(oid(number)))
    assert not fake.store.contains(oid(1))
    (pinned,) = line_of(reader).take(node.ObjectPinned)
    assert pinned.req == 5
    assert fake.stores.usage().used_bytes == MIB
    fake.stores.unpin(reader, node.UnpinObject(oid(2)))
    assert not fake.stores.usage().used_bytes
    fake.check()


def test_what_a_dead_attempt_stored_is_deleted_and_what_the_next_has_stored_is_not() -> None:
    """The owner's word that follows a death may be read after what the next attempt does."""
    fake = FakeNode()
    owner, first, second = fake.driver(), fake.driver(), fake.driver()

    def store(who: Member, number: int) -> None:
        fake.stores.create(who, node.CreateObject(number, oid(number), MIB, "", owner.address))
        fake.stores.seal(who, node.SealObject(oid(number)))

    store(first, 1)
    store(first, 2)
    fake.killed_driver(first)
    store(second, 3)
    fake.stores.delete(owner, node.DeleteObjects(NODE, [oid(1), oid(3)], first.address))
    assert [fake.store.contains(oid(number)) for number in (1, 2, 3)] == [False, True, True]
    fake.stores.delete(owner, node.DeleteObjects(NODE, [oid(2)], owner.address))
    assert fake.store.contains(oid(2)), "that one has stored nothing"
    fake.stores.delete(owner, node.DeleteObjects(NODE, [oid(3)], second.address))
    assert not fake.store.contains(oid(3))
