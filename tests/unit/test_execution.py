"""The executing side of a worker, driven by hand: what arrives, runs, is answered, is forgotten."""

from __future__ import annotations

import atexit
import gc
import os
import threading
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from beamlet.api.object_ref import ObjectRef
from beamlet.base.ids import ActorId, Address, FunctionKey, ObjectId, TaskId
from beamlet.core_worker.context import TaskContext
from beamlet.core_worker.executing.leaving import Leaving
from beamlet.core_worker.executing.runner import ActorExit
from beamlet.core_worker.submitting.actor_submitter import ActorLink
from beamlet.core_worker.task_events import TaskEventBuffer
from beamlet.exceptions import ObjectStoreFullError, RaySystemError, RayTaskError, TaskCancelledError
from beamlet.protocol.node import (
    Blocked,
    ExitedOnPurpose,
    ExitWorker,
    OutputMark,
    ReturnLease,
    Staying,
    Unblocked,
)
from beamlet.protocol.peer import (
    CallActor,
    CancelTask,
    HandedBack,
    PushTask,
    Result,
    Results,
    StealTasks,
    Yielded,
)
from beamlet.rpc.turns import Waiter
from beamlet.serialization.arguments import NO_ARGUMENTS, serialize_arguments
from beamlet.serialization.refs import released
from beamlet.serialization.values import loads_plain, pack, rebuild_packed, unpack
from support.executing import JOB, Worker, a_peer
from support.submitting import Caller


@pytest.fixture
def worker() -> Worker:
    return Worker()


def error_in(message: Any) -> Any:
    assert isinstance(message, Results)
    assert message.failed
    (payload,) = message.items
    assert isinstance(payload, bytes)
    return rebuild_packed(unpack(payload))


def one() -> int:
    return 1


def cancel(task: PushTask | CallActor, force: bool = False) -> CancelTask:
    return CancelTask(TaskId(task.task_id), force, True)


# -- running -------------------------------------------------------------------------------------


def test_tasks_run_in_order_and_are_answered(worker: Worker) -> None:
    ran: list[str] = []
    worker.pushed(partial_named("a", ran))
    worker.pushed(partial_named("b", ran))
    assert worker.execution.run_next()
    assert ran == ["a"]
    assert worker.execution.run_next()
    assert not worker.execution.run_next(), "nothing is left"
    first, second = worker.answered()
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert (first.seq, second.seq) == (1, 2)
    assert worker.work.running == {}


def partial_named(name: str, ran: list[str]) -> Any:
    def function() -> None:
        ran.append(name)

    function.__name__ = name
    return function


def test_answers_gather_while_more_work_waits_and_the_last_leaves_at_once(worker: Worker) -> None:
    for name in "abc":
        worker.pushed(partial_named(name, []))
    while worker.execution.run_next():
        pass
    assert worker.reactor.left == [False, False, True]


def test_an_error_of_the_user_is_the_answer(worker: Worker) -> None:
    def fails() -> None:
        raise KeyError("here")

    worker.pushed(fails)
    worker.execution.run_next()
    (answer,) = worker.answered()
    assert isinstance(error_in(answer), RayTaskError)
    assert answer.error_types[0] == "builtins.KeyError"
    assert worker.work.running == {}


