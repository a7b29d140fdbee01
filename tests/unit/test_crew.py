"""The threads of one queue: calls that wait get one each, brisk ones share one, and nobody is forgotten."""

from __future__ import annotations

from collections.abc import Callable

from beamlet.base.ids import FunctionKey
from beamlet.core_worker.executing.crew import BRISK_S, LONG_S, LOOK_S
from beamlet.core_worker.executing.execution_queue import ExecutionQueue
from beamlet.protocol.peer import PushTask
from beamlet.rpc.turns import Waiter
from support.tasks import id_of

ME = "me"


def task(seq: int) -> PushTask:
    return PushTask(seq, id_of(f"t{seq}"), FunctionKey(b"f"), f"t{seq}", 1, b"")


class Process:
    """Counts the threads that the crew has started; each comes when the test lets it. Time stands still."""

    def __init__(self, most: int = 100) -> None:
        self.started = 0
        self.most = most
        self.time_s = 100.0
        self.looks: list[Callable[[], None]] = []

    def start(self) -> bool:
        if self.started == self.most:
            return False
        self.started += 1
        return True

    def now(self) -> float:
        return self.time_s

    def look_later(self, look: Callable[[], None], after_s: float = LOOK_S) -> None:
        self.looks.append(look)

    def look(self) -> None:
        """LOOK_S have passed."""
        self.time_s += LOOK_S
        looks, self.looks = self.looks, []
        for look in looks:
            look()


def crew_of(count: int, most: int = 100) -> tuple[ExecutionQueue, Process]:
    queue, process = ExecutionQueue(), Process(most)
    queue.crew.allow(count, process)
    return queue, process


def put(queue: ExecutionQueue, *seqs: int) -> None:
    for seq in seqs:
        queue.put((ME, task(seq)))  # type: ignore[arg-type]


def after_brisk_calls(count: int) -> tuple[ExecutionQueue, Process, Waiter]:
    """A crew one of whose threads has just done a few short calls, and has the next in hand."""
    queue, process = crew_of(count)
    thread = Waiter()
    put(queue, 1, 2)
    queue.take(thread, woken=True)
    process.time_s += BRISK_S / 4
    queue.take(thread)
    put(queue, 3)
    process.time_s += BRISK_S / 4
    assert queue.take(thread) is not None
    assert queue.take(Waiter(), woken=True) is None, "it was started before the calls were known to be brisk"
    return queue, process, thread


def called(queue: ExecutionQueue, process: Process) -> int:
    """How many threads were started, or woken."""
    return process.started - len(queue.crew.idle)


def test_threads_are_started_one_by_one_while_there_is_work_for_them() -> None:
    queue, process = crew_of(2)
    assert process.started == 0, "nothing to do yet"
    put(queue, 1, 2, 3, 4)
    assert process.started == 1, "the next one comes when this one has come"
    queue.take(Waiter(), woken=True)
    assert process.started == 2
    queue.take(Waiter(), woken=True)
    put(queue, 5)
    assert process.started == 2, "no more are allowed"
    assert len(queue) == 3


def test_an_idle_thread_is_woken_before_another_is_started() -> None:
    queue, process = crew_of(10**6)
    thread = Waiter()
    queue.take(thread)
    put(queue, 1)
    assert (thread.remaining, process.started) == (0, 0)


def test_when_no_thread_can_be_had_those_there_are_do_the_work() -> None:
    queue, _ = crew_of(5, most=0)
    put(queue, 1)
    assert queue.crew.may_start == 0
    assert queue.take(Waiter()) == (ME, task(1))
    thread = Waiter()
    queue.take(thread)
    put(queue, 2)
    assert thread.remaining == 0


def test_when_no_thread_can_be_had_and_nobody_serves_it_is_tried_again() -> None:
    """The calls of a concurrency group waited for ever: nobody asked for its only thread again."""
    queue, process = crew_of(1, most=0)
    put(queue, 1)
    put(queue, 2)
    process.look()
    assert process.started == 0
    process.most = 1
    process.look()
    assert process.started == 1
    assert not process.looks, "nor any longer"
    assert queue.take(Waiter(), True) == (ME, task(1))


def test_brisk_calls_are_done_by_the_thread_that_is_at_it() -> None:
    queue, process, thread = after_brisk_calls(8)
    before = called(queue, process)
    for seq in range(10, 60):
        put(queue, seq)
        process.time_s += BRISK_S / 4
        assert queue.take(thread) == (ME, task(seq))
    assert called(queue, process) == before


def test_a_brisk_thread_that_gets_stuck_is_helped_by_all() -> None:
    queue, process, _ = after_brisk_calls(8)
    put(queue, 10, 11, 12)
    before = called(queue, process)
    process.look()
    assert called(queue, process) == before + 1, "it has been in its call for LOOK_S"
    queue.take(Waiter(), woken=True)
    assert called(queue, process) == before + 2, "who comes now has the next one started at once"
    queue.take(Waiter(), woken=True)
    put(queue, 13, 14)
    assert called(queue, process) == before + 3
    assert not process.looks, "nothing waits that nobody was called for"


def test_while_the_thread_gets_on_it_is_looked_at_again_and_nobody_is_woken() -> None:
    queue, process, thread = after_brisk_calls(8)
    put(queue, *range(10, 20))
    before = called(queue, process)
    for _ in range(5):
        process.time_s += LOOK_S - BRISK_S / 2
        queue.crew._since = process.time_s  # as if it had done brisk calls all the time
        process.time_s += BRISK_S / 4
        queue.take(thread)
        process.time_s -= LOOK_S
        process.look()
    assert called(queue, process) == before
    assert len(process.looks) == 1


def test_the_look_ends_when_nothing_waits() -> None:
    queue, process, thread = after_brisk_calls(8)
    put(queue, 10)
    assert len(process.looks) == 1
    process.time_s += BRISK_S / 4
    queue.take(thread)
    assert queue.take(thread) is None
    process.look()
    assert not process.looks
    put(queue, 11)
    assert thread.remaining == 0, "it rests: it is woken at once"


def test_of_two_threads_with_brisk_calls_one_goes_to_rest() -> None:
    queue, process, first = after_brisk_calls(8)
    second = Waiter()
    put(queue, 10, 11)
    assert queue.take(second, woken=True) is None
    assert second in queue.crew.idle
    assert process.looks, "should the first not come back, somebody sees it"
    process.time_s += BRISK_S / 4
    assert queue.take(first) == (ME, task(10))


def test_a_long_call_ends_the_briskness_and_so_do_some_that_are_neither() -> None:
    for took_s, times in ((LONG_S * 2, 1), (BRISK_S * 2, 4)):
        queue, process, thread = after_brisk_calls(8)
        for seq in range(10, 10 + times):
            put(queue, seq)
            process.time_s += took_s
            queue.take(thread)
        before = called(queue, process)
        put(queue, 50)
        assert called(queue, process) == before + 1


def test_one_call_that_is_neither_says_nothing() -> None:
    queue, process, thread = after_brisk_calls(8)
    put(queue, 10)
    process.time_s += BRISK_S * 2  # another thread had the interpreter for a moment
    queue.take(thread)
    before = called(queue, process)
    put(queue, 11)
    assert called(queue, process) == before
