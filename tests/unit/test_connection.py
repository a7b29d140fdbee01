"""Connections over real socket pairs: batches, pieces, backlogs, descriptors, strangers, ends."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from beamlet.protocol.message import Message
from beamlet.protocol.peer import PeerMessage, ReleaseHold, Result
from beamlet.rpc import batches
from beamlet.rpc import connection as connection_module
from beamlet.rpc.connection import Connection, encode_frame
from beamlet.rpc.frame_budget import FrameBudget
from beamlet.rpc.framing import PREFIX
from beamlet.rpc.limits import Limits
from beamlet.rpc.luggage import FDS_MAX
from beamlet.rpc.reactor import Reactor
from support.leaks import descriptors

PASSES_MAX = 200


class End:
    """One end: what arrived there, and why it ended."""

    def __init__(self, sock: socket.socket, reactor: Reactor, **how: Any) -> None:
        self.received: list[Message] = []
        self.fds: list[int] = []
        self.batches: list[int] = []
        self.ends: list[str] = []
        how.setdefault("on_batch", self._arrived)
        self.connection = Connection(
            sock,
            reactor,
            messages=PeerMessage,
            on_close=lambda _, reason: self.ends.append(reason),
            carries_fds=True,
            **how,
        )

    def _arrived(self, connection: Connection, messages: list[Any]) -> None:
        self.batches.append(len(messages))
        for message in messages:
            self.received.append(message)
            if isinstance(message, ReleaseHold):
                self.fds += [connection.take_fd() for _ in range(message.hold)]


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    before = set(descriptors())
    reactor = Reactor(spin_s=0.0)
    yield reactor
    reactor.close()
    assert set(descriptors()) == before, "descriptors were left open"


@pytest.fixture
def pair(reactor: Reactor) -> Iterator[tuple[End, End]]:
    left, right = socket.socketpair()
    ends = End(left, reactor), End(right, reactor)
    yield ends
    for end in ends:
        end.connection.close()
        for fd in end.fds:
            os.close(fd)


@pytest.fixture
def raw(reactor: Reactor) -> Iterator[tuple[socket.socket, End]]:
    """A plain socket on one side: whatever a stranger may write."""
    left, right = socket.socketpair()
    end = End(right, reactor)
    yield left, end
    left.close()
    end.connection.close()


def run_until(reactor: Reactor, done: Callable[[], object]) -> None:
    for _ in range(PASSES_MAX):
        if done():
            return
        reactor.run_once(1.0)
    raise AssertionError(f"not done after {PASSES_MAX} passes")


def result(seq: int, size: int = 1) -> Result:
    return Result(seq, b"x" * size)


def test_what_is_queued_together_arrives_as_one_batch(reactor: Reactor, pair: tuple[End, End]) -> None:
    a, b = pair
    sent = [result(n) for n in range(5)]
    for message in sent:
        a.connection.send(message)
    assert a.connection.queued_count == 5
    run_until(reactor, lambda: b.received)
    assert (b.received, b.batches) == (sent, [5])


def test_more_than_the_kernel_takes_waits_and_arrives_in_order(
    reactor: Reactor, pair: tuple[End, End]
) -> None:
    a, b = pair
    for n in range(8):
        a.connection.send(result(n, 500_000))
        a.connection.flush()
    assert a.connection.backlog_bytes
    assert a.connection.backlog_bytes > 0
    run_until(reactor, lambda: len(b.received) == 8)
    assert [message.seq for message in b.received] == list(range(8))  # type: ignore[attr-defined]
    run_until(reactor, lambda: not a.connection.backlog_bytes)


@pytest.mark.parametrize(("count", "size"), [(1, 20 << 20), (30, 100_000), (100, 100_000), (120, 100_000)])
def test_what_leaves_was_encoded_once(
    reactor: Reactor, pair: tuple[End, End], monkeypatch: pytest.MonkeyPatch, count: int, size: int
) -> None:
    a, b = pair
    encoded = 0
    encode_into = batches._encode_into

    def counting(messages: list[Message], *where: Any) -> None:
        nonlocal encoded
        encoded += len(messages)
        encode_into(messages, *where)

    monkeypatch.setattr(batches, "_encode_into", counting)
    for seq in range(count):
        a.connection.send(result(seq, size))
    run_until(reactor, lambda: len(b.received) == count)
    assert encoded == count


def test_what_is_sent_and_flushed_in_the_middle_of_a_flush_arrives_once(
    reactor: Reactor, pair: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two lists of a connection take turns; the flush within finds the other in use."""
    a, b = pair
    encode_frame = connection_module.encode_frame
    depth = 0

    def interrupted(messages: list[Message], acknowledged: int) -> bytearray:
        nonlocal depth
        depth += 1
        frame = encode_frame(messages, acknowledged)
        if depth < 4:
            a.connection.send(result(depth))
            a.connection.flush()
        return frame

    monkeypatch.setattr(connection_module, "encode_frame", interrupted)
    for round_ in range(3):
        depth = 0
        b.received.clear()
        a.connection.send(result(0))
        reactor.flush()
        a.connection.send(result(9))
        run_until(reactor, lambda: len(b.received) >= 5)
        reactor.run_once(0.0)
        assert sorted(message.seq for message in b.received) == [0, 1, 2, 3, 9], f"round {round_}"  # type: ignore[attr-defined]


