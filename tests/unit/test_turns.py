"""The rule of turns with real threads: whoever waits is woken, whoever leads, and idleness costs nothing."""

from __future__ import annotations

import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, cast

import pytest

from beamlet.rpc import turns
from beamlet.rpc.descriptors import KernelPoller
from beamlet.rpc.turns import IDLE_S, PARK_S, SharedReactor, Waiter

PATIENCE_S = 20.0
STRESS_S = 1.5


class Echo:
    """A socket whose every byte completes the waiter of that number."""

    def __init__(self, reactor: SharedReactor) -> None:
        self.reactor = reactor
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.waiters: dict[int, Waiter] = {}
        #: Threads in which bytes were handled.
        self.handled_by: set[int] = set()
        reactor.add_reader(self.near.fileno(), self._readable)

    def _readable(self) -> None:
        self.handled_by.add(threading.get_ident())
        try:
            data = self.near.recv(4096)
        except BlockingIOError:
            return
        for number in data:
            self.waiters.pop(number).complete()

    def expect(self, number: int) -> Waiter:
        with self.reactor.lock:
            waiter = self.waiters[number] = Waiter()
        return waiter

    def answer(self, *numbers: int) -> None:
        self.far.send(bytes(numbers))

    def close(self) -> None:
        self.reactor.remove_reader(self.near.fileno())
        self.near.close()
        self.far.close()


@pytest.fixture
def reactor() -> Iterator[SharedReactor]:
    reactor = SharedReactor()
    reactor.start()
    yield reactor
    reactor.shut()
    reactor.close()


@pytest.fixture
def echo(reactor: SharedReactor) -> Iterator[Echo]:
    echo = Echo(reactor)
    yield echo
    reactor.shut()
    echo.close()


def in_thread(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def until(condition: Callable[[], object], what: str) -> None:
    deadline = monotonic() + PATIENCE_S
    while not condition():
        assert monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.001)


def test_a_complete_waiter_is_not_waited_for(reactor: SharedReactor) -> None:
    waiter = Waiter(2)
    waiter.complete(2)
    assert reactor.wait(waiter, deadline=0.0)


def test_the_thread_that_waits_reads_its_answer_itself(reactor: SharedReactor, echo: Echo) -> None:
    for number in range(20):  # the background thread may lead at first; it lets go of the turn
        waiter = echo.expect(number)
        in_thread(lambda number=number: echo.answer(number))  # type: ignore[misc]
        assert reactor.wait(waiter, monotonic() + PATIENCE_S)
    assert threading.get_ident() in echo.handled_by


def test_a_deadline_ends_a_wait_of_the_leader_and_of_a_follower(reactor: SharedReactor, echo: Echo) -> None:
    started = monotonic()
    results: list[bool] = []
    both = [in_thread(lambda: results.append(reactor.wait(Waiter(), started + 0.05))) for _ in range(2)]
    for thread in both:
        thread.join(PATIENCE_S)
    assert results == [False, False]
    assert monotonic() - started >= 0.05
    waiter = echo.expect(1)
    echo.answer(1)
    assert reactor.wait(waiter, monotonic() + PATIENCE_S), "later waits are served"


def test_all_of_many_waiting_threads_wake(reactor: SharedReactor, echo: Echo) -> None:
    woken: list[int] = []

    def wait(number: int) -> None:
        if reactor.wait(waiters[number], monotonic() + PATIENCE_S):
            woken.append(number)

    waiters = {number: echo.expect(number) for number in range(40)}
    threads = [in_thread(lambda number=number: wait(number)) for number in waiters]  # type: ignore[misc]
    for number in random.Random(1).sample(sorted(waiters), 40):
        echo.answer(number)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(woken) == list(range(40))


def test_followers_are_served_when_the_leader_leaves(reactor: SharedReactor, echo: Echo) -> None:
    mine, theirs = echo.expect(1), echo.expect(2)
    done = threading.Event()
    leader = in_thread(lambda: reactor.wait(mine, monotonic() + PATIENCE_S))
    until(lambda: not reactor._nobody_leads(), "a leader")
    follower = in_thread(lambda: reactor.wait(theirs, monotonic() + PATIENCE_S) and done.set())
    until(lambda: reactor._followers, "a follower")
    echo.answer(1)
    leader.join(PATIENCE_S)
    echo.answer(2)
    assert done.wait(PATIENCE_S), "nobody led for the one that followed"
    follower.join(PATIENCE_S)