class SmallStore:
    """Has room for so many values."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.unsealed: set[Any] = set()
        self.sealed: set[Any] = set()

    def write(self, object_id: Any, data: Any, call_site: str, owner: Any, unsealed: Any = None) -> int:
        if not self.room:
            raise ObjectStoreFullError("full")
        self.room -= 1
        self.unsealed.add(object_id)
        if unsealed is None:
            self.seal([object_id])
        else:
            unsealed.append(object_id)
        return 1

    def seal(self, object_ids: list[Any]) -> None:
        self.sealed.update(object_ids)
        self.unsealed.difference_update(object_ids)

    def abort(self, object_ids: list[Any]) -> None:
        self.unsealed.difference_update(object_ids)


@pytest.mark.parametrize(("room", "sealed"), [(2, 2), (1, 0)])
def test_large_results_are_stored_all_or_none(worker: Worker, room: int, sealed: int) -> None:
    """One that is stored, and that its owner never hears of, would stay."""
    store: Any = SmallStore(room)
    worker.runner._store = store

    def two() -> list[bytearray]:
        return [bytearray(1_000_000), bytearray(1_000_000)]

    worker.pushed(two, num_returns=2)
    worker.execution.run_next()
    (answer,) = worker.answered()
    assert isinstance(answer, Results)
    assert answer.failed == (room < 2)
    assert (len(store.sealed), store.unsealed) == (sealed, set())


@pytest.mark.parametrize("broken", ["answer", "answer_error", "arguments"])
def test_a_mistake_of_ours_fails_the_task_and_the_next_one_runs(
    worker: Worker, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise KeyError("here")

    def mistake(*_: Any) -> None:
        raise RuntimeError("a mistake of ours")

    worker.pushed(one if broken == "answer" else fails)
    worker.pushed(one)
    with monkeypatch.context() as broken_once:
        broken_once.setattr(worker.runner, broken, mistake)
        worker.execution.run_next()
    (answer,) = worker.answered()
    error = error_in(answer)
    if broken == "arguments":
        assert isinstance(error, RayTaskError), "it happened inside the task, and is told like an error of it"
    else:
        assert isinstance(error, RaySystemError)
        assert worker.reactor.containment.count == 1
    assert worker.work.running == {}
    worker.execution.run_next()
    assert isinstance(worker.answered()[0], Result)


@pytest.mark.parametrize("ends", [SystemExit(3), ActorExit()])
def test_what_ends_the_process_is_not_answered(worker: Worker, ends: BaseException) -> None:
    def leaves() -> None:
        raise ends

    worker.pushed(leaves)
    with pytest.raises(type(ends)):
        worker.execution.run_next()
    assert worker.answered() == []


def test_a_worker_is_worn_out_after_max_calls_whatever_came_of_them(worker: Worker) -> None:
    def every_other_fails(count: list[int] = [0]) -> int:  # noqa: B006
        count[0] += 1
        if count[0] % 2:
            raise ValueError
        return count[0]

    key = worker.pushed(every_other_fails, max_calls=2).function
    again = worker.pushed(every_other_fails, max_calls=2)
    again.function = key
    worker.execution.run_next()
    worker.execution.run_next()
    first, second = worker.answered()
    assert isinstance(first, Results)
    assert isinstance(second, Results)
    assert (first.leaving, second.leaving) == (False, True)


# -- answers that are held -----------------------------------------------------------------------


def printing(worker: Worker) -> Any:
    def says() -> int:
        worker.output.printed = True
        return 1

    return says


def test_an_answer_waits_until_what_was_printed_is_shown(worker: Worker) -> None:
    worker.pushed(printing(worker))
    worker.execution.run_next()
    (mark,) = worker.link.take()
    assert isinstance(mark, OutputMark)
    assert worker.answered() == []
    worker.answers.may_go(mark.token)
    assert len(worker.answered()) == 1
    worker.answers.may_go(mark.token)
    assert worker.answered() == [], "said twice, answered once"


def test_a_leaving_process_lets_held_answers_out_when_they_may_go(worker: Worker) -> None:
    worker.pushed(printing(worker))
    worker.execution.run_next()
    (mark,) = worker.link.take()
    worker.reactor.meanwhile = [partial(worker.answers.may_go, mark.token)]
    worker.answers.send_all(10.0)
    assert len(worker.answered()) == 1


def test_a_leaving_process_does_not_keep_answers_of_a_driver_that_shows_nothing(worker: Worker) -> None:
    worker.pushed(printing(worker))
    worker.execution.run_next()
    worker.answers.send_all(0.01)
    assert len(worker.answered()) == 1


def test_held_answers_of_an_owner_that_died_are_forgotten(worker: Worker) -> None:
    worker.pushed(printing(worker))
    worker.execution.run_next()
    (mark,) = worker.link.take()
    worker.execution.peer_gone(worker.owner)
    worker.answers.may_go(mark.token)
    assert worker.answered() == []


# -- generators ----------------------------------------------------------------------------------


class Numbers:
    """A generator function that tells how far it came, and whether it was closed."""

    __name__ = "numbers"

    def __init__(self, count: int = 100) -> None:
        self.count = count
        self.yielded = 0
        self.closed = False

    def __call__(self) -> Iterator[int]:
        try:
            for number in range(self.count):
                self.yielded += 1
                yield number
        finally:
            self.closed = True


def items_of(messages: list[Any]) -> list[Any]:
    return [loads_plain(message.item) for message in messages if isinstance(message, Yielded)]


def test_a_generator_sends_its_items_and_is_forgotten(worker: Worker) -> None:
    worker.pushed(Numbers(3), num_returns=-1)
    worker.execution.run_next()
    *items, end = worker.answered()
    assert items_of(items) == [0, 1, 2]
    assert isinstance(end, Results)
    assert not end.failed
    assert len(worker.producers) == 0


def test_a_limited_generator_waits_for_its_reader_and_hears_what_was_read_before_it_waited(
    worker: Worker,
) -> None:
    task = worker.pushed(numbers := Numbers(3), num_returns=-1, stream_limit=1)
    seen: list[int] = []

    def taken(count: int) -> None:
        seen.append(numbers.yielded)
        worker.producers.consumed(task.task_id, count)

    send_item = worker.runner.send_item

    def send_and_be_read_at_once(*args: Any) -> None:
        send_item(*args)
        if args[2] == 2:
            taken(2)  # before the producer waits for it

    worker.runner.send_item = send_and_be_read_at_once  # type: ignore[method-assign]
    worker.reactor.meanwhile = [partial(taken, 1), partial(taken, 3)]
    worker.execution.run_next()
    assert seen == [1, 2, 3]
    assert worker.reactor.meanwhile == []


@pytest.mark.parametrize("limit", [-1, 2])
@pytest.mark.parametrize("how", ["dropped", "owner died", "cancelled"])
def test_a_generator_that_nobody_reads_any_more_stops_and_is_forgotten(
    worker: Worker, limit: int, how: str
) -> None:
    task = worker.pushed(numbers := Numbers(), num_returns=-1, stream_limit=limit)

    def end() -> None:
        if how == "dropped":
            worker.producers.drop(task.task_id)
        elif how == "owner died":
            worker.execution.peer_gone(worker.owner)
        else:
            worker.work.running[task.task_id].thread = -1  # one that no signal reaches
            worker.execution.cancel(worker.owner, cancel(task))

    send_item = worker.runner.send_item

    def send_until_the_second(*args: Any) -> None:
        send_item(*args)
        if args[2] == 2 and limit < 0:
            end()

    worker.runner.send_item = send_until_the_second  # type: ignore[method-assign]
    worker.reactor.meanwhile = [end]
    worker.execution.run_next()
    assert numbers.yielded == 2
    assert numbers.closed, "its finally blocks ran"
    assert len(worker.producers) == 0
    end_of_task = worker.answered()[-1]
    if how == "cancelled":
        assert isinstance(error_in(end_of_task), TaskCancelledError)
    else:
        assert isinstance(end_of_task, Results)


def test_a_generator_dropped_in_the_queue_makes_one_item_at_most(worker: Worker) -> None:
    task = worker.pushed(numbers := Numbers(), num_returns=-1)
    worker.producers.drop(task.task_id)
    worker.execution.run_next()
    assert numbers.yielded <= 1
    worker.producers.drop(task.task_id)
    assert len(worker.producers) == 0, "and nothing is remembered of one that has ended"


def test_a_generator_dropped_before_it_begins_makes_one_item_at_most(worker: Worker) -> None:
    numbers = Numbers()

    def begin() -> Iterator[int]:
        worker.producers.drop(task.task_id)
        return numbers()

    task = worker.pushed(begin, num_returns=-1)
    worker.execution.run_next()
    assert numbers.yielded <= 1


def test_a_generator_that_raises_is_forgotten(worker: Worker) -> None:
    def fails() -> Iterator[int]:
        yield 1
        raise ValueError

    worker.pushed(fails, num_returns=-1)
    worker.execution.run_next()
    assert isinstance(error_in(worker.answered()[-1]), RayTaskError)
    assert len(worker.producers) == 0


# -- cancelling ----------------------------------------------------------------------------------


def test_cancel_of_a_queued_task_answers_and_never_runs_it(worker: Worker) -> None:
    task = worker.pushed(one)
    worker.execution.cancel(worker.owner, cancel(task))
    assert isinstance(error_in(worker.answered()[0]), TaskCancelledError)
    assert not worker.execution.run_next()


def test_cancel_while_a_thread_takes_the_task_from_the_queue(worker: Worker) -> None:
    task = worker.pushed(one)
    item = worker.work.queue.take(Waiter())
    assert item is not None
    worker.execution.cancel(worker.owner, cancel(task))
    worker.pushed(one)
    worker._run(item)
    assert isinstance(error_in(worker.answered()[0]), TaskCancelledError)
    worker.execution.run_next()
    assert isinstance(worker.answered()[0], Result), "another is not meant"
    assert worker.work.cancelled_early == {}


def test_a_forced_cancel_says_why_the_process_ends(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(code: int) -> None:
        raise SystemExit(code)

    def is_cancelled() -> None:
        with pytest.raises(SystemExit):
            worker.execution.cancel(worker.owner, cancel(task, force=True))
        said.append((list(worker.link.sent), worker.reactor.flushes - flushes))

    monkeypatch.setattr("os._exit", end)
    said: list[tuple[list[Any], int]] = []
    flushes = worker.reactor.flushes
    task = worker.pushed(is_cancelled)
    worker.execution.run_next()
    ((sent, flushed),) = said
    assert sent == [ExitedOnPurpose("cancel(force=True) of task is_cancelled", task.task_id)]
    assert flushed == 1, "nothing else would send it"


def test_cancels_that_come_too_late_are_forgotten(worker: Worker) -> None:
    for number in range(1000):
        worker.work.cancel_if_it_begins(number.to_bytes(24, "big"))
    assert len(worker.work.cancelled_early) < 100


def test_cancel_of_a_running_task_reaches_its_children(worker: Worker) -> None:
    def is_cancelled() -> bool:
        worker.work.running[task.task_id].thread = -1  # one that no signal reaches
        worker.execution.cancel(worker.owner, cancel(task))
        return worker.work.running[task.task_id].cancelled

    task = worker.pushed(is_cancelled)
    worker.execution.run_next()
    (answer,) = worker.answered()
    assert isinstance(answer, Result)
    assert loads_plain(answer.payload) is True
    assert worker.children.cancelled == [("children of", task.task_id)]


def test_a_cancelled_task_is_interrupted_until_it_hears_of_it_and_no_longer(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal that comes just before a system call does not end that call."""
    later: list[Any] = []
    monkeypatch.setattr(worker.reactor, "call_later", lambda *timer: later.append(timer), raising=False)
    sent: list[int] = []
    monkeypatch.setattr("signal.pthread_kill", lambda thread, number: sent.append(thread))
    work, me = worker.work, threading.main_thread().ident or 0

    def again() -> int:
        """One second later."""
        waiting, later[:] = later[:], []
        for _, call in waiting:
            call()
        return len(sent)

    def is_cancelled(hears: bool = True) -> None:
        sent.clear()
        assert not work.hears_cancel(me), "it was not cancelled"
        worker.execution.cancel(worker.owner, cancel(task))
        assert [len(sent), again(), again()] == [1, 2, 3]
        assert sent == [me] * 3
        if hears:
            assert work.hears_cancel(me)
            assert again() == 3
            assert not later

    task = worker.pushed(is_cancelled)
    worker.execution.run_next()
    assert isinstance(worker.answered()[0], Result), "what is said above held"

    def is_deaf() -> None:
        is_cancelled(hears=False)

    task = worker.pushed(is_deaf)
    worker.execution.run_next()
    assert isinstance(worker.answered()[0], Result)
    assert again() == 3, "it is over, and the next would be struck"
    assert not later


