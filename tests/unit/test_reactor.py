"""The event loop alone: timers, calls from other threads, readers and writers, stopping."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

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


class Late:
    """A poller to which something comes ``after_s`` into each wait. Each look takes 5 µs, or ``look_s``."""

    wakeup = -1

    def __init__(self) -> None:
        self.now = 1000.0
        self.due = 0.0
        self.look_s = 5e-6
        self.slept = 0

    def register(self, fd: int, mask: int) -> None: ...
    def close(self) -> None: ...
    def drain(self) -> None: ...

    def poll(self, timeout_s: float | None = None) -> list[tuple[int, int]]:
        self.now += self.look_s
        if timeout_s != 0 and self.now < self.due:
            self.slept += 1
            self.now = self.due + 30e-6
        return [(7, 1)] if self.now >= self.due else []

    def wait(self, reactor: Reactor, after_s: float, times: int) -> int:
        """How often it slept for what came."""
        slept = self.slept
        for _ in range(times):
            self.due = self.now + after_s
            assert reactor.poll(None)
        return self.slept - slept


def late(longest_spin_s: float = 300e-6) -> tuple[Late, Reactor]:
    poller = Late()
    of_any_kind: Any = poller
    return poller, Reactor(poller=of_any_kind, clock=lambda: poller.now, longest_spin_s=longest_spin_s)


@pytest.mark.parametrize(
    ("longest_spin_s", "after_s", "sleeps"),
    [(0.0, 40e-6, 0), (0.0, 150e-6, 5), (300e-6, 150e-6, 1), (300e-6, 500e-6, 5), (300e-6, 0.01, 5)],
    ids=["short", "not learned", "learned", "too long", "idle"],
)
def test_a_wait_that_always_takes_a_little_longer_is_spun_through(
    longest_spin_s: float, after_s: float, sleeps: int
) -> None:
    poller, reactor = late(longest_spin_s)
    assert poller.wait(reactor, after_s, 5) == sleeps


def crowd(poller: Late, reactor: Reactor, times: int) -> None:
    """Others run for a while between two looks."""
    for _ in range(times):
        poller.look_s = 500e-6
        poller.wait(reactor, 700e-6, 1)
        poller.look_s = 5e-6


def test_who_spins_for_long_stops_when_others_want_the_core_and_tries_again_later_each_time() -> None:
    poller, reactor = late()
    assert poller.wait(reactor, 200e-6, 3) == 1
    crowd(poller, reactor, 1)
    assert poller.wait(reactor, 200e-6, 10) <= 1, "once is nothing"
    crowd(poller, reactor, 1)
    assert poller.wait(reactor, 200e-6, 10) == 10, "it slept each time: the core may still be wanted"
    poller.now += 0.21
    assert poller.wait(reactor, 200e-6, 10) == 1
    crowd(poller, reactor, 2)
    poller.now += 0.21
    assert poller.wait(reactor, 200e-6, 10) == 10, "twice as long, this time"
    poller.now += 0.21
    assert poller.wait(reactor, 200e-6, 10) == 1


def test_that_what_was_waited_for_has_come_meanwhile_does_not_hide_the_crowd() -> None:
    poller, reactor = late()
    for _ in range(2):
        assert poller.wait(reactor, 200e-6, 2) <= 1
        poller.look_s = 500e-6
        assert poller.wait(reactor, 700e-6, 1) == 0, "it came between two looks"
        poller.look_s = 5e-6
    assert poller.wait(reactor, 200e-6, 10) == 10


def test_a_thread_for_which_nobody_waits_spins_as_usual() -> None:
    poller, reactor = late()
    poller.wait(reactor, 200e-6, 3)
    reactor.spin_as_usual()
    assert poller.wait(reactor, 200e-6, 1) == 1
