"""The page "What happens when something raises" of docs/architecture.md, a sentence a test."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from beamlet.base.invariants import InvariantBroken
from beamlet.core_worker.node_link import NodeLink, Unsent
from beamlet.exceptions import ClusterGoneError
from beamlet.protocol import gcs, node
from beamlet.protocol.message import Message
from beamlet.protocol.peer import PeerMessage, ReleaseHold, Result
from beamlet.rpc.connection import Connection, Limits, encode_frame
from beamlet.rpc.containment import Containment, Misuse
from beamlet.rpc.descriptors import KernelDescriptors
from beamlet.rpc.framing import PREFIX, Deframer
from beamlet.rpc.limits import FROM_CORE_WORKER_BYTES
from beamlet.rpc.listener import Listener, connect
from beamlet.rpc.reactor import Reactor
from beamlet.rpc.turns import SharedReactor, Waiter
from support.waiting import wait_until

PASSES_MAX = 100
WHAT = "the handler's own mistake"


class Faulty(Exception):
    pass


class FewDescriptors(KernelDescriptors):
    """The process has too many open files."""

    @staticmethod
    def dup(fd: int, /) -> int:
        raise OSError(24, "Too many open files")


#: Closed when the test is over.
opened: list[Connection] = []


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    yield
    while opened:
        opened.pop().close()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def reactor(said: list[str]) -> Iterator[Reactor]:
    reactor = Reactor(spin_s=0.0)
    reactor.containment = Containment(said.append)
    yield reactor
    while opened:
        opened.pop().close()
    reactor.close()


class End:
    """A connection whose handler raises when told to."""

    def __init__(self, sock: socket.socket, reactor: Reactor, **how: Any) -> None:
        self.got: list[Any] = []
        self.ends: list[str] = []
        self.faulty = False
        how.setdefault("messages", PeerMessage)
        how.setdefault("on_close", lambda _, reason: self.ends.append(reason))
        self.connection = Connection(
            sock, reactor, on_message=self._on_message, label="core worker ab12", carries_fds=True, **how
        )
        opened.append(self.connection)

    def _on_message(self, connection: Connection, message: Message) -> None:
        if self.faulty and isinstance(message, ReleaseHold):
            raise Faulty(WHAT)
        self.got.append(message)


def pair(reactor: Reactor, **how: Any) -> tuple[End, End]:
    left, right = socket.socketpair()
    return End(left, reactor), End(right, reactor, **how)


def run_until(reactor: Reactor, done: Callable[[], object]) -> None:
    for _ in range(PASSES_MAX):
        if done():
            return
        reactor.run_once(1.0)
    raise AssertionError(f"not done after {PASSES_MAX} passes")


# -- connections ---------------------------------------------------------------------------------


def test_a_handler_that_raises_costs_its_connection_and_is_told_with_kind_and_peer(
    reactor: Reactor, said: list[str]
) -> None:
    a, b = pair(reactor)
    other, healthy = pair(reactor)
    b.faulty = True
    a.connection.send(ReleaseHold(1))
    run_until(reactor, lambda: b.ends)
    assert b.connection.closed
    assert b.ends == [f"ReleaseHold from there could not be handled: Faulty: {WHAT}"]
    assert reactor.containment.count == 1
    assert len(said) == 1
    assert "handling ReleaseHold from core worker ab12" in said[0]
    assert "in _on_message" in said[0], "the traceback"
    run_until(reactor, lambda: a.ends)
    other.connection.send(Result(1, b"x"))
    run_until(reactor, lambda: healthy.got)


def test_of_a_batch_what_came_before_is_handled_and_what_comes_after_is_not(reactor: Reactor) -> None:
    a, b = pair(reactor)
    b.faulty = True
    for message in [Result(1, b""), Result(2, b""), ReleaseHold(3), Result(4, b"")]:
        a.connection.send(message)
    run_until(reactor, lambda: b.ends)
    assert [message.seq for message in b.got] == [1, 2]


def test_where_the_connection_is_indispensable_only_the_message_is_lost(
    reactor: Reactor, said: list[str]
) -> None:
    a, b = pair(reactor, indispensable=True)
    b.faulty = True
    for message in [Result(1, b""), ReleaseHold(3), Result(4, b"")]:
        a.connection.send(message)
    run_until(reactor, lambda: len(b.got) == 2)
    assert not b.connection.closed
    assert reactor.containment.count == len(said) == 1


def test_misuse_by_the_other_side_is_one_line(reactor: Reactor, said: list[str]) -> None:
    reactor.containment.contain(Misuse("it said hello twice"), "handling DriverHello", "driver 7")
    assert len(said) == 1
    assert said[0].endswith("handling DriverHello from driver 7: it said hello twice\n")


def test_a_flood_of_one_error_is_told_less_and_less(said: list[str]) -> None:
    containment = Containment(said.append)
    for _ in range(1000):
        containment.contain(Faulty(WHAT), "here")
    assert containment.count == 1000
    assert len(said) == 10
    assert "(512 times so far)" in said[-1]


def test_kinds_of_errors_are_bounded(said: list[str]) -> None:
    containment = Containment(said.append)
    for number in range(5000):
        containment.contain(Faulty(WHAT), f"place {number}")
    assert len(containment.counts) < 300
    assert sum(containment.counts.values()) == 5000


def test_an_error_that_cannot_be_printed_is_told_all_the_same(said: list[str]) -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise Faulty

    Containment(said.append).contain(Unprintable(), "here")
    assert "Unprintable" in said[0]


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"\x91\x92\x0f\xa1\xff", id="bad UTF-8"),
        pytest.param(b"\x91" * 5000, id="too deep"),
        pytest.param(b"\x91\x93\x05\x01", id="cut short"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="4 billion messages"),
    ],
)
def test_what_cannot_be_decoded_is_a_violation_of_the_protocol(reactor: Reactor, header: bytes) -> None:
    left, right = socket.socketpair()
    end = End(right, reactor, messages=gcs.KvGet | gcs.KvPut | Result)
    left.send(PREFIX.pack(len(header), 0, 0) + header)
    run_until(reactor, lambda: end.ends)
    assert "protocol violation" in end.ends[0]
    assert reactor.containment.count == 0, "no mistake of ours"
    left.close()


def test_a_string_that_is_no_utf8_is_a_violation_of_the_protocol(reactor: Reactor) -> None:
    left, right = socket.socketpair()
    end = End(right, reactor, messages=node.DescribeTask)
    frame = bytes(encode_frame([node.DescribeTask("abcd")])).replace(b"abcd", b"\xff\xfe\xfd\xfc")
    left.send(frame)
    run_until(reactor, lambda: end.ends)
    assert "protocol violation" in end.ends[0]
    left.close()


# -- descriptors ---------------------------------------------------------------------------------


def test_a_message_does_not_travel_without_its_descriptor() -> None:
    """Too many open files: that connection fails, later, and nobody else hears of it."""
    reactor = Reactor(spin_s=0.0, descriptors=FewDescriptors())
    a, b = pair(reactor)
    a.connection.send(Result(1, b"before"))
    a.connection.send(ReleaseHold(1), 0)
    a.connection.send(Result(2, b"after"))
    assert a.ends == [], "send() never calls back"
    run_until(reactor, lambda: b.ends and a.ends)
    assert a.ends == ["no copy of the descriptor that ReleaseHold needs: Too many open files"]
    assert not any(isinstance(message, ReleaseHold) for message in b.got)
    reactor.close()


def test_a_message_that_came_without_its_descriptor_says_so(reactor: Reactor, said: list[str]) -> None:
    left, right = socket.socketpair()
    ends: list[str] = []
    connection = Connection(
        right,
        reactor,
        messages=PeerMessage,
        on_message=lambda connection, _: os.close(connection.take_fd()),
        on_close=lambda _, reason: ends.append(reason),
        carries_fds=True,
    )
    left.send(encode_frame([ReleaseHold(1)]))
    run_until(reactor, lambda: ends)
    assert connection.closed
    assert "came without its descriptor" in ends[0]
    assert "handling ReleaseHold" in said[0]
    left.close()


# -- messages of ours that cannot be encoded -----------------------------------------------------


def test_a_message_that_cannot_be_encoded_is_dropped_and_the_others_go(
    reactor: Reactor, said: list[str]
) -> None:
    unsent: list[Message] = []
    left, right = socket.socketpair()
    a = End(left, reactor, on_unsent=lambda message, error: unsent.append(message))
    b = End(right, reactor)
    bad = Result(2, "no bytes \ud800")  # type: ignore[arg-type]
    for message in [Result(1, b""), bad, Result(3, b"")]:
        a.connection.send(message)
    run_until(reactor, lambda: len(b.got) == 2)
    assert [message.seq for message in b.got] == [1, 3]
    assert unsent == [bad]
    assert "encoding Result for core worker ab12" in said[0]
    assert not a.connection.closed


@pytest.mark.parametrize("others", [0, 3, 100])
def test_a_message_larger_than_the_peer_takes_is_dropped_and_the_connection_stays(
    reactor: Reactor, others: int
) -> None:
    unsent: list[tuple[Message, str]] = []
    left, right = socket.socketpair()
    most = 10 << 20
    a = End(
        left,
        reactor,
        limits=Limits(sent_bytes=most),
        on_unsent=lambda message, error: unsent.append((message, str(error))),
    )
    b = End(right, reactor, limits=Limits(frame_bytes=most))
    large = Result(0, bytes(most))
    for message in [*(Result(1, b"") for _ in range(others)), large, Result(2, bytes(most - 100))]:
        a.connection.send(message)
    run_until(reactor, lambda: len(b.got) == others + 1)
    assert [message.seq for message in b.got] == [1] * others + [2]
    assert unsent == [(large, "a message of 10 MiB; 10 MiB are allowed")]
    assert not a.connection.closed


def test_what_a_raylet_does_not_take_costs_itself_alone(shared: SharedReactor) -> None:
    """Whoever asked is told."""
    far, link, _, _ = node_link(shared)
    answers: list[Any] = []
    with far:
        with shared.lock:
            link.request(gcs.KvPut(0, "", b"", bytes(FROM_CORE_WORKER_BYTES)), answers.append)
            shared.flush()
        wait_until(lambda: answers, 10.0, "the answer")
        assert not link.connection.closed
        link.close()
    assert isinstance(answers[0], Unsent)


def node_link(reactor: SharedReactor) -> tuple[socket.socket, NodeLink, list[Any], list[str]]:
    near, far = socket.socketpair()
    got: list[Any] = []
    lost: list[str] = []
    return far, NodeLink(near, reactor, got.append, lost.append, "/session"), got, lost


@pytest.fixture
def shared(said: list[str]) -> Iterator[SharedReactor]:
    reactor = SharedReactor()
    reactor.containment = Containment(said.append)
    reactor.start()
    yield reactor
    reactor.shut()
    reactor.close()


def test_what_the_node_said_before_it_closed_is_why_it_is_gone(shared: SharedReactor) -> None:
    far, link, _, lost = node_link(shared)
    far.sendall(encode_frame([node.NodeEnds("it was told to end, as `beamlet stop` sends it")]))
    far.close()
    wait_until(lambda: lost, 10.0, "the end of the link")
    assert lost == ["it was told to end, as `beamlet stop` sends it"]
    assert "as `beamlet stop` sends it" in str(link.gone())


def test_what_this_process_did_itself_is_why_even_if_the_node_says_more(shared: SharedReactor) -> None:
    far, link, _, lost = node_link(shared)
    with shared.lock:
        link.leave("shutdown() was called in this process")
    far.sendall(encode_frame([node.NodeEnds("its driver left")]))
    far.close()
    wait_until(lambda: lost, 10.0, "the end of the link")
    assert lost == ["shutdown() was called in this process"]
    text = str(link.gone())
    assert "has left the cluster: shutdown() was called in this process. Its session was shut down" in text
    assert "Its processes are ending" not in text, "others go on with that cluster"


def test_a_request_that_cannot_be_encoded_raises_at_the_caller_and_the_link_stays(
    shared: SharedReactor,
) -> None:
    far, link, _, lost = node_link(shared)
    with pytest.raises(UnicodeEncodeError):
        link.call(gcs.FindActor(0, "\ud800", ""))
    assert not link.connection.closed
    assert not lost
    with shared.lock:
        link.close()
    far.close()


def test_who_asked_what_cannot_be_encoded_is_told_but_not_in_the_middle_of_something(
    shared: SharedReactor,
) -> None:
    far, link, _, _ = node_link(shared)
    answers: list[Any] = []
    with shared.lock:
        req = link.request(gcs.FindActor(0, "\ud800", ""), answers.append)
        forgotten = link.request(gcs.FindActor(0, "\ud801", ""), answers.append)
        shared.flush()
        assert not answers, "who flushes has not let go of its books"
        link.forget(forgotten)
    wait_until(lambda: answers, 10.0, "the answer")
    (answer,) = answers
    assert isinstance(answer, Unsent)
    assert answer.req == req
    assert isinstance(answer.error, UnicodeEncodeError)
    with shared.lock:
        link.close()
    far.close()


def test_an_answers_callback_that_raises_costs_that_request_only(
    shared: SharedReactor, said: list[str]
) -> None:
    far, link, got, lost = node_link(shared)

    def faulty(_: Any) -> None:
        raise Faulty(WHAT)

    with shared.lock:
        req = link.request(gcs.KvGet(0, "", b"k"), faulty)
    far.send(encode_frame([gcs.KvValue(req, None), node.Notice(20, "after")]))
    wait_until(lambda: got, 10.0, "the message behind it")
    assert not link.connection.closed
    assert not lost
    assert "handling KvValue from the raylet" in said[0]
    with shared.lock:
        link.close()
    far.close()


def test_when_the_link_ends_all_who_wait_are_told_even_if_one_of_them_raises(
    shared: SharedReactor, said: list[str]
) -> None:
    far, link, _, lost = node_link(shared)
    answers: list[Any] = []

    def faulty(_: Any) -> None:
        raise Faulty(WHAT)

    with shared.lock:
        link.request(gcs.KvGet(0, "", b"1"), faulty)
        link.request(gcs.KvGet(0, "", b"2"), answers.append)
    far.close()
    wait_until(lambda: lost and answers, 10.0, "the end to be told")
    assert answers == [None]
    with pytest.raises(ClusterGoneError):
        link.call(gcs.KvGet(0, "", b"3"))


# -- the loop ------------------------------------------------------------------------------------


def test_a_call_that_was_put_off_and_raises_does_not_lose_the_others(
    reactor: Reactor, said: list[str]
) -> None:
    ran: list[int] = []

    def faulty() -> None:
        raise Faulty(WHAT)

    reactor.call_soon(lambda: ran.append(1))
    reactor.call_soon(faulty)
    reactor.call_soon(lambda: ran.append(2))
    reactor.run_once(0.0)
    assert ran == [1, 2]
    assert "running what was put off" in said[0]


def test_a_timer_that_raises_does_not_lose_the_others(reactor: Reactor, said: list[str]) -> None:
    ran: list[int] = []

    def faulty() -> None:
        raise Faulty(WHAT)

    reactor.call_later(0.0, faulty)
    reactor.call_later(0.0, lambda: ran.append(1))
    run_until(reactor, lambda: ran)
    assert "running a timer" in said[0]


def test_a_reader_that_raises_is_not_called_again(reactor: Reactor, said: list[str]) -> None:
    read, write = os.pipe()
    calls: list[int] = []

    def faulty() -> None:
        calls.append(1)
        raise Faulty(WHAT)

    reactor.add_reader(read, faulty)
    os.write(write, b"x")
    for _ in range(3):
        reactor.run_once(0.0)
    assert calls == [1]
    assert "reading or writing descriptor" in said[0]
    os.close(read)
    os.close(write)


def test_a_connection_for_which_there_is_no_memory_ends(
    reactor: Reactor, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also an indispensable one: it would stay open, and deaf for ever."""

    def none_left(*_: object) -> list[memoryview]:
        raise MemoryError("none left")

    near, far = pair(reactor, indispensable=True)
    monkeypatch.setattr(Deframer, "feed", none_left)
    near.connection.send(ReleaseHold(1))
    run_until(reactor, lambda: far.ends)
    assert far.connection.closed
    assert "none left" in far.ends[0]
    assert "none left" in "".join(said)