def test_the_background_thread_reads_while_nobody_waits(reactor: SharedReactor, echo: Echo) -> None:
    waiter = echo.expect(1)
    echo.answer(1)
    until(lambda: waiter.remaining == 0, "the background thread to read")
    assert threading.get_ident() not in echo.handled_by
    reactor.nudge()
    waiter = echo.expect(2)
    echo.answer(2)
    until(lambda: waiter.remaining == 0, "the background thread to read again")


def test_a_thread_that_computes_after_its_wait_does_not_keep_messages_waiting(
    reactor: SharedReactor, echo: Echo
) -> None:
    first = echo.expect(1)
    echo.answer(1)
    assert reactor.wait(first, monotonic() + PATIENCE_S)
    second = echo.expect(2)
    echo.answer(2)
    until(lambda: second.remaining == 0, "the background thread to take over")


def test_timers_and_calls_run_while_everybody_sleeps(reactor: SharedReactor) -> None:
    fired = threading.Event()
    with reactor.lock:
        reactor.call_later(0.01, fired.set)
    reactor.nudge()
    assert fired.wait(PATIENCE_S)
    called = threading.Event()
    reactor.call_soon_threadsafe(called.set)
    assert called.wait(PATIENCE_S)


def test_idle_work_is_done_now_and_then_busy_or_not() -> None:
    calls = threading.Semaphore(0)
    reactor = SharedReactor(on_idle=calls.release)
    reactor.start()
    try:
        assert calls.acquire(timeout=PATIENCE_S)
        reactor.wait(Waiter(), monotonic() + 0.01)
        assert calls.acquire(timeout=PATIENCE_S)
    finally:
        reactor.shut()
        reactor.close()


def test_a_background_thread_that_logged_is_forgotten_when_it_ends() -> None:
    """``threading`` makes an entry for a thread it does not know, and keeps it; programs count threads."""
    before = threading.active_count()
    reactor = SharedReactor(on_idle=threading.current_thread)  # as logging does
    reactor.start()
    until(lambda: threading.active_count() > before, "an entry")
    reactor.shut()
    reactor.close()
    assert threading.active_count() == before


def test_shutting_ends_every_wait(reactor: SharedReactor) -> None:
    results: list[bool] = []
    threads = [in_thread(lambda: results.append(reactor.wait(Waiter()))) for _ in range(5)]
    until(lambda: not reactor._nobody_leads() and len(reactor._followers) >= 4, "five waits")
    reactor.shut()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert results == [False] * 5
    assert reactor.wait(Waiter()) is False, "nobody waits on what is closed"


def test_one_pass_for_a_thread_with_a_loop_of_its_own(reactor: SharedReactor, echo: Echo) -> None:
    waiter = echo.expect(1)
    echo.answer(1)
    deadline = monotonic() + PATIENCE_S
    while waiter.remaining and monotonic() < deadline:
        reactor.lead_once(0.01)
    assert waiter.remaining == 0


def test_a_signal_handler_may_wait_where_it_interrupts_a_wait() -> None:
    """``get`` in a handler of SIGALRM or SIGTERM: the thread that leads must not follow itself."""
    reactor = SharedReactor()  # not started: nobody else may lead
    echo = Echo(reactor)
    outer, inner = echo.expect(1), echo.expect(2)
    waited: list[bool] = []

    def handler(*_: object) -> None:
        echo.answer(2)
        waited.append(reactor.wait(inner, monotonic() + PATIENCE_S))
        waited.append(reactor._user_leads)
        echo.answer(1)

    def interrupt() -> None:
        until(lambda: reactor._user_leads, "the wait")
        with reactor.lock:  # so that it does not come where the main thread holds it
            signal.pthread_kill(main, signal.SIGUSR1)

    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        in_thread(interrupt)
        assert reactor.wait(outer, monotonic() + 2 * PATIENCE_S)
    finally:
        signal.signal(signal.SIGUSR1, before)
        echo.close()
        reactor.close()
    assert waited == [True, True], "and whoever it interrupted leads as before"


