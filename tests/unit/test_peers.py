"""Peers over sockets that break: the tables of two processes, introduced by the raylet's own Introductions.

The clock is the test's; nothing here waits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import Address, NodeId, WorkerId, make_address
from beamlet.core_worker.peers import Peer, PeerState, PeerTable
from beamlet.protocol.message import Message
from beamlet.protocol.node import ConnectPeer, PeerConnected, PeerIntroduced, PeerUnreachable, WorkerDied
from beamlet.protocol.peer import CancelTask, ReleaseHold, Result
from beamlet.raylet.introductions import Introductions
from beamlet.rpc.batches import FEW_MESSAGES, encode_frame
from beamlet.rpc.connection import DescriptorMissing
from beamlet.rpc.containment import Containment
from beamlet.rpc.descriptors import KernelDescriptors
from beamlet.rpc.framing import PREFIX
from beamlet.rpc.turns import SharedReactor

PASSES_MAX = 400
CERTIFICATE = DeathCertificate(worker_id=b"", node_id=b"", pid=7, signal=9)


class Node:
    """A raylet with nothing but introductions. Messages to it and from it are handled when they are said."""

    def __init__(self) -> None:
        self.processes: dict[Address, Process] = {}
        self.dead: dict[Address, DeathCertificate] = {}
        self.time_s = 0.0
        self.descriptors = Descriptors()
        members: Any = SimpleNamespace(get=self.processes.get, certificate=self.dead.get)
        self.introductions = Introductions(members, self.descriptors)

    def now(self) -> float:
        return self.time_s

    def bury(self, process: Process) -> None:
        """The raylet learns that it died."""
        del self.processes[process.address]
        self.dead[process.address] = CERTIFICATE
        for other in self.introductions.forget(process.address):
            other.send(WorkerDied(process.address, CERTIFICATE))

    def run(self, seconds: float = 0.0) -> None:
        """Until nothing moves; timers due within ``seconds`` fire on the way."""
        end = self.time_s + seconds
        for _ in range(PASSES_MAX):
            if sum(process.run_once() for process in self.processes.values()):
                continue
            if self.time_s >= end:
                return
            self.time_s = min(end, self.time_s + 0.01)
        if self.time_s < end:
            self.run(end - self.time_s)


class Descriptors(KernelDescriptors):
    """``exhausted``: too many are open."""

    exhausted = False

    def pair(self) -> tuple[socket.socket, socket.socket]:  # type: ignore[override]
        if self.exhausted:
            raise OSError(24, "Too many open files")
        return socket.socketpair()


class Process:
    """A core worker's peers, its link to the raylet (calls), and what it said and heard."""

    def __init__(self, node: Node, number: int) -> None:
        self.node = node
        self.address = make_address(NodeId(b"n" * 28), WorkerId(bytes([number]) * 28))
        self.connection: Any = SimpleNamespace(closed=False)
        self.reactor = SharedReactor(clock=node.now, spin_s=0.0)
        self.said: list[str] = []
        self.reactor.containment = Containment(self.said.append)
        self.heard: list[Any] = []
        self.gone: list[Peer] = []
        self._sockets: list[socket.socket] = []
        #: So many of the next descriptors do not arrive.
        self.lose_descriptors = 0
        self.asked = 0
        link: Any = self
        self.unsent: list[Message] = []
        self.peers = PeerTable(
            *(link, self.reactor, self._arrived, self.gone.append, self.address),
            lambda _, message: self.unsent.append(message),
        )
        node.processes[self.address] = self

    def _arrived(self, connection: Any, messages: list[Any]) -> None:
        self.heard += messages

    def run_once(self) -> bool:
        with self.reactor.lock:
            self.reactor.flush()
            timers = [timer for timer in self.reactor._timers if timer.when <= self.node.time_s]
            events = self.reactor.poll(0.0)
            busy = bool(events or self.reactor._soon or timers)
            self.reactor.dispatch(events)
        return busy

    # -- as NodeLink -----------------------------------------------------------------------------

    def request(self, message: ConnectPeer, on_answer: Callable[[Any], None]) -> int:
        self.asked += 1
        self._on_answer = on_answer
        member: Any = self
        self.node.introductions.connect(member, message)
        return 1

    def take_socket(self) -> socket.socket:
        if not self._sockets:
            raise DescriptorMissing("a message came without its descriptor")
        return self._sockets.pop(0)

    # -- as Member -------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        with self.reactor.lock:
            if isinstance(message, PeerConnected | PeerUnreachable):
                self._on_answer(message)
            elif isinstance(message, PeerIntroduced):
                self.peers.introduced(message.peer, message.generation)
            elif isinstance(message, WorkerDied):
                self.peers.died(message.worker, message.certificate)

    def send_with_fd(self, message: Message, fd: int) -> None:
        if self.lose_descriptors:
            self.lose_descriptors -= 1
        else:
            self._sockets.append(socket.socket(fileno=os.dup(fd)))
        self.send(message)

    # -- for tests -------------------------------------------------------------------------------

    def to(self, other: Process) -> Peer:
        with self.reactor.lock:
            return self.peers.get(other.address)

    def say(self, other: Process, *numbers: int, size: int = 1) -> None:
        for number in numbers:
            with self.reactor.lock:
                self.peers.get(other.address).send(Result(number, b"x" * size))

    @property
    def numbers(self) -> list[int]:
        return [message.seq for message in self.heard]

    def cut(self, other: Process) -> None:
        """The socket between the two breaks; what is in it is lost."""
        connection = self.to(other).connection
        if connection is not None and not connection.closed:
            connection._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]

    def die(self) -> None:
        """The kernel closes all it had open; nobody is told."""
        self.connection.closed = True
        for connection in self.peers.connections():
            connection._sock.close()

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError), self.reactor.lock:
            self.peers.close()
        for sock in self._sockets:
            sock.close()
        self.reactor.close()


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    everybody: list[Process] = []
    node.everybody = everybody  # type: ignore[attr-defined]
    yield node
    for process in everybody:
        process.close()