def test_cancel_after_the_answer_changes_nothing_here(worker: Worker) -> None:
    task = worker.pushed(one)
    worker.execution.run_next()
    worker.answered()
    worker.execution.cancel(worker.owner, cancel(task))
    assert worker.answered() == []
    assert worker.children.cancelled == [("task", task.task_id)], "it might be one that we submitted"


# -- owners, waits, orders -----------------------------------------------------------------------


def test_tasks_of_an_owner_that_died_are_not_begun_and_calls_are(worker: Worker) -> None:
    ran: list[str] = []
    worker.pushed(partial_named("task", ran))
    worker.functions[FunctionKey(b"m")] = partial_named("call", ran)
    call = CallActor(9, TaskId(b"c".ljust(20, b".") + JOB), "m", 1, NO_ARGUMENTS)
    worker.execution.call_arrived(worker.owner, call)
    worker.execution.peer_gone(worker.owner)
    while worker.execution.run_next():
        pass
    assert ran == ["call"]


def test_an_owner_that_dies_while_its_task_runs(worker: Worker) -> None:
    def survives() -> int:
        worker.execution.peer_gone(worker.owner)
        return 1

    worker.pushed(survives)
    worker.execution.run_next()
    assert worker.work.running == {}


def test_a_wait_hands_back_what_is_queued_behind_it_and_what_comes_meanwhile(worker: Worker) -> None:
    def waits() -> None:
        with worker.blocked.one_more():
            worker.pushed(one)

    worker.pushed(waits)
    worker.pushed(one)
    worker.execution.run_next()
    assert [type(message) for message in worker.link.take()] == [Blocked, Unblocked]
    behind, meanwhile, answer = worker.answered()
    assert behind == HandedBack([2], True)
    assert meanwhile == HandedBack([3], True)
    assert isinstance(answer, Result)
    assert not worker.execution.run_next()


