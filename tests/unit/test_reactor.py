"""The event loop alone: timers, calls from other threads, readers and writers, stopping."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from beamlet.rpc.reactor import Reactor

PATIENCE_S = 10.0


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor(spin_s=0.0)
    yield reactor
    reactor.close()


def test_timers_fire_in_the_order_they_are_due(reactor: Reactor) -> None:
    fired: list[str] = []
    reactor.call_later(0.004, lambda: fired.append("late"))
    reactor.call_later(0.0, lambda: fired.append("now"))
    reactor.call_later(0.002, lambda: (fired.append("soon"), None)[1])
    while len(fired) < 3:
        reactor.run_once(PATIENCE_S)
    assert fired == ["now", "soon", "late"]


def test_a_timer_is_never_early_and_ends_a_sleep(reactor: Reactor) -> None:
    due = reactor.now() + 0.003
    fired: list[float] = []
    reactor.call_later(0.003, lambda: fired.append(reactor.now()))
    while not fired:
        reactor.run_once(PATIENCE_S)
    assert fired[0] >= due


def test_a_cancelled_timer_does_nothing(reactor: Reactor) -> None:
    fired: list[str] = []
    timer = reactor.call_later(0.0, lambda: fired.append("cancelled"))
    timer.cancel()
    timer.cancel()
    reactor.call_later(0.0, lambda: fired.append("kept"))
    reactor.run_once(PATIENCE_S)
    assert fired == ["kept"]
    timer.cancel()


def test_a_timer_may_set_the_next(reactor: Reactor) -> None:
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(len(ticks))
        if len(ticks) < 5:
            reactor.call_later(0.0, tick)
        else:
            reactor.stop()

    reactor.call_later(0.0, tick)
    reactor.run_forever()
    assert ticks == [0, 1, 2, 3, 4]


def test_calls_from_a_call_wait_for_the_next_pass(reactor: Reactor) -> None:
    """Else one that always calls itself again would keep the sockets from being read."""
    seen: list[str] = []

    def first() -> None:
        seen.append("first")
        reactor.call_soon(lambda: seen.append("second"))

    reactor.call_soon(first)
    reactor.run_once(PATIENCE_S)
    assert seen == ["first"]
    reactor.run_once(PATIENCE_S)
    assert seen == ["first", "second"]


def test_another_thread_ends_a_sleep(reactor: Reactor) -> None:
    seen: list[int] = []

    def call() -> None:
        seen.append(threading.get_ident())
        reactor.stop()

    caller = threading.Thread(target=reactor.call_soon_threadsafe, args=(call,))
    reactor.call_later(0.0, caller.start)
    reactor.run_forever()
    caller.join(PATIENCE_S)
    assert seen == [threading.get_ident()]


def test_stop_from_another_thread(reactor: Reactor) -> None:
    stopper = threading.Thread(target=reactor.stop)
    reactor.call_later(0.0, stopper.start)
    reactor.run_forever()
    stopper.join(PATIENCE_S)


def test_a_stop_that_comes_before_it_runs_counts(reactor: Reactor) -> None:
    """SIGTERM right after a head has said that it is ready."""
    late: list[str] = []
    reactor.call_later(0.05, lambda: (late.append("it ran"), reactor.stop()))  # type: ignore[func-returns-value]
    reactor.stop()
    reactor.run_forever()
    assert late == []
    reactor.run_forever()
    assert late == ["it ran"], "once"


def test_many_wake_ups_are_one(reactor: Reactor) -> None:
    for _ in range(1000):
        reactor.wake()
    reactor.run_once(PATIENCE_S)
    assert reactor.poll(0.0) == []


def test_a_reader_is_called_while_there_is_something_to_read(reactor: Reactor) -> None:
    read, write = os.pipe()
    got: list[bytes] = []
    reactor.add_reader(read, lambda: got.append(os.read(read, 1)))
    os.write(write, b"ab")
    reactor.run_once(PATIENCE_S)
    reactor.run_once(PATIENCE_S)
    assert got == [b"a", b"b"]
    reactor.remove_reader(read)
    reactor.remove_reader(read)
    os.write(write, b"c")
    reactor.run_once(0.0)
    assert got == [b"a", b"b"]
    os.close(read)
    os.close(write)


def test_a_writer_is_called_until_it_is_taken_off(reactor: Reactor) -> None:
    left, right = socket.socketpair()
    calls: list[str] = []
    reactor.add_reader(left.fileno(), lambda: calls.append("read"))

    def writable() -> None:
        calls.append("write")
        if calls.count("write") == 2:
            reactor.set_writer(left.fileno(), None)

    reactor.set_writer(left.fileno(), writable)
    for _ in range(3):
        reactor.run_once(0.0)
    assert calls == ["write", "write"]
    reactor.set_writer(right.fileno(), writable)  # not a reader: no writer either
    reactor.remove_reader(left.fileno())
    left.close()
    right.close()


def test_one_handler_may_remove_the_next(reactor: Reactor) -> None:
    pipes = [os.pipe() for _ in range(2)]
    calls: list[int] = []

    def take_off_the_other(which: int) -> None:
        calls.append(which)
        reactor.remove_reader(pipes[1 - which][0])

    for which, (read, write) in enumerate(pipes):
        reactor.add_reader(read, lambda which=which: take_off_the_other(which))  # type: ignore[misc]
        os.write(write, b"x")
    reactor.run_once(PATIENCE_S)
    assert len(calls) == 1
    for read, write in pipes:
        reactor.remove_reader(read)
        os.close(read)
        os.close(write)


def test_closing_twice_and_waking_afterwards_are_harmless() -> None:
    reactor = Reactor()
    reactor.close()
    reactor.close()
    reactor.wake()