def two(node: Node) -> tuple[Process, Process]:
    pair = Process(node, 1), Process(node, 2)
    node.everybody.extend(pair)  # type: ignore[attr-defined]
    return pair


def test_what_is_said_at_once_arrives_when_the_two_were_introduced(node: Node) -> None:
    a, b = two(node)
    a.say(b, 1, 2, 3)
    node.run()
    assert b.numbers == [1, 2, 3]
    assert a.to(b).state is PeerState.CONNECTED


def test_two_who_ask_for_each_other_have_one_connection(node: Node) -> None:
    a, b = two(node)
    a.say(b, 1)
    b.say(a, 2)
    node.run()
    assert (a.numbers, b.numbers) == ([2], [1])
    assert node.introductions._known[a.address][b.address] == 1


def test_who_talks_to_itself_needs_nobody_and_hears_copies(node: Node) -> None:
    a, _ = two(node)
    with a.reactor.lock:
        message = Result(1, b"x")
        a.peers.get(a.address).send(message)
        a.peers.get(a.address).send(Result(2, b""))
    assert a.heard == [], "not while it still says it"
    node.run()
    assert a.numbers == [1, 2]
    assert a.heard[0] is not message
    assert a.asked == 0


def test_a_broken_socket_is_no_death_and_loses_nothing(node: Node) -> None:
    a, b = two(node)
    a.say(b, 1)
    node.run()
    a.say(b, 2)  # in the socket, unread
    a.cut(b)
    a.say(b, 3)
    b.say(a, 4)
    node.run(1.0)
    assert b.numbers == [1, 2, 3]
    assert a.numbers == [4]
    assert a.gone == b.gone == []
    assert a.to(b).state is PeerState.CONNECTED


@pytest.mark.parametrize("seed", range(12))
def test_everything_arrives_once_and_in_order_whenever_sockets_break(node: Node, seed: int) -> None:
    rng = random.Random(seed)
    a, b = two(node)
    said = {a: 0, b: 0}
    for _ in range(150):
        this, other = rng.choice([(a, b), (b, a)])
        match rng.randrange(8):
            case 0:
                this.cut(other)
            case 1:
                node.run(rng.choice([0.0, 0.05]))
            case 2:
                this.run_once()
            case 3:
                node.descriptors.exhausted = not node.descriptors.exhausted
            case 4:
                this.lose_descriptors = rng.choice([0, 0, 1])
            case _:
                count = rng.choice([1, 3, 70])
                numbers = range(said[this] + 1, said[this] + count + 1)
                this.say(other, *numbers, size=rng.choice([1, 1, 2000]))
                said[this] += count
        talks = [a.to(b).conversation, b.to(a).conversation]
        for ours, theirs in (talks, talks[::-1]):
            assert ours.acknowledged <= theirs.received <= ours.sent_count
    node.descriptors.exhausted = False
    a.lose_descriptors = b.lose_descriptors = 0
    a.say(b, said[a] + 1)
    b.say(a, said[b] + 1)
    node.run(20.0)
    assert b.numbers == list(range(1, said[a] + 2))
    assert a.numbers == list(range(1, said[b] + 2))
    assert a.gone == b.gone == []