def test_tasks_of_an_actor_that_this_worker_calls_are_handed_back_as_any(worker: Worker) -> None:
    worker.owner.actor = ActorLink(ActorId(b"a" * 16), "Caller")

    def waits() -> None:
        with worker.blocked.one_more():
            pass

    worker.pushed(waits)
    worker.pushed(one)
    worker.execution.run_next()
    assert worker.answered()[0] == HandedBack([2], True)
    assert not worker.execution.run_next()


def test_tasks_are_stolen_by_their_owner_only(worker: Worker) -> None:
    worker.pushed(one)
    worker.pushed(one)
    thief = a_peer(2)
    worker.execution.steal(thief, StealTasks(5))
    assert thief.queue == [HandedBack([])]
    worker.execution.steal(worker.owner, StealTasks(1))
    assert worker.answered() == [HandedBack([2])]


def test_an_order_is_followed_after_what_was_queued_before(worker: Worker) -> None:
    worker.pushed(one)
    order = ExitWorker("enough", graceful=True)
    worker.execution.exit_asked(order)
    worker.execution.run_next()
    assert worker.orders == []
    worker.execution.run_next()
    assert worker.orders == [order]


def test_an_order_that_cannot_be_followed_is_told_of(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake(_: Any) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(worker.execution, "_run", mistake)
    worker.execution.exit_asked(ExitWorker("enough", graceful=True))
    assert worker.execution.run_next()
    assert worker.reactor.containment.counts == {"following ExitWorker: ZeroDivisionError": 1}


def test_a_worker_in_a_hurry_waits_a_moment_for_what_it_runs(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for what it does after it: clean-up of the user's may take longer."""
    later: list[Any] = []
    ends: list[int] = []
    monkeypatch.setattr(worker.reactor, "call_later", lambda *timer: later.append(timer), raising=False)
    monkeypatch.setattr("os._exit", ends.append)
    worker.execution.exit_asked(ExitWorker("the program ends", graceful=True))
    assert not later
    worker.execution.exit_asked(ExitWorker("the program ends", graceful=True, hurried=True))
    ((seconds, call),) = later
    assert seconds <= 0.2
    call()
    assert not ends, "it runs nothing"
    worker.work.running[b"a call"] = TaskContext(TaskId(b"t" * 24))
    call()
    assert ends == [0]


def test_a_worker_that_is_needed_stays_if_it_may(worker: Worker) -> None:
    worker.children.needed = True
    worker.execution.exit_asked(ExitWorker("idle", graceful=True, optional=True))
    worker.execution.exit_asked(ExitWorker("idle", graceful=True, optional=True, job_is_over=True))
    assert worker.link.take() == [Staying(), Staying()]
    assert worker.children.asked == [False, True], "whether its job is over"
    assert not worker.execution.run_next()


def test_the_system_is_answered_while_users_methods_fill_the_queue(worker: Worker) -> None:
    from beamlet.core_worker.executing.execution_queue import ExecutionQueue

    worker.work.system, worker.work.takes_turns = ExecutionQueue(), False
    ready = CallActor(9, TaskId(b"c".ljust(20, b".") + JOB), "__ray_ready__", 1, NO_ARGUMENTS)
    other = CallActor(8, TaskId(b"d".ljust(20, b".") + JOB), "m", 1, NO_ARGUMENTS)
    worker.execution.call_arrived(worker.owner, other)
    worker.execution.call_arrived(worker.owner, ready)
    assert list(worker.work.system.items) == [(worker.owner, ready)]
    assert list(worker.work.queue.items) == [(worker.owner, other)]
    assert worker.work.remove(ready.task_id) == (worker.owner, ready), "and it can be cancelled there"


def test_the_process_ends_when_what_it_said_is_out(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(BaseException):
        pass

    def exit_(code: int) -> None:
        raise Ended(code)

    caller = Caller()
    result, leased = caller.task(), caller.grant()
    (push,) = caller.pushed(leased)
    caller.answer(leased, push, 1)
    assert leased.leased is not None
    lease = leased.leased.lease
    del result
    peers: Any = SimpleNamespace(is_all_out=False)
    link: Any = SimpleNamespace(connection=SimpleNamespace(backlog_bytes=1))
    monkeypatch.setattr(os, "_exit", exit_)
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: None)
    worker.reactor.is_closing = False
    worker.reactor.meanwhile = [
        lambda: setattr(peers, "is_all_out", True),
        lambda: setattr(link.connection, "backlog_bytes", 0),
    ]
    worker.reactor.now = lambda: caller.now
    leaving = Leaving(
        *(worker.reactor, link, peers, worker.answers, worker.output),
        *(TaskEventBuffer(b"w" * 28), caller.leases),
    )
    with pytest.raises(Ended):
        leaving.end(0)
    assert worker.reactor.meanwhile == []
    # Killed with our leases, a worker that we do not use would take along what others use of it.
    assert caller.raylet.took(ReturnLease) == [ReturnLease(lease, dispose=False)]
    caller.close()


class Faulty:
    """Raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return divmod, (1, 0)


def test_arguments_that_cannot_be_unpickled_keep_nothing_that_is_in_them(worker: Worker) -> None:
    owner = Address(b"o" * 32)
    refs = [ObjectRef(ObjectId(letter * 28), owner) for letter in (b"a", b"b", b"c")]
    serialized = serialize_arguments(([refs[0], Faulty(), *refs[1:]],), {})
    ids = [ref._id for ref in refs]
    del refs
    serialized.alive.clear()
    gc.collect()
    for object_id in ids:
        released.remove(object_id)  # nobody counts those
    task = worker.pushed(lambda value: value)
    task.args, task.nested = pack(serialized), serialized.contained
    assert worker.execution.run_next()
    (answer,) = worker.answered()
    assert isinstance(answer, Results)
    assert answer.failed
    assert not worker.refs.objects