def test_lists_of_what_is_queued_are_not_made_again(reactor: Reactor, pair: tuple[End, End]) -> None:
    """One made in the midst of a million objects would keep a MiB of their memory."""
    a, b = pair
    seen = set()
    kept = []  # no list at the same address again
    for seq in range(20):
        a.connection.send(result(seq))
        seen |= {id(a.connection._outbox), id(reactor.dirty)}
        kept += [a.connection._outbox, reactor.dirty]
        run_until(reactor, lambda seq=seq: len(b.received) == seq + 1)  # type: ignore[misc]
    assert len(seen) == 4


def test_frames_that_the_kernel_takes_at_once_are_not_watched_for_room(
    reactor: Reactor, pair: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    monkeypatch.setattr(reactor, "set_writer", lambda *_: pytest.fail("two system calls for nothing"))
    for seq in range(1000):
        a.connection.send(result(seq))
    run_until(reactor, lambda: len(b.received) == 1000)
    assert [message.seq for message in b.received] == list(range(1000))  # type: ignore[attr-defined]


def test_a_frame_may_arrive_byte_by_byte(reactor: Reactor, raw: tuple[socket.socket, End]) -> None:
    stranger, end = raw
    for byte in encode_frame([result(1), result(2)]):
        stranger.send(bytes([byte]))
        reactor.run_once(1.0)
    assert end.received == [result(1), result(2)]


def test_descriptors_arrive_with_their_messages_as_copies(reactor: Reactor, pair: tuple[End, End]) -> None:
    a, b = pair
    read, write = os.pipe()
    a.connection.send(ReleaseHold(1), write)
    os.close(write)  # the connection took a copy of its own
    run_until(reactor, lambda: b.fds)
    os.write(b.fds[0], b"through")
    assert os.read(read, 10) == b"through"
    assert fcntl.fcntl(b.fds[0], fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.close(read)


def test_descriptors_pass_a_backlog_without_losing_their_message(
    reactor: Reactor, pair: tuple[End, End]
) -> None:
    a, b = pair
    a.connection.send(result(1, 3_000_000))
    a.connection.flush()
    assert a.connection.backlog_bytes
    with open(os.devnull) as null:
        a.connection.send(ReleaseHold(2), null.fileno(), null.fileno())
        a.connection.send(ReleaseHold(1), null.fileno())
    run_until(reactor, lambda: len(b.fds) == 3)
    assert [type(message) for message in b.received] == [Result, ReleaseHold, ReleaseHold]


def test_any_number_of_descriptors_can_be_queued_at_once(reactor: Reactor, pair: tuple[End, End]) -> None:
    """The kernel takes 253 with one call, and the reader makes room for fewer."""
    a, b = pair
    with open(os.devnull) as null:
        for _ in range(100):
            a.connection.send(ReleaseHold(3), null.fileno(), null.fileno(), null.fileno())
    run_until(reactor, lambda: len(b.fds) == 300 or b.ends)
    assert (len(b.received), b.ends) == (100, [])


def test_descriptors_for_one_who_is_gone_are_not_kept(
    reactor: Reactor, raw: tuple[socket.socket, End]
) -> None:
    """Also those of the message before which what was queued was to leave, and could not."""
    stranger, end = raw
    stranger.close()
    before = descriptors()
    for _ in range(FDS_MAX + 1):
        end.connection.send(ReleaseHold(1), 0)
    assert end.connection.closed
    run_until(reactor, lambda: end.ends)
    assert len(descriptors()) < len(before)


def test_descriptors_nobody_took_are_closed_with_the_connection(
    reactor: Reactor, pair: tuple[End, End]
) -> None:
    a, b = pair
    with open(os.devnull) as null:
        a.connection.send(result(1), null.fileno())  # b takes none for a Result
        run_until(reactor, lambda: b.received)
        b.connection.send(result(2), null.fileno())  # never flushed
    a.connection.close()


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="http"),
        pytest.param(PREFIX.pack(4, 0, 0) + b"\xc1\xc1\xc1\xc1", id="no msgpack"),
        pytest.param(PREFIX.pack(3, 0, 0) + b"\x91\x91\x7f", id="unknown tag"),
        pytest.param(PREFIX.pack(1 << 31, 0, 0), id="too large"),
    ],
)
def test_who_does_not_speak_the_protocol_is_cut_off(
    reactor: Reactor, raw: tuple[socket.socket, End], garbage: bytes
) -> None:
    stranger, end = raw
    stranger.send(garbage)
    stranger.shutdown(socket.SHUT_WR)
    run_until(reactor, lambda: end.ends)
    assert end.connection.closed
    assert len(end.ends) == 1
    assert not end.received
    assert "protocol violation" in end.ends[0]