@pytest.mark.parametrize("ends", ["returns", "raises"])
def test_a_signal_handler_may_wait_for_another_thread_that_waits(ends: str) -> None:
    """It joins a thread that is in ``get``: somebody must read meanwhile. Its own answer comes then, too."""
    reactor = SharedReactor()
    echo = Echo(reactor)
    outer, others = echo.expect(1), echo.expect(2)
    waited: list[bool] = []

    class Ended(Exception):
        pass

    def handler(*_: object) -> None:
        follower = in_thread(lambda: waited.append(reactor.wait(others, monotonic() + PATIENCE_S)))
        echo.answer(1, 2)
        follower.join(PATIENCE_S)
        if ends == "raises":
            raise Ended

    def in_wait(number: int, frame: Any) -> None:
        led = reactor.lock.step_aside()  # as processes/interrupts.py does
        try:
            handler(number, frame)
        finally:
            reactor.lock.step_back(led)

    def interrupt() -> None:
        until(lambda: reactor._user_leads, "the wait")
        with reactor.lock:
            signal.pthread_kill(main, signal.SIGUSR1)

    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, in_wait)
    began = monotonic()
    try:
        with reactor._turn:  # so that it is the main thread that leads
            reactor.start()
            in_thread(interrupt)
            try:
                ended = reactor.wait(outer, monotonic() + 2 * PATIENCE_S)
            except Ended:
                ended = ends == "raises"
            assert reactor._aside == 0
            assert reactor.wait(outer, monotonic() + PATIENCE_S)
    finally:
        signal.signal(signal.SIGUSR1, before)
        reactor.shut()
        echo.close()
        reactor.close()
    assert ended
    assert waited == [True]
    assert monotonic() - began < PATIENCE_S / 2, "it was woken"


def test_who_waits_in_the_middle_of_our_books_is_refused(reactor: SharedReactor) -> None:
    """A ``__del__`` under the lock: to handle messages there would be to read half-written ones."""
    with reactor.lock, pytest.raises(RuntimeError, match="in the middle of Beamlet's own work"):
        reactor.wait(Waiter())


def test_descriptors_stay_for_a_leader_that_closing_has_interrupted() -> None:
    reactor = SharedReactor()
    reactor.start()
    with reactor._turn:
        reactor.shut()
        reactor.close()
        assert reactor.poll(0.0) != [], "the wake-up of shut is still to be read"
    reactor.close()