def test_no_descriptors_for_an_introduction_is_no_death_it_is_asked_for_again(node: Node) -> None:
    a, b = two(node)
    node.descriptors.exhausted = True
    a.say(b, 1)
    node.run(0.5)
    assert a.gone == []
    assert a.to(b).state is PeerState.DISCONNECTED
    node.descriptors.exhausted = False
    node.run(4.0)
    assert b.numbers == [1]


def test_a_descriptor_that_does_not_arrive_is_asked_for_again(node: Node) -> None:
    a, b = two(node)
    b.lose_descriptors = 1
    a.say(b, 1)
    b.say(a, 2)
    node.run(4.0)
    assert (a.numbers, b.numbers) == ([2], [1])
    assert a.gone == b.gone == []
    assert "connecting to core worker" in b.said[0]


def test_asking_again_takes_longer_each_time(node: Node) -> None:
    a, b = two(node)
    node.descriptors.exhausted = True
    a.say(b, 1)
    node.run(60.0)
    assert 20 < a.asked < 45


def test_a_death_is_told_by_the_raylet_and_once(node: Node) -> None:
    a, b = two(node)
    a.say(b, 1)
    node.run()
    b.die()
    node.run(1.0)
    assert a.gone == [], "a closed socket says nothing about who was behind it"
    node.bury(b)
    assert [peer.certificate for peer in a.gone] == [CERTIFICATE]
    node.run(5.0)
    assert len(a.gone) == 1
    assert a.to(b).state is not PeerState.CONNECTED
    node.run()
    assert len(a.gone) == 2, "who asks for it later learns the same"
    assert a.gone[1].certificate == CERTIFICATE


def test_what_the_dead_had_said_is_heard_before_their_death(node: Node) -> None:
    a, b = two(node)
    a.say(b, 1)
    node.run()
    b.say(a, 2)
    b.run_once()
    b.die()
    heard_at_death: list[list[int]] = []
    a.peers._on_gone = lambda peer: heard_at_death.append(list(a.numbers))
    node.bury(b)
    assert heard_at_death == [[2]]


def test_nobody_is_introduced_to_the_dying(node: Node) -> None:
    a, b = two(node)
    a.say(b, 1)
    node.run()
    b.die()
    generation = node.introductions._known[a.address][b.address]
    node.run(10.0)
    assert node.introductions._known[a.address][b.address] == generation


def test_who_never_was_is_gone_at_once(node: Node) -> None:
    a, _ = two(node)
    with a.reactor.lock:
        a.peers.get(make_address(NodeId(b"n" * 28), WorkerId(b"?" * 28)))
    node.run()
    assert "no process" in a.gone[0].reason


def test_who_does_not_speak_our_protocol_is_given_up_and_nobody_who_waits_for_others_hears_of_it(
    node: Node,
) -> None:
    a, b = two(node)
    a.say(b, 1)
    node.run()
    connection = b.to(a).connection
    assert connection is not None
    connection._sock.send(PREFIX.pack(3, 0, 0) + b"\x91\x91\x7f")
    node.run(1.0)
    assert "protocol violation" in a.gone[0].reason
    with a.reactor.lock:
        a.peers.get(b.address).send(ReleaseHold(1))
    node.run(1.0)
    assert [peer.given_up for peer in a.gone] == [True, True]
    assert a.peers.by_address == {}


def test_who_acknowledges_what_was_never_said_does_not_speak_our_protocol(node: Node) -> None:
    a, b = two(node)
    a.say(b, 1)
    node.run()
    connection = b.to(a).connection
    assert connection is not None
    connection._sock.send(encode_frame([Result(1, b"")], 99))
    node.run()
    assert "never sent" in a.gone[0].reason