def test_a_peer_that_ends_is_told_once_after_what_it_sent(reactor: Reactor, pair: tuple[End, End]) -> None:
    a, b = pair
    a.connection.send(result(1))
    a.connection.close()
    assert a.connection.closed
    a.connection.close()
    run_until(reactor, lambda: b.ends)
    assert b.received == [result(1)]
    assert b.ends == ["closed by the other side"]
    assert a.ends == [], "who closes is not told"


def test_sending_to_one_who_is_gone_is_an_end_and_then_silence(
    reactor: Reactor, raw: tuple[socket.socket, End]
) -> None:
    stranger, end = raw
    stranger.close()
    end.connection.send(result(1))
    end.connection.flush()
    assert end.connection.closed
    assert end.ends == [], "whoever flushes may be in the middle of something"
    run_until(reactor, lambda: end.ends)
    assert "write failed" in end.ends[0]
    end.connection.send(result(2))
    assert end.connection.queued_count == 0


def test_messages_after_a_close_by_a_handler_are_not_delivered(reactor: Reactor) -> None:
    left, right = socket.socketpair()
    seen: list[Message] = []

    def close_at_once(connection: Connection, message: Message) -> None:
        seen.append(message)
        connection.close()

    end = End(right, reactor, on_batch=None, on_message=close_at_once)
    left.send(bytes(encode_frame([result(1), result(2)]) + encode_frame([result(3)])))
    run_until(reactor, lambda: end.connection.closed)
    assert seen == [result(1)]
    left.close()


LARGE = 4 << 20


@pytest.fixture
def crowd(reactor: Reactor) -> Iterator[tuple[FrameBudget, list[socket.socket], list[End]]]:
    """Three connections that share room for one large frame."""
    budget = FrameBudget(2 * LARGE)
    pairs = [socket.socketpair() for _ in range(3)]
    for theirs, _ in pairs:
        theirs.setblocking(False)
    ends = [End(mine, reactor, limits=Limits(budget=budget, deaf_bytes=1 << 20)) for _, mine in pairs]
    yield budget, [theirs for theirs, _ in pairs], ends
    for end in ends:
        end.connection.close()
    for theirs, _ in pairs:
        theirs.close()
    assert budget.used == 0