def test_an_end_that_raises_when_it_is_told_is_contained(reactor: Reactor, said: list[str]) -> None:
    def faulty(_: Connection, reason: str) -> None:
        raise Faulty(WHAT)

    a, b = pair(reactor, on_close=faulty)
    a.connection.close()
    run_until(reactor, lambda: b.connection.closed)
    assert "handling the end of the connection from core worker ab12" in said[0]


def test_a_visitor_that_cannot_be_welcomed_costs_nobody_else(
    reactor: Reactor, said: list[str], tmp_path: Any
) -> None:
    welcomed: list[socket.socket] = []

    def on_connection(sock: socket.socket) -> None:
        if not welcomed:
            welcomed.append(sock)
            raise Faulty(WHAT)
        welcomed.append(sock)

    path = str(tmp_path / "s")
    listener = Listener(path, b"s" * 32, reactor, on_connection)
    visits: list[socket.socket] = []
    for _ in range(2):
        visitor = threading.Thread(target=lambda: visits.append(connect(path, b"s" * 32)))
        visitor.start()
        before = len(welcomed)
        run_until(reactor, lambda before=before: len(welcomed) > before)  # type: ignore[misc]
        visitor.join()
    assert "welcoming a visitor" in said[0]
    assert welcomed[0].fileno() == -1, "the one that could not be welcomed is shown out"
    for sock in (*visits, *welcomed):
        sock.close()
    listener.close()


