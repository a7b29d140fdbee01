"""Whoever queues something makes it leave: on a poller and wires of our own, where no timer ever fires."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from beamlet.protocol.peer import PeerMessage, Result
from beamlet.rpc.connection import Connection
from beamlet.rpc.turns import GATHERED, PARK_S, QUIET_S, TICK_S, SharedReactor, Waiter

PATIENCE_S = 20.0


class Clock:
    def __init__(self) -> None:
        self.time_s = 1000.0

    def __call__(self) -> float:
        return self.time_s


class StillPoller:
    """Nothing is ever ready, and no sleep but the shortest ends by itself: only by a wake-up."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        #: How long each sleep was to last.
        self.slept: list[float] = []
        self.wakeup = 1000
        self.wakes = 0
        self.awake = threading.Event()
        self.asleep = threading.Event()
        self.closing = False

    def register(self, fd: int, mask: int, /) -> None: ...
    def modify(self, fd: int, mask: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...

    def poll(self, timeout_s: float | None = None, /) -> list[tuple[int, int]]:
        if timeout_s == 0 and not self.awake.is_set():
            return []
        assert timeout_s is not None
        self.slept.append(timeout_s)
        if timeout_s <= TICK_S and not self.awake.is_set():
            self.clock.time_s += timeout_s
            return []
        self.asleep.set()
        assert self.awake.wait(PATIENCE_S), "slept for good: nobody woke the thread that leads"
        self.asleep.clear()
        return [(self.wakeup, select.EPOLLIN)]

    def wake(self) -> None:
        self.wakes += 1
        self.awake.set()

    def drain(self) -> None:
        self.awake.clear()

    def close(self) -> None: ...


class Wire:
    """Takes everything."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.sent: list[bytes] = []
        self.arrived = threading.Event()

    def fileno(self) -> int:
        return self.fd

    def setblocking(self, flag: bool, /) -> None: ...
    def close(self) -> None: ...

    def send(self, data: Any, /) -> int:
        self.sent.append(bytes(data))
        self.arrived.set()
        return len(data)

    def sendmsg(self, buffers: Any, ancdata: Any = (), /) -> int:
        raise NotImplementedError

    def recv_into(self, buffer: Any, /) -> int:
        raise BlockingIOError

    def recvmsg_into(self, buffers: Any, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        raise BlockingIOError


class Line:
    """A reactor that no thread leads yet, with one connection."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.poller = StillPoller(self.clock)
        self.reactor = SharedReactor(poller=self.poller, clock=self.clock, spin_s=0.0)
        self.wire = Wire(5)
        self.connection = Connection(
            self.wire,
            self.reactor,
            messages=PeerMessage,
            on_message=lambda *_: None,
            on_close=lambda *_: None,
        )

    def say(self) -> None:
        """As a thread of the user's does: queue, and go on with other things."""
        with self.reactor.lock:
            self.connection.send(Result(1, b""))


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.reactor.shut()
    line.connection.close()


def test_on_a_quiet_line_it_leaves_with_the_lock(line: Line) -> None:
    line.say()
    assert len(line.wire.sent) == 1
    assert line.poller.wakes == 0, "nobody else had to do it"


def test_in_a_loop_calls_gather(line: Line) -> None:
    line.say()
    for _ in range(GATHERED - 1):
        line.say()
    assert len(line.wire.sent) == 1
    line.say()
    assert len(line.wire.sent) == 2, "so many are enough"
    line.clock.time_s += 2 * QUIET_S
    line.say()
    assert len(line.wire.sent) == 2, "somebody is in a loop: more is likely to come"
    line.clock.time_s += 3 * QUIET_S
    line.say()
    assert len(line.wire.sent) == 3, "two had gathered: there is no loop any more"
    line.clock.time_s += 2 * QUIET_S
    line.say()
    assert len(line.wire.sent) == 4


def test_in_a_loop_the_clock_is_looked_at_now_and_then_while_somebody_else_ticks(line: Line) -> None:
    looks = 0

    def now() -> float:
        nonlocal looks
        looks += 1
        return line.clock.time_s

    for _ in range(GATHERED + 1):
        line.say()
    assert len(line.wire.sent) == 2
    line.reactor.now = now
    line.reactor._ticks = 1
    for _ in range(GATHERED - 1):
        line.say()
    assert 0 < looks < GATHERED / 4
    assert len(line.wire.sent) == 2
    line.say()
    assert len(line.wire.sent) == 3
    line.reactor._ticks = 0
    looks = 0
    line.say()
    assert looks, "nobody would see to it"


def test_what_follows_a_wait_leaves_at_once_unless_more_is_to_come(line: Line) -> None:
    """Who asks one thing at a time is not made to wait until its line was quiet."""
    line.say()
    assert len(line.wire.sent) == 1
    line.say()
    assert len(line.wire.sent) == 1
    line.reactor.wait(Waiter(), line.clock.time_s)  # what was queued leaves before it
    assert len(line.wire.sent) == 2
    line.say()
    assert len(line.wire.sent) == 3
    line.reactor.wait(Waiter(), line.clock.time_s)
    with line.reactor.bare_lock:
        line.connection.send(Result(1, b""))
        line.reactor.gather()
        assert len(line.wire.sent) == 3
        line.reactor.leave()
        assert len(line.wire.sent) == 4


def test_the_last_of_a_loop_is_seen_to_by_the_thread_that_leads(line: Line) -> None:
    """It sleeps, and would sleep for good."""
    line.reactor.start()
    assert line.poller.asleep.wait(PATIENCE_S)
    line.say()
    line.wire.arrived.clear()
    line.say()
    line.say()
    assert line.wire.arrived.wait(PATIENCE_S)
    assert line.poller.wakes >= 1


def test_what_is_put_off_by_a_users_thread_is_done_by_the_thread_that_leads(line: Line) -> None:
    line.reactor.start()
    assert line.poller.asleep.wait(PATIENCE_S)
    done = threading.Event()
    with line.reactor.lock:
        line.reactor.call_soon(done.set)
    assert done.wait(PATIENCE_S)


def test_the_leader_is_woken_once_for_many_and_then_looks_often_for_a_while(line: Line) -> None:
    line.reactor._sleeping = True
    line.say()
    for _ in range(10):
        line.say()
    assert line.poller.wakes == 1
    for sent in (2, 3):
        with line.reactor.lock:
            line.reactor.dispatch([])
        assert len(line.wire.sent) == sent
        line.say()
    assert line.poller.wakes == 1, "it is about to look"
    line.reactor.wait(Waiter(), line.clock.time_s + 5 * TICK_S)
    assert max(line.poller.slept) <= TICK_S
    line.poller.drain()
    for _ in range(10):
        with line.reactor.lock:
            line.reactor.dispatch([])
    line.say()
    line.say()
    assert line.poller.wakes == 2, "nothing had gathered for long, so it sleeps long"


def test_a_handler_leaves_it_to_the_end_of_its_pass(line: Line) -> None:
    seen: list[int] = []

    def handler() -> None:
        for _ in range(3):
            line.say()  # user code that a handler runs takes the lock, too
            seen.append(len(line.wire.sent))

    with line.reactor.lock:
        line.reactor.call_soon(handler)
        line.reactor.dispatch([])
    assert seen == [0, 0, 0]
    assert len(line.wire.sent) == 1
    assert line.poller.wakes == 0


def test_a_background_thread_that_parks_sees_to_it_first(line: Line) -> None:
    line.say()
    line.say()
    ran: list[int] = []
    line.reactor.call_soon(lambda: ran.append(1))
    line.reactor._unpark()
    line.reactor._park(PARK_S, deep=False)
    assert len(line.wire.sent) == 2
    assert ran == [1]


def test_a_background_thread_that_sleeps_deeply_is_woken(line: Line) -> None:
    line.say()
    line.reactor._deep = True
    line.say()
    assert not line.reactor._bell.locked()


def test_an_error_inside_the_lock_does_not_keep_what_was_queued(line: Line) -> None:
    with pytest.raises(KeyError), line.reactor.lock:
        line.connection.send(Result(1, b""))
        raise KeyError
    assert len(line.wire.sent) == 1
    assert not line.reactor.lock.is_held_here