def test_what_cannot_be_encoded_is_told_of_and_the_others_arrive(node: Node) -> None:
    a, b = two(node)
    nonsense = CancelTask("\udc80", False, False)  # type: ignore[arg-type]

    def say_it(other: Process, ready: int) -> None:
        with a.reactor.lock:
            a.peers.get(other.address).send(nonsense)
        a.say(other, *range(ready))
        node.run(0.1)
        assert a.unsent.pop() is nonsense
        assert a.unsent == []

    say_it(b, FEW_MESSAGES)  # packed: nobody is introduced yet
    say_it(b, 1)
    say_it(a, 1)
    assert b.numbers == [*range(FEW_MESSAGES), 0]
    assert a.numbers == [0]


def test_who_breaks_every_connection_is_given_up(node: Node) -> None:
    a, b = two(node)
    a.say(b, 1)
    node.run()
    for _ in range(40):
        a.cut(b)
        node.run(5.0)
    assert a.gone or b.gone


# -- room ----------------------------------------------------------------------------------------


def feed_until_full(a: Process, b: Process) -> int:
    for number in range(1, 2000):
        a.say(b, number, size=100_000)
        if a.to(b) in a.peers.full:
            return number
    raise AssertionError("never full")


def test_a_slow_reader_makes_its_writer_wait_and_nobody_else(node: Node) -> None:
    a, b = two(node)
    a.say(b, 0)
    node.run()
    count = feed_until_full(a, b)
    assert 600 < count < 800, "64 MiB"
    other = Process(node, 3)
    node.everybody.append(other)  # type: ignore[attr-defined]
    a.say(other, 1)
    a.peers.wait_for_room(a.to(other))  # returns at once
    node.run()
    assert other.numbers == [1]
    assert b.numbers == list(range(count + 1))
    assert not a.peers.full


def test_an_introduction_that_fails_at_its_last_descriptor_keeps_none_of_them(node: Node) -> None:
    a, b = two(node)
    made: list[int] = []

    def dup(fd: int) -> int:
        if made:
            raise OSError(24, "Too many open files")
        made.append(os.dup(fd))
        return made[0]

    node.descriptors.dup = dup  # type: ignore[method-assign]
    a.say(b, 1)
    node.run(0.01)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made[0])


def test_what_others_have_not_read_is_not_out(node: Node) -> None:
    a, b = two(node)
    assert a.peers.is_all_out
    node.descriptors.exhausted = True
    a.say(b, 1)
    assert not a.peers.is_all_out, "they are not introduced yet"
    node.descriptors.exhausted = False
    node.run(4.0)
    assert a.peers.is_all_out
    feed_until_full(a, b)
    assert not a.peers.is_all_out
    node.run()
    assert a.peers.is_all_out
    a.cut(b)
    node.run(1.0)
    assert a.peers.is_all_out


def test_what_is_queued_while_there_is_no_socket_counts_too(node: Node) -> None:
    a, b = two(node)
    node.descriptors.exhausted = True
    count = feed_until_full(a, b)
    assert 600 < count < 800
    node.descriptors.exhausted = False
    node.run(10.0)
    assert b.numbers == list(range(1, count + 1))
    assert not a.peers.full


@pytest.mark.parametrize("how", ["it reads", "it dies", "the lock is held"])
def test_who_waits_for_room_goes_on_when(node: Node, how: str) -> None:
    a, b = two(node)
    a.say(b, 0)
    node.run()
    feed_until_full(a, b)
    if how == "the lock is held":
        with a.reactor.lock:
            a.peers.wait_for_room(a.to(b))  # a handler's code never waits
        return
    a.reactor.start()
    waiting = threading.Thread(target=a.peers.wait_for_room, args=(a.to(b),))
    waiting.start()
    if how == "it reads":
        while waiting.is_alive():
            b.run_once()
            waiting.join(0.001)
    else:
        b.die()
        node.bury(b)
        waiting.join(20.0)
    assert not waiting.is_alive()
    a.reactor.shut()


def test_a_socket_that_the_kernel_will_not_watch_is_asked_for_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two(node)
    watch, refused = a.reactor.add_reader, []

    def watch_later(*how: Any) -> None:
        if len(refused) < 2:
            refused.append(how)
            raise OSError(errno.ENOSPC, "No space left on device")
        watch(*how)

    monkeypatch.setattr(a.reactor, "add_reader", watch_later)
    a.say(b, 1, 2)
    node.run(2.0)
    b.say(a, 3)
    node.run(2.0)
    assert len(refused) == 2
    assert (a.numbers, b.numbers) == ([3], [1, 2])
    assert "No space left on device" in a.said[0]
    assert a.to(b).state is PeerState.CONNECTED
