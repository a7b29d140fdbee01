"""Calls on an event loop: what they wait for without a thread, and cancels at every stage."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from beamlet.base.ids import TaskId
from beamlet.core_worker.executing.async_actor import AsyncCalls
from beamlet.core_worker.executing.work import READY, TERMINATE
from beamlet.exceptions import TaskCancelledError
from beamlet.protocol.node import ExitWorker
from beamlet.protocol.peer import CallActor, CancelTask, Result, Results, Yielded
from beamlet.rpc.turns import SharedReactor
from beamlet.serialization.arguments import NO_ARGUMENTS
from beamlet.serialization.values import rebuild_packed, unpack
from support.executing import JOB, Worker


class Actor:
    """What AsyncCalls needs of an ActorProcess: methods by name, and the end."""

    def __init__(self) -> None:
        self.methods: dict[str, tuple[Any, str]] = {}
        self.named: dict[str, Any] = {READY: lambda: True, TERMINATE: lambda: None}
        self.left: list[str] = []

    def method(self, name: str) -> tuple[Any, str]:
        return self.named[name], f"A.{name}"

    async def leave_from_loop(self, reason: str) -> None:
        self.left.append(reason)


class Desk:
    """AsyncCalls on a loop of its own, driven by ``run``."""

    def __init__(self, max_concurrency: int = 100) -> None:
        self.worker = Worker()
        self.actor: Any = Actor()
        self.reactor = SharedReactor()
        spec: Any = SimpleNamespace(class_name="A", max_concurrency=max_concurrency, concurrency_groups={})
        self.calls = AsyncCalls(self.reactor, self.worker.work, self.worker.runner, self.actor, spec)
        self.worker.work.loop, self.worker.work.takes_turns = self.calls, False
        self._seq = 0

    def call(self, method: str, num_returns: int = 1, stream_limit: int = -1) -> CallActor:
        self._seq += 1
        task_id = TaskId(f"c{self._seq}".encode().ljust(20, b".") + JOB)
        call = CallActor(self._seq, task_id, method, num_returns, NO_ARGUMENTS, stream_limit=stream_limit)
        self.worker.execution.call_arrived(self.worker.owner, call)
        return call

    def run(self, steps: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.calls.loop.run_until_complete(steps())

    async def settle(self) -> None:
        """Let everything that can run do so."""
        for _ in range(20):
            await asyncio.sleep(0)

    def close(self) -> None:
        asyncio.set_event_loop(None)
        asyncio.SelectorEventLoop.close(self.calls.loop)
        self.reactor.close()


@pytest.fixture
def desk() -> Any:
    desk = Desk()
    yield desk
    desk.close()


@pytest.fixture
def narrow() -> Any:
    desk = Desk(max_concurrency=1)
    yield desk
    desk.close()


def is_cancelled(answer: Any) -> bool:
    assert isinstance(answer, Results)
    (payload,) = answer.items
    assert isinstance(payload, bytes)
    return isinstance(rebuild_packed(unpack(payload)), TaskCancelledError)


async def numbers() -> AsyncIterator[int]:
    for number in range(100):
        yield number


def test_many_limited_generators_wait_without_threads_and_each_goes_on_when_it_is_read(desk: Desk) -> None:
    desk.actor.named["numbers"] = numbers

    async def steps() -> None:
        calls = [desk.call("numbers", num_returns=-1, stream_limit=1) for _ in range(30)]
        await desk.settle()
        assert len(desk.worker.answered()) == 30, "one item each"
        desk.worker.producers.consumed(calls[17].task_id, 1)
        await desk.settle()
        (item,) = desk.worker.answered()
        assert isinstance(item, Yielded)
        assert (item.seq, item.index) == (calls[17].seq, 2)
        desk.worker.execution.peer_gone(desk.worker.owner)
        await desk.settle()
        assert len(desk.worker.producers) == 0
        assert desk.worker.work.running == {}

    desk.run(steps)


def test_a_generator_waits_for_a_slow_reader_and_other_calls_run(desk: Desk) -> None:
    full: set[Any] = {desk.worker.owner}
    desk.worker.runner.peers = SimpleNamespace(full=full)  # type: ignore[assignment]
    desk.actor.named["numbers"] = numbers
    desk.actor.named["one"] = lambda: 1

    async def steps() -> None:
        desk.call("numbers", num_returns=-1)
        await desk.settle()
        assert len(desk.worker.answered()) == 1
        desk.call("one")
        await desk.settle()
        (answer,) = desk.worker.answered()
        assert isinstance(answer, Result)
        full.clear()
        for waiter in desk.worker.owner.room:
            waiter.complete()
        await desk.settle()
        assert len(desk.worker.answered()) == 100, "99 items and the end"

    desk.run(steps)


def test_a_method_that_cancels_all_tasks_leaves_no_call_unanswered(desk: Desk) -> None:
    async def cancel_others() -> None:
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task() and "steps" not in repr(task):
                task.cancel()

    desk.actor.named |= {"cancel_others": cancel_others, "sleep": lambda: asyncio.sleep(100)}

    async def steps() -> None:
        desk.call("cancel_others")
        for _ in range(3):
            desk.call("sleep")
        await desk.settle()
        first, *others = desk.worker.answered()
        assert isinstance(first, Result)
        assert [is_cancelled(answer) for answer in others] == [True] * 3
        assert desk.worker.work.running == {}
        desk.call(TERMINATE)
        desk.call("cancel_others")
        await desk.settle()
        assert desk.actor.left, "it was asked to end, and ends"

    desk.run(steps)


def test_cancel_at_every_stage(narrow: Desk) -> None:
    async def waits() -> None:
        await asyncio.Event().wait()

    narrow.actor.named["waits"] = waits

    def cancel(call: CallActor) -> None:
        message = CancelTask(TaskId(call.task_id), False, True)
        narrow.worker.execution.cancel(narrow.worker.owner, message)

    async def steps() -> None:
        running, queued = narrow.call("waits"), narrow.call("waits")
        await asyncio.sleep(0)
        assert narrow.worker.work.running == {}
        cancel(running)  # its coroutine was made and has not begun
        await narrow.settle()
        (answer,) = narrow.worker.answered()
        assert is_cancelled(answer)
        third = narrow.call("waits")
        await narrow.settle()
        assert narrow.calls.is_queued(third.task_id)
        cancel(third)
        await narrow.settle()
        (answer,) = narrow.worker.answered()
        assert isinstance(answer, Results)
        assert answer.seq == third.seq
        assert is_cancelled(answer)
        cancel(queued)
        await narrow.settle()
        assert is_cancelled(narrow.worker.answered()[0])
        assert narrow.worker.work.running == {}

    narrow.run(steps)


def test_cancelling_all_of_many_queued_looks_at_each_a_few_times(narrow: Desk) -> None:
    looks = 0

    class Counting(deque[Any]):
        def __iter__(self) -> Iterator[Any]:
            nonlocal looks
            looks += len(self)
            return super().__iter__()

    go_on = asyncio.Event()
    narrow.actor.named |= {"waits": go_on.wait, "one": lambda: 1}

    async def steps() -> None:
        first, *others, last = [narrow.call("waits"), *[narrow.call("one") for _ in range(2001)]]
        narrow.calls._arrived = Counting(narrow.calls._arrived)
        await narrow.settle()
        narrow.calls._waiting = {"": Counting(narrow.calls._waiting[""])}
        for call in others:
            narrow.worker.execution.cancel(narrow.worker.owner, CancelTask(call.task_id, False, True))
        await narrow.settle()
        answers = narrow.worker.answered()
        assert [answer.seq for answer in answers] == [call.seq for call in others]
        assert all(map(is_cancelled, answers))
        assert looks < 8 * len(others)
        go_on.set()
        await narrow.settle()
        assert [answer.seq for answer in narrow.worker.answered()] == [first.seq, last.seq]
        narrow.calls.take_order(ExitWorker("it is over", graceful=True))
        await narrow.settle()
        assert narrow.actor.left == ["it is over"]

    narrow.run(steps)


def test_a_mistake_of_ours_answers_the_call(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake(*_: Any) -> None:
        raise RuntimeError("a mistake of ours")

    desk.actor.named["one"] = lambda: 1
    monkeypatch.setattr(desk.worker.runner, "answer", mistake)

    async def steps() -> None:
        desk.call("one")
        await desk.settle()
        (answer,) = desk.worker.answered()
        assert isinstance(answer, Results)
        assert answer.failed

    desk.run(steps)


def test_the_end_waits_for_the_calls_that_run_and_ready_does_not(narrow: Desk) -> None:
    go_on = asyncio.Event()
    narrow.actor.named["waits"] = go_on.wait

    async def steps() -> None:
        narrow.call("waits")
        narrow.call(READY)
        await narrow.settle()
        (ready,) = narrow.worker.answered()
        assert isinstance(ready, Result)
        narrow.worker.execution.exit_asked(ExitWorker("out of scope", graceful=True))
        await narrow.settle()
        assert narrow.actor.left == []
        go_on.set()
        await narrow.settle()
        assert narrow.actor.left == ["out of scope"]
        assert len(narrow.worker.answered()) == 1

    narrow.run(steps)


def test_ready_makes_no_room_for_a_call_when_it_ends(narrow: Desk) -> None:
    go_on, most = asyncio.Event(), 0

    async def alone() -> None:
        nonlocal most
        most = max(most, len(narrow.worker.work.running))
        await go_on.wait()

    narrow.actor.named["alone"] = alone

    async def steps() -> None:
        narrow.call("alone")
        narrow.call("alone")
        narrow.call(READY)
        await narrow.settle()
        assert len(narrow.worker.answered()) == 1
        assert len(narrow.worker.work.running) == most == 1, "max_concurrency is 1"
        go_on.set()
        await narrow.settle()
        assert len(narrow.worker.answered()) == 2

    narrow.run(steps)


def test_a_loop_that_users_stop_goes_on_and_one_they_close_stays_open(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    loop = desk.calls.loop

    def leave() -> None:
        raise SystemExit(7)

    def end() -> None:
        loop.call_soon(leave)

    loop.run_until_complete(asyncio.sleep(0))  # as constructors may, which close it then
    loop.close()
    assert not loop.is_closed()
    desk.actor.named |= {"stop": loop.stop, "one": lambda: 1, "end": end}
    for method in ("stop", "one", "stop", "one", "end"):
        desk.call(method)
    with pytest.raises(SystemExit):
        desk.calls.serve()
    assert [type(answer) for answer in desk.worker.answered()] == [Result] * 5
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(" of the event loop")[0] for line in said] == [
        "code of A called close()",
        "A.stop called stop()",
    ]