def test_near_the_end_of_the_stack_another_thread_handles_messages(
    reactor: SharedReactor, echo: Echo
) -> None:
    """A handler that runs out of stack would lose its message, and its waiter would wait for ever."""

    def wait_at(frames: int) -> bool:
        return wait_at(frames - 1) if frames else reactor.wait(waiter, monotonic() + PATIENCE_S)

    waiter = echo.expect(1)
    depth = 0
    while True:
        try:
            sys._getframe(depth)
        except ValueError:
            break
        depth += 1
    echo.answer(1)
    assert wait_at(sys.getrecursionlimit() - depth - turns.HEADROOM_FRAMES // 2)
    assert threading.get_ident() not in echo.handled_by


def test_no_wake_up_is_lost_under_stress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait, give up, compute and come back, against answers that come at any moment.

    Nobody looks again by the clock here, so that a wake-up that was lost stays lost.
    """
    monkeypatch.setattr(turns, "IDLE_S", 100 * PATIENCE_S)
    monkeypatch.setattr(turns, "_FOLLOW_S", 100 * PATIENCE_S)
    reactor = SharedReactor()
    reactor.start()
    echo = Echo(reactor)
    ends = monotonic() + STRESS_S
    counts: list[int] = []

    def ask(which: int) -> None:
        chance = random.Random(which)
        count = 0
        while monotonic() < ends:
            waiter = echo.expect(which)
            delay = chance.choice((0.0, 0.0, 0.0, 0.0003, 0.003))
            if chance.random() < 0.5:
                echo.answer(which)
            else:
                threading.Timer(delay, echo.answer, (which,)).start()
            if chance.random() < 0.2:
                reactor.wait(waiter, monotonic() + 0.0005)
            if chance.random() < 0.2:
                time.sleep(0.0002)
            assert reactor.wait(waiter), "an answer was never noticed"
            count += 1
        counts.append(count)

    threads = [in_thread(lambda which=which: ask(which)) for which in range(6)]  # type: ignore[misc]
    for thread in threads:
        thread.join(STRESS_S + PATIENCE_S)
    echo.close()
    reactor.shut()
    reactor.close()
    assert len(counts) == 6, "a thread failed, or waits still"
    assert min(counts) > 0


class CountingPoller(KernelPoller):
    """Counts how often somebody goes to sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeps = 0
        epoll = self.poll

        def poll(timeout_s: float | None = None) -> list[tuple[int, int]]:
            self.sleeps += timeout_s != 0
            return epoll(timeout_s)

        self.poll = poll  # type: ignore[method-assign]


class Bell:
    """What wakes the background thread; keeps how long that was ready to wait."""

    def __init__(self, reactor: SharedReactor) -> None:
        self._lock = reactor._bell
        self.release = self._lock.release
        self.waits: list[float] = []
        reactor._bell = cast("Any", self)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self.waits.append(timeout)
        return self._lock.acquire(blocking, timeout)


@pytest.mark.parametrize("leads", [False, True])
def test_the_background_thread_sleeps_long_only_if_a_leader_is_left_to_wake_it(
    leads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its decision to sleep and its sleep the leader may have left."""
    reactor = SharedReactor()
    bell = Bell(reactor)
    if leads:
        bell.release()
    reactor._user_leads = leads
    reactor._park(PARK_S, deep=True)
    assert bell.waits == [-1 if leads else PARK_S]
    reactor.close()


class Coming(SharedReactor):
    """A background thread between turns of users' threads: one comes during each of the first parks."""

    def __init__(self, comes: int) -> None:
        super().__init__()
        self.comes = comes
        self.did: list[float | str] = []

    def _park(self, park_s: float, deep: bool) -> None:
        self.did.append(park_s)
        self._turns_taken += self.comes > 0
        self.comes -= 1

    def _lead_in_background(self, seen: int) -> None:
        self._closing = "leads" in self.did
        self.did.append("leads")
        self._turns_taken += 1  # which is why it leads no longer


def test_the_background_thread_looks_soon_after_it_has_led_and_ever_more_rarely_in_a_loop_of_waits() -> None:
    """What a program leaves behind that waits once and computes again is not left for a PARK_S, or two."""
    reactor = Coming(comes=6)
    reactor._background()
    rising = [PARK_S / 8, PARK_S / 4, PARK_S / 2]
    assert reactor.did == [*rising, *[PARK_S] * 4, "leads", PARK_S / 8, "leads"]
    reactor.close()


class AloneOrNot(CountingPoller):
    """Nothing comes, unless told so; keeps how long it was asked to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []
        self.then: dict[int, Callable[[], list[tuple[int, int]]]] = {}

        def poll(timeout_s: float | None = None) -> list[tuple[int, int]]:
            if timeout_s == 0:
                return []
            self.waits.append(timeout_s)
            return self.then.get(len(self.waits), list)()

        self.poll = poll  # type: ignore[method-assign]


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("own_loop", [False, True])
def test_a_thread_that_waits_alone_looks_ever_more_rarely(
    others: int, own_loop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of idle actors cost next to nothing. Other threads may release references at any time."""
    monkeypatch.setattr(threading, "active_count", lambda: 1 + others)
    poller = AloneOrNot()
    looked = 0

    def look() -> None:
        nonlocal looked
        looked += 1

    now = 0.0
    reactor = SharedReactor(look, poller=poller, clock=lambda: now, spin_s=0.0)
    waiter = Waiter()
    done = False

    def end() -> list[tuple[int, int]]:
        nonlocal done
        done = True
        waiter.complete()
        return []

    def passes() -> list[tuple[int, int]]:
        nonlocal now
        now += 1000.0
        return []

    poller.then = {**dict.fromkeys(range(1, 9), passes), 7: lambda: [(12345, 1)], 9: end}
    if own_loop:
        while not done:
            reactor.lead_once(None)
    else:
        assert reactor.wait(waiter)
    growing = [IDLE_S, 2 * IDLE_S, 4 * IDLE_S, 8 * IDLE_S, 4.0, 4.0, 4.0, IDLE_S, 2 * IDLE_S]
    assert poller.waits == ([IDLE_S] * 9 if others else growing)
    assert looked == 7, "whenever it wakes with nothing to do, it looks after what was released"
    reactor.close()


@pytest.mark.parametrize("waiting", [0, 2])
def test_idleness_is_sleep(waiting: int) -> None:
    """With nobody waiting, and with a leader and a follower that wait for what does not come.

    Counted, not timed: who sleeps IDLE_S at a time goes to sleep a few times, who spins or looks every PARK_S
    some hundred times. A busy machine only makes it less often.
    """
    poller = CountingPoller()
    reactor = SharedReactor(poller=poller)
    parks = Bell(reactor).waits
    reactor.start()
    deadline = monotonic() + 0.9
    threads = [in_thread(lambda: reactor.wait(Waiter(), deadline)) for _ in range(waiting)]
    time.sleep(0.2)  # let the first passes go by: what is counted is the rest
    before = poller.sleeps + len(parks)
    time.sleep(0.6)
    count = poller.sleeps + len(parks) - before
    for thread in threads:
        thread.join(PATIENCE_S)
    reactor.shut()
    reactor.close()
    assert count < 20, f"went to sleep {count} times in 600 ms of doing nothing"