def test_housekeeping_that_raises_is_contained(said: list[str]) -> None:
    def faulty() -> None:
        raise Faulty(WHAT)

    reactor = SharedReactor(faulty)
    reactor.containment = Containment(said.append)
    with reactor.lock:
        reactor._idle()
    assert "housekeeping" in said[0]
    reactor.close()


def test_the_background_thread_survives_even_what_ends_threads(
    shared: SharedReactor, said: list[str]
) -> None:
    def exits() -> None:
        raise SystemExit(3)

    seen: list[int] = []
    shared.call_soon_threadsafe(exits)
    wait_until(lambda: said, 10.0, "the error to be told")
    shared.call_soon_threadsafe(lambda: seen.append(1))
    wait_until(lambda: seen, 10.0, "the background thread to go on")
    assert "leading in the background" in said[0]


def test_an_error_in_a_handler_never_reaches_the_thread_that_waits(
    shared: SharedReactor, said: list[str]
) -> None:
    """The user's ``get`` leads: what it dispatches for others must not come out of it."""
    waiter = Waiter()

    def faulty() -> None:
        waiter.complete()
        raise Faulty(WHAT)

    shared.call_soon(faulty)
    assert shared.wait(waiter)
    assert any(WHAT in text for text in said)


# -- broken invariants ---------------------------------------------------------------------------


