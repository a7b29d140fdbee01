"""Who may say what."""

from __future__ import annotations

import msgspec
import pytest

from beamlet.base.ids import ActorId, Address
from beamlet.protocol import gcs, node
from beamlet.protocol.message import Message
from beamlet.raylet.members import Member, PeerMisuse
from beamlet.raylet.permissions import check
from support.fake_node import FakeLine, FakeNode, a_spec
from support.jobs import a_job


@pytest.fixture
def fake() -> FakeNode:
    return FakeNode()


def a_worker(fake: FakeNode) -> Member:
    fake.ask(fake.driver(), 1)
    (worker,) = fake.ready()
    return fake.member(worker)


def an_observer(fake: FakeNode) -> Member:
    line: FakeLine = fake.knock(observer=True)
    member: Member = line.context
    return member


@pytest.mark.parametrize(
    "message",
    [
        gcs.KillActor(1, ActorId(b"a"), True),
        gcs.KvPut(1, "n", b"k", b"v"),
        node.RequestLease(1, {}, "f"),
        node.DeleteObjects(b"n", []),  # type: ignore[arg-type]
        node.CreateObject(1, b"o", 1, ""),  # type: ignore[arg-type]
        gcs.TaskEvents(b"w", 1, 1, b""),
    ],
)
def test_an_observer_looks_and_does_nothing(fake: FakeNode, message: Message) -> None:
    with pytest.raises(PeerMisuse, match="an observer"):
        check(an_observer(fake), message)
    check(fake.driver(), message)


def test_an_observer_asks(fake: FakeNode) -> None:
    for message in (gcs.QueryCluster(1), gcs.QueryTimeline(1), node.Goodbye()):
        check(an_observer(fake), message)


def test_nobody_speaks_for_another(fake: FakeNode) -> None:
    driver, other = fake.driver(), fake.driver()
    spec = a_spec(driver)
    check(driver, gcs.CreateActor(1, spec))
    with pytest.raises(PeerMisuse, match="another's name"):
        check(other, gcs.CreateActor(1, spec))
    with pytest.raises(PeerMisuse, match="another's name"):
        check(other, gcs.ActorReady(spec))
    with pytest.raises(PeerMisuse, match="not its own"):
        check(driver, gcs.CreateActor(1, msgspec.structs.replace(spec, job=a_job(99))))
    with pytest.raises(PeerMisuse, match="an id of 28 bytes"):
        check(driver, gcs.CreateActor(1, msgspec.structs.replace(spec, actor_id=ActorId(b"a" * 28))))


def test_only_workers_say_what_workers_say(fake: FakeNode) -> None:
    worker = a_worker(fake)
    for message in (node.Blocked(), node.Staying(), gcs.ActorStarted(ActorId(b"a"), 0), node.EventsTold(1)):
        check(worker, message)
        with pytest.raises(PeerMisuse, match="a driver does not say"):
            check(fake.driver(), message)
    for message in (node.Goodbye(), gcs.EndActors(1)):
        with pytest.raises(PeerMisuse, match="only a driver"):
            check(worker, message)
    assert Address(b"") == b""
