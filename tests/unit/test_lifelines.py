"""Drivers that are cut off and live, on a fake wire: what they may use is nobody else's until they let go."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from beamlet.base.ids import Address, ObjectId
from beamlet.protocol import node
from beamlet.raylet.lifelines import Lifelines
from beamlet.raylet.members import Member
from beamlet.rpc.descriptors import KERNEL, Wire
from beamlet.rpc.reactor import Reactor
from support.fake_node import NODE, FakeNode, line_of

MIB = 1 << 20


def oid(number: int) -> ObjectId:
    return ObjectId(b"%028d" % number)


def create(fake: FakeNode, who: Member, number: int, size: int, seal: bool = True) -> None:
    fake.stores.create(who, node.CreateObject(number, oid(number), size, "app.py:1"))
    if seal:
        fake.stores.seal(who, node.SealObject(oid(number)))


def pin(fake: FakeNode, who: Member, number: int) -> None:
    fake.stores.pin(who, node.PinObject(100 + number, oid(number), who.address, [NODE]))


def used_mib(fake: FakeNode) -> float:
    return fake.stores.usage().used_bytes / MIB


def a_driver_that_uses_memory(fake: FakeNode) -> Member:
    """It reads 1 MiB, writes 2 MiB, leases 4 MiB, and has stored 8 MiB that nobody reads."""
    driver = fake.driver()
    create(fake, driver, 1, MIB)
    pin(fake, driver, 1)
    create(fake, driver, 2, 2 * MIB, seal=False)
    fake.stores.lease_slab(driver, node.LeaseSlab(9, 4 * MIB))
    create(fake, driver, 3, 8 * MIB)
    assert used_mib(fake) == 15
    return driver


def test_what_it_reads_writes_and_has_leased_stays_until_it_has_let_go() -> None:
    fake = FakeNode(store_bytes=64 * MIB)
    driver = a_driver_that_uses_memory(fake)
    fake.drivers.gone(driver, "it left 256 MiB unread")
    assert used_mib(fake) == 7
    assert not fake.store.contains(oid(1)), "what it owned is lost, for everybody else"
    fake.check()
    fake.lifeline_ends(driver)
    assert used_mib(fake) == 0
    fake.check()
    assert not fake.loop.readers


def test_one_that_let_go_first_leaves_nothing() -> None:
    fake = FakeNode(store_bytes=64 * MIB)
    driver = a_driver_that_uses_memory(fake)
    fake.lifeline_ends(driver)
    assert used_mib(fake) == 15
    fake.drivers.goodbye(driver)
    assert used_mib(fake) == 0
    fake.loop.pass_time(5.0)
    fake.check()


def test_slabs_wait_for_it_and_for_those_it_lent_them_to() -> None:
    for first in ("the driver", "its worker"):
        fake = FakeNode(store_bytes=64 * MIB)
        driver = fake.driver()
        fake.ask(driver, 1)
        (worker,) = fake.ready()
        fake.stores.lease_slab(driver, node.LeaseSlab(9, 4 * MIB))
        fake.drivers.gone(driver, "cut off")
        (died,) = line_of(fake.member(worker)).take(node.WorkerDied)
        assert died.had_slabs
        for _ in range(2):
            assert used_mib(fake) == 4
            if first == "the driver":
                fake.lifeline_ends(driver)
            else:
                fake.stores.heard(fake.member(worker), node.DeathHeard(driver.address))
            first = "its worker" if first == "the driver" else "the driver"
        assert used_mib(fake) == 0
        fake.check()


def test_who_waits_for_what_it_was_writing_is_told_at_once() -> None:
    fake = FakeNode()
    driver, reader = fake.driver(), fake.driver()
    create(fake, driver, 1, MIB, seal=False)
    pin(fake, reader, 1)
    fake.drivers.gone(driver, "cut off")
    (not_here,) = line_of(reader).take(node.ObjectNotHere)
    assert "was cut off" in not_here.reason
    fake.check()


def test_who_finds_no_room_is_told_whose_end_would_make_some() -> None:
    fake = FakeNode(store_bytes=40 * MIB)
    driver = a_driver_that_uses_memory(fake)
    driver.pid = 4711
    fake.drivers.gone(driver, "it left 256 MiB unread")
    assert fake.stores.kept() == [
        "7.0 MiB are kept for process 4711 (a driver; it left 256 MiB unread): it, or a process forked "
        "from it, lives on and may use them. They are free when that has ended"
    ]
    other = fake.driver()
    create(fake, other, 5, 36 * MIB, seal=False)
    fake.loop.pass_time(11.0)
    (refused,) = line_of(other).take(node.ObjectRefused)
    assert "7.0 MiB are kept for process 4711 (a driver; it left 256 MiB unread)" in refused.reason
    create(fake, other, 6, 36 * MIB, seal=False)
    fake.lifeline_ends(driver)
    assert line_of(other).take(node.ObjectCreated)
    assert not fake.stores.kept()


@pytest.mark.parametrize("ends_after_s", [0.5, 2.0])
def test_the_log_names_who_lives_on(capsys: pytest.CaptureFixture[str], ends_after_s: float) -> None:
    fake = FakeNode()
    driver = a_driver_that_uses_memory(fake)
    driver.pid = 4711
    fake.drivers.gone(driver, "it left 256 MiB unread")
    fake.loop.pass_time(ends_after_s)
    fake.lifeline_ends(driver)
    fake.loop.pass_time(5.0)
    said = capsys.readouterr().err
    assert ("process 4711 (a driver; it left 256 MiB unread)" in said) == (ends_after_s > 1.0)
    assert not fake.loop.timers


def test_one_that_lives_on_and_uses_nothing_is_not_worth_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeNode()
    driver = fake.driver()
    fake.drivers.gone(driver, "cut off")
    fake.loop.pass_time(5.0)
    assert not capsys.readouterr().err
    assert not fake.stores.kept()


def test_a_driver_gets_its_end_with_its_welcome_and_the_head_keeps_no_copy() -> None:
    fake = FakeNode()
    line = fake.knock()
    ours, theirs = fake.descriptors.ends.values()
    assert not theirs.closed
    fake.give_job(line)
    assert line.fds == [fake.arena.fd, theirs.fd]
    assert (ours.closed, theirs.closed) == (False, True)
    assert list(fake.loop.readers) == [ours.fd]
    fake.lifelines.close()
    assert ours.closed
    assert not fake.loop.readers


def test_one_that_leaves_before_its_welcome_leaves_no_descriptor() -> None:
    fake = FakeNode()
    line = fake.knock()
    ours, theirs = fake.descriptors.ends.values()
    fake.drivers.gone(line.context, "closed by the other side")
    assert theirs.closed
    fake.lifeline_ends(line.context)
    assert ours.closed
    assert not fake.loop.readers


def test_an_observer_has_none() -> None:
    fake = FakeNode()
    line = fake.knock(observer=True)
    assert line.fds == [fake.arena.fd]
    assert not fake.descriptors.ends


def test_without_descriptors_for_it_a_driver_is_shown_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """There was one left, for a moment."""
    fake = FakeNode()
    monkeypatch.setattr(fake.descriptors, "dup", lambda fd: 99)
    fake.descriptors.exhausted = True
    line = fake.knock()
    (refused,) = line.sent
    assert isinstance(refused, node.Refused)
    assert "Too many open files" in refused.reason
    assert line.closed
    assert line.context is None


def test_an_event_of_who_had_its_number_before_does_not_end_it() -> None:
    """Two descriptors were ready in one pass, and the first handler closed the second: its number is free."""
    reactor = Reactor()
    let_go: list[Address] = []
    store: Any = type("", (), {"let_go": lambda _, driver: let_go.append(driver)})()
    lifelines = Lifelines(KERNEL, reactor, store)
    first, first_ends = socket.socketpair()
    second, second_ends = socket.socketpair()
    driver = Address(b"d" * 32)
    theirs: list[Wire] = []

    def a_driver_joins() -> None:
        reactor.remove_reader(first.fileno())
        number = second.fileno()
        reactor.remove_reader(number)
        second.close()
        ours, others = lifelines.pair()
        theirs.append(others)
        if ours.fileno() != number:  # else it is the lowest that was free
            os.dup2(ours.fileno(), number)
            ours.close()
            ours = socket.socket(fileno=number)
        lifelines.tie(driver, ours)

    reactor.add_reader(first.fileno(), a_driver_joins)
    reactor.add_reader(second.fileno(), lambda: pytest.fail("it was closed"))
    events = [(first.fileno(), 1), (second.fileno(), 1)]
    reactor.dispatch(events)
    assert not let_go, "the driver uses the store"
    theirs.pop().close()
    reactor.run_once(5.0)
    assert let_go == [driver]
    for end in (first, first_ends, second_ends):
        end.close()
    reactor.close()


def test_of_one_that_cannot_be_watched_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel watches no more descriptors for us: that costs the visitor, who was not welcomed."""
    fake = FakeNode()

    def refuse(fd: int, on_readable: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fake.loop, "add_reader", refuse)
    with pytest.raises(OSError, match="No space left"):
        fake.knock()
    (visitor,) = fake.services.members
    fake.drivers.gone(visitor, "its connection was closed")
    assert all(end.closed for end in fake.descriptors.ends.values())
    assert not fake.stores._cut_off, "nobody will ever tell that it has let go"