def test_only_a_broken_invariant_ends_the_loop(reactor: Reactor, said: list[str]) -> None:
    def broken() -> None:
        raise InvariantBroken("3 CPUs were lent, 4 came back")

    reactor.call_soon(broken)
    with pytest.raises(InvariantBroken):
        reactor.run_forever()
    assert len(said) == 1
    assert "this process's own books are wrong" in said[0]


def test_a_process_chooses_how_it_ends(reactor: Reactor) -> None:
    ends: list[InvariantBroken] = []
    reactor.containment.on_broken = ends.append
    a, b = pair(reactor)

    def broken(*_: Any) -> None:
        raise InvariantBroken("…")

    b.connection.on_batch = broken
    a.connection.send(Result(1, b""))
    run_until(reactor, lambda: ends)
    assert reactor.containment.broken is ends[0]


# -- bounds --------------------------------------------------------------------------------------


def test_who_does_not_read_its_answers_is_not_read_from_until_it_does(reactor: Reactor) -> None:
    left, right = socket.socketpair()
    left.setblocking(False)
    answered: list[int] = []

    def answer(connection: Connection, message: Any) -> None:
        answered.append(message.hold)
        connection.send(Result(message.hold, b"x" * 10_000))

    ends: list[str] = []
    connection = Connection(
        right,
        reactor,
        messages=PeerMessage,
        on_message=answer,
        on_close=lambda _, reason: ends.append(reason),
        limits=Limits(deaf_bytes=1 << 20),
    )
    questions = b"".join(encode_frame([ReleaseHold(n) for n in range(at, at + 500)]) for at in (0, 500, 1000))
    left.send(questions)
    for _ in range(20):
        reactor.run_once(0.0)
    assert len(answered) < 500
    assert connection.backlog_bytes < 3 << 20
    read = 0
    while len(answered) < 1500 or connection.backlog_bytes:
        try:
            read += len(left.recv(1 << 16))
        except BlockingIOError:
            reactor.run_once(0.0)
    assert answered == list(range(1500)), "each question once, in order"
    connection.close()
    left.close()


def test_who_leaves_too_much_unread_is_cut_off(reactor: Reactor) -> None:
    left, right = socket.socketpair()
    end = End(right, reactor, limits=Limits(most_bytes=1 << 20))
    for number in range(20):
        end.connection.send(Result(number, b"x" * 100_000))
        end.connection.flush()
    run_until(reactor, lambda: end.ends)
    assert "MiB unread" in end.ends[0]
    left.close()


def test_a_frame_larger_than_the_peer_may_send_is_refused_before_it_is_held(reactor: Reactor) -> None:
    left, right = socket.socketpair()
    end = End(right, reactor, limits=Limits(frame_bytes=1000))
    left.send(PREFIX.pack(1001, 0, 0) + b"x")
    run_until(reactor, lambda: end.ends)
    assert "1001" in end.ends[0]
    left.close()