def large(seq: int) -> bytearray:
    return encode_frame([result(seq, LARGE)])


def test_large_frames_for_which_there_is_no_room_together_come_one_after_the_other(
    reactor: Reactor, crowd: tuple[FrameBudget, list[socket.socket], list[End]]
) -> None:
    """The second was cut off, as if it had done something wrong."""
    budget, theirs, ends = crowd
    rest = []
    for seq, sock in enumerate(theirs):
        frame = large(seq)
        rest.append(memoryview(frame)[sock.send(frame) :])
        reactor.run_once(0.1)
    for _ in range(3):  # what they go on to send is not read
        rest = [part[_send(sock, part) :] for sock, part in zip(theirs, rest, strict=True)]
        reactor.run_once(0)
    assert budget.used <= 2 * LARGE
    assert budget.is_crowded

    def done() -> bool:
        rest[:] = [part[_send(sock, part) :] for sock, part in zip(theirs, rest, strict=True)]
        return all(end.received for end in ends)

    run_until(reactor, done)
    assert [end.ends for end in ends] == [[], [], []]
    assert [end.received for end in ends] == [[result(seq, LARGE)] for seq in range(3)]


def _send(sock: socket.socket, part: memoryview) -> int:
    try:
        return sock.send(part) if part else 0
    except BlockingIOError:
        return 0


def test_small_messages_of_others_come_while_one_waits_and_its_end_is_seen(
    reactor: Reactor, crowd: tuple[FrameBudget, list[socket.socket], list[End]]
) -> None:
    budget, (first, second, third), (_, waiting, other) = crowd
    for sock in (first, second):
        sock.send(large(1)[:100_000])
        reactor.run_once(1.0)
    assert budget.is_crowded
    third.send(encode_frame([result(7)]))
    run_until(reactor, lambda: other.received)
    second.close()
    run_until(reactor, lambda: waiting.ends)
    assert waiting.ends == ["closed by the other side"]
    assert not budget.is_crowded


def test_one_that_is_not_read_for_two_reasons_is_read_when_both_have_gone(
    reactor: Reactor, crowd: tuple[FrameBudget, list[socket.socket], list[End]]
) -> None:
    """It leaves its answers unread, and there is no room for its large frame."""
    budget, (first, second, _), (inside, both, _) = crowd

    def answer(connection: Connection, message: Any) -> None:
        both.received.append(message)
        connection.send(result(message.seq, 100_000))

    both.connection._on_message = answer
    both.connection.on_batch = Connection._one_by_one
    rest = large(1)
    first.send(rest[:100_000])
    reactor.run_once(1.0)
    asked = encode_frame([result(seq) for seq in range(300)])
    frame = memoryview(asked + large(300))
    frame = frame[second.send(frame[: len(asked) + 100]) :]
    run_until(reactor, lambda: both.received)
    assert budget.is_crowded
    assert len(both.received) < 300, "it is deaf"
    answers = 0

    def take() -> int:
        try:
            return len(second.recv(1 << 20))
        except BlockingIOError:
            return 0

    def heard_all() -> bool:
        nonlocal answers
        answers += take()
        return answers > 300 * 100_000

    run_until(reactor, heard_all)
    assert len(both.received) == 300
    frame = frame[_send(second, frame) :]
    reactor.run_once(0)
    assert both.connection._deframer.arrived_bytes < 1000, "it was read from although there is no room"
    left = memoryview(rest)[100_000:]

    def inside_done() -> bool:
        nonlocal left
        left = left[_send(first, left) :]
        return bool(inside.received)

    run_until(reactor, inside_done)

    def all_done() -> bool:
        nonlocal frame
        take()
        frame = frame[_send(second, frame) :]
        return len(both.received) == 301

    run_until(reactor, all_done)
