"""Large answers of the GCS leave one after the other: who reads is not cut off for all that it asked for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from beamlet.base.ids import Address, NodeId, WorkerId
from beamlet.core_worker.node_link import FromRaylet
from beamlet.protocol import cluster, gcs
from beamlet.raylet import deliveries
from beamlet.raylet.deliveries import Deliveries
from beamlet.raylet.members import FromCoreWorker, Member, Members
from beamlet.rpc.connection import Connection, Limits, decoder_for
from beamlet.rpc.framing import Deframer
from beamlet.rpc.reactor import Reactor

MIB = 1 << 20
FULL, MOST = MIB, 8 * MIB


class Asker:
    """A member of a raylet over a real socket, whose other end the test reads, or does not."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.there, here = socket.socketpair()
        self.there.setblocking(False)
        self.ends: list[str] = []
        self.expelled: list[str] = []
        self.most_unread = 0
        self.connection = Connection(
            here,
            self.reactor,
            messages=FromCoreWorker,
            on_message=lambda *_: None,
            on_close=lambda _, reason: self.ends.append(reason),
            limits=Limits(full_bytes=FULL, deaf_bytes=FULL, most_bytes=MOST),
        )
        members = Members(NodeId(b"n" * 28))
        self.member: Member = members.join(WorkerId(b"w" * 28), self.connection, 0.0)
        self.deliveries = Deliveries(members, self.reactor, self.expel)
        self._deframer = Deframer()

    def expel(self, member: Member, reason: str) -> None:
        assert member is self.member
        self.expelled.append(reason)
        member.connection.close()

    def deliver(self, message: Any) -> None:
        self.deliveries.deliver(cluster.Deliver(self.member.address, message))

    def turn(self) -> None:
        self.reactor.run_once(0.0)
        self.most_unread = max(self.most_unread, self.connection.backlog_bytes)

    def read(self) -> list[Any]:
        """What has arrived by now, of one read."""
        try:
            data = self.there.recv(1 << 18)
        except BlockingIOError:
            return []
        frames = self._deframer.feed(memoryview(bytearray(data)))
        return [message for frame in frames for message in decoder_for(FromRaylet).decode(frame)]


@pytest.fixture
def asker() -> Iterator[Asker]:
    asker = Asker()
    yield asker
    asker.connection.close()
    asker.there.close()
    asker.reactor.close()


def large(req: int, kind: str) -> Any:
    if kind == "value":
        return gcs.KvValue(req, b"x" * MIB)
    if kind == "timeline":
        return gcs.Timeline(req, [gcs.TaskEvents(b"w", 1, 1, b"x" * MIB)], 0)
    if kind == "keys":
        return gcs.KvKeyList(req, [b"k" * 1000] * 1000)
    demand = [("CPU: 1", 1, "r" * 1000)] * 1000
    return gcs.ClusterState(req, [], [], [], demand, 0, 0, "")


@pytest.mark.parametrize("kind", ["value", "timeline", "state", "keys"])
def test_who_reads_gets_all_that_it_asked_for_at_once(asker: Asker, kind: str) -> None:
    """Four threads that read a value of 95 MiB lost their cluster: 284 MiB were unread, all just written."""
    for req in range(40):
        asker.deliver(large(req, kind))
    asker.turn()
    got: list[int] = []
    for _ in range(100_000):
        got += [message.req for message in asker.read()]
        if len(got) == 40 or asker.ends:
            break
        asker.turn()
    assert not asker.ends
    assert got == list(range(40))
    assert asker.most_unread < FULL + 2 * MIB
    assert not asker.member.held
    assert not asker.member.held_bytes


def test_small_answers_are_not_kept_waiting(asker: Asker) -> None:
    for req in range(10):
        asker.deliver(large(req, "value"))
    asker.deliver(gcs.KvDone(10, True))
    asker.turn()
    got: list[int] = []
    for _ in range(10_000):
        got += [message.req for message in asker.read()]
        if len(got) == 11 or asker.ends:
            break
        asker.turn()
    assert sorted(got) == list(range(11))
    assert got.index(10) < 9


def test_who_does_not_read_has_a_bound(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "MOST_HELD_BYTES", 20 * MIB)
    answer = large(1, "value")
    for _ in range(20):
        asker.deliver(answer)
        asker.turn()
    assert not asker.expelled
    assert asker.connection.backlog_bytes < FULL + 2 * MIB
    for _ in range(5):
        asker.deliver(answer)
    assert asker.expelled == ["it left 21 MiB of large answers unread"]
    assert not asker.member.held


def test_what_waits_for_one_that_ends_is_dropped(asker: Asker) -> None:
    for req in range(10):
        asker.deliver(large(req, "value"))
    asker.turn()
    asker.there.close()
    for _ in range(5):
        asker.turn()
    assert asker.ends
    asker.deliveries.deliver(cluster.Deliver(Address(b"nobody"), large(1, "value")))
