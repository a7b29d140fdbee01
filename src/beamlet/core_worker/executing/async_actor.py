"""Actors with ``async def`` methods: calls as coroutines on one asyncio loop in the main thread.

The loop's selector *is* the core worker's reactor: when the loop has nothing to run it leads (rpc/turns) and
reads the sockets itself, spinning a little before it sleeps, so that a call costs no hop between threads.
While user code holds the loop, the background thread reads; what arrives then is handed over.
"""

from __future__ import annotations

import asyncio
import inspect
import selectors
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from time import time_ns
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any, NoReturn

from beamlet.base.deferring import lets_through
from beamlet.core_worker.context import TaskContext, current_task
from beamlet.core_worker.executing.actor_loop import ActorLoop
from beamlet.core_worker.executing.execution_queue import Order
from beamlet.core_worker.executing.loop_watch import LoopWatch
from beamlet.core_worker.executing.producers import Producer
from beamlet.core_worker.executing.runner import Runner
from beamlet.core_worker.executing.work import READY, TERMINATE, Work
from beamlet.core_worker.peers import Peer
from beamlet.exceptions import AsyncioActorExit, TaskCancelledError
from beamlet.protocol.gcs import ActorSpec
from beamlet.protocol.node import ExitWorker
from beamlet.protocol.peer import CallActor
from beamlet.rpc.batches import FEW_MESSAGES
from beamlet.rpc.turns import SharedReactor, Waiter

if TYPE_CHECKING:
    from beamlet.core_worker.executing.actor_process import ActorProcess

#: While many coroutines run, their answers gather for so long, or until they fill a frame; the loop's pass
#: ends with a flush in any case.
_GATHER_S = 1e-3

#: Who wants the answer, and what it calls.
Call = tuple[Peer, CallActor]


class ReactorSelector(selectors.EpollSelector):
    """A selector that serves the reactor while it waits for the loop's own descriptors."""

    def __init__(self, reactor: SharedReactor) -> None:
        super().__init__()
        self._reactor = reactor
        self.watch: LoopWatch | None = None
        self._thread = threading.get_ident()
        self._is_read = False
        self._join_reactor()

    def _join_reactor(self) -> None:
        with self._reactor.lock:
            self._reactor.add_reader(self.fileno(), self._noticed)
            self._is_read = True

    def _noticed(self) -> None:
        """One of the loop's descriptors is ready: enough that ``poll`` returned; the loop looks itself.

        While it runs users' code it cannot look: another thread must not be told of it again and again.
        """
        if threading.get_ident() != self._thread:
            self._reactor.remove_reader(self.fileno())
            self._is_read = False

    def select(self, timeout: float | None = None) -> list[Any]:
        if not self._is_read:
            self._join_reactor()
        watch = self.watch
        if watch is None:
            return self._select(timeout)
        watch.back()
        ready = self._select(timeout)
        watch.away()
        return ready

    @lets_through
    def _select(self, timeout: float | None) -> list[Any]:
        if timeout is not None and timeout <= 0:
            self._reactor.lead_once(0.0)
            return super().select(0)
        if not self._reactor.lead_once(timeout):
            return super().select(timeout)
        return super().select(0)


class _OnLoop(Waiter):
    """Calls back, once, instead of waking a thread."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        super().__init__()
        self._callback = callback

    def complete(self, count: int = 1) -> None:
        self._callback()


class _Promised(asyncio.Task[Any]):
    """A task whose coroutine must begin: one that never does neither answers nor tidies up.

    asyncio lets a task that is cancelled in the pass that made it end unbegun, and users' code may cancel
    all it finds (``asyncio.all_tasks``).
    """

    __slots__ = ()

    def cancel(self, msg: Any = None) -> bool:
        coroutine: Any = self.get_coro()
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            self.get_loop().call_soon(super().cancel, msg)  # behind its first step
            return True
        return super().cancel(msg)


class AsyncCalls:
    """Calls on their way through the loop. ``max_concurrency`` of them run at once, per group."""

    def __init__(
        self, reactor: SharedReactor, work: Work, runner: Runner, actor: ActorProcess, spec: ActorSpec
    ) -> None:
        self._lock = reactor.lock
        reactor.quiet_s, reactor.gathered = _GATHER_S, FEW_MESSAGES
        runner.answers.may_wait = False
        self._running = work.running
        self._runner = runner
        self._actor = actor
        self._methods = actor.methods
        self._class_name = spec.class_name
        selector = ReactorSelector(reactor)
        self.loop = ActorLoop(selector, spec.class_name)
        self.watch = selector.watch = LoopWatch(self.loop, self._name_of, self._unfinished)
        asyncio.set_event_loop(self.loop)
        self._arrived: deque[Call] = deque()
        self._start_scheduled = False
        self._limits = {"": spec.max_concurrency, **spec.concurrency_groups}
        self._running_counts: dict[str, int] = dict.fromkeys(self._limits, 0)
        #: Calls for which there is no room, by group. Cancelled ones in it are passed over.
        self._waiting: dict[str, deque[Call]] = {group: deque() for group in self._limits}
        #: Cancelled calls in ``_waiting``.
        self._cancelled_count = 0
        #: All calls that are not done, by task id: as they came, or once they were begun what runs them.
        self._calls: dict[bytes, Call | asyncio.Task[None]] = {}
        #: Why the actor ends once nothing is left to do; "" while it is not to end.
        self._ending = ""
        #: Calls that asked it to.
        self._terminating = 0
        self._end: asyncio.Task[NoReturn] | None = None

    # -- arrival (under the lock, any thread) ----------------------------------------------------

    def deliver(self, item: Call) -> None:
        self._calls[item[1].task_id] = item
        self._arrived.append(item)
        if not self._start_scheduled:
            self._start_scheduled = True
            self._soon(self._start_arrived)

    def _soon(self, callback: Callable[[], object]) -> None:
        """On the loop, from whichever thread reads the sockets."""
        if threading.current_thread() is threading.main_thread():
            self.loop.call_soon(callback)
        else:
            self.loop.call_soon_threadsafe(callback)

    def cancel(self, task_id: bytes) -> None:
        self._soon(partial(self._cancel, task_id))

    def take_order(self, order: Order) -> None:
        """To end once nothing is left to do."""
        if isinstance(order, ExitWorker):
            self._soon(partial(self._end_when_idle, order.reason))

    def _name_of(self, task: asyncio.Task[None]) -> str:
        """The call that ``task`` runs, or the task's own name if it was started by one."""
        for task_id, each in list(self._calls.items()):
            if each is task and (context := self._running.get(task_id)) is not None:
                return context.name
        return f"{self._class_name} ({task.get_name()})"

    def _unfinished(self) -> int:
        return len(self._calls)

    def is_queued(self, task_id: bytes) -> bool:
        """Whether the call is here and has not begun. Under the lock."""
        return self.find(task_id) is not None

    def is_to_begin(self, task_id: bytes) -> bool:
        """Whether it is queued, or is the loop's next thing to do. Under the lock."""
        return task_id in self._calls

    def find(self, task_id: bytes) -> CallActor | None:
        """The call, if it has not begun. Under the lock."""
        call = self._calls.get(task_id)
        return call[1] if isinstance(call, tuple) else None

    # -- on the loop -----------------------------------------------------------------------------

    def serve(self) -> NoReturn:
        """The main thread's life."""
        self.loop.serve()

    def _start_arrived(self) -> None:
        self._start_scheduled = False
        arrived, counts, limits = self._arrived, self._running_counts, self._limits
        while arrived:
            item = arrived.popleft()
            call = item[1]
            group = call.group if call.group in limits else ""
            if counts[group] < limits[group] or call.method == READY:
                self._start(group, item)
            else:
                self._waiting[group].append(item)

    def _start(self, group: str, item: Call) -> None:
        self._running_counts[group] += 1
        self._calls[item[1].task_id] = _Promised(self._run(group, item[0], item[1]), loop=self.loop)

    async def _run(self, group: str, sender: Peer, call: CallActor) -> None:
        runner = self._runner
        known = self._methods.get(call.method)
        method, name = known if known is not None else self._actor.method(call.method)
        context = TaskContext(call.task_id, call.name or name, name, None, call.attempt, 0, sender)
        current_task.set(context)
        self._running[call.task_id] = context
        started = time_ns()
        failure: BaseException | None = None
        result: list[Any] = []
        try:
            if call.method == TERMINATE:
                await self._terminate()
            args, kwargs = runner.arguments(call, context)
            value = method(*args, **kwargs)
            if isinstance(value, AsyncGeneratorType):
                await self._consume(sender, call, value, context)
                value = None
            else:
                if type(value) is CoroutineType or inspect.isawaitable(value):
                    value = await value
                if call.num_returns < 0:
                    value = runner.consume(sender, call, value, context)
            result.append(value)
            del args, kwargs, value
        except asyncio.CancelledError:
            failure = TaskCancelledError(call.task_id.hex())
        except AsyncioActorExit:
            await self._actor.leave_from_loop("exit_actor()")
        except BaseException as error:
            failure = error
        self._finished(group, call)
        runner.note(call.task_id, name, started, time_ns(), failure is not None)
        try:
            if failure is None:
                runner.answer(sender, call, context, result, 0)
            else:
                runner.answer_error(sender, call, context, failure)
        except Exception as error:
            if context.in_place is not None:
                runner.lending.end(context)
            runner.answers.send_failure(sender, call, error)

    async def _terminate(self) -> None:
        """Until the process is gone, or users' code cancels what it finds on the loop."""
        self._terminating += 1
        try:
            self._end_when_idle("__ray_terminate__()")
            await asyncio.Event().wait()
        finally:
            self._terminating -= 1

    async def _consume(self, sender: Peer, call: CallActor, values: Any, context: TaskContext) -> None:
        """Run an async generator to its end, sending each item."""
        producers = self._runner.producers
        producer = producers.begin(call, sender)
        index = 0
        try:
            async for value in values:
                index += 1
                self._runner.send_item(sender, call, index, value, context)
                if self._runner.peers.full:
                    await self._until_room(sender)
                if call.stream_limit > 0:
                    await self._until_taken(producer, index - call.stream_limit + 1)
                if producer.is_dropped:
                    await values.aclose()
                    break
        finally:
            producers.end(call.task_id)

    async def _until_taken(self, producer: Producer, needed: int) -> None:
        """Until the owner has taken so many items, or wants no more. Holds no thread meanwhile."""
        while True:
            with self._lock:
                if producer.may_go_on(needed):
                    producer.on_change = None
                    return
                changed = asyncio.Event()
                producer.on_change = partial(self._soon, changed.set)
            await changed.wait()

    async def _until_room(self, reader: Peer) -> None:
        """Until the reader has read some of what it was sent; others' calls run meanwhile."""
        while True:
            with self._lock:
                if reader not in self._runner.peers.full:
                    return
                changed = asyncio.Event()
                reader.room.append(_OnLoop(partial(self._soon, changed.set)))
            await changed.wait()

    def _finished(self, group: str, call: CallActor) -> None:
        del self._running[call.task_id]
        del self._calls[call.task_id]
        self._running_counts[group] -= 1
        if self._waiting[group]:
            self._start_waiting(group)
        elif self._ending:
            self._end_if_idle()

    def _start_waiting(self, group: str) -> None:
        """There is room for one more."""
        waiting = self._waiting[group]
        # What was begun beyond the limit (READY) makes no room when it ends.
        while waiting and self._running_counts[group] < self._limits[group]:
            item = waiting.popleft()
            if self._is_wanted(item):
                self._start(group, item)
                return
            self._cancelled_count -= 1
        if self._ending:
            self._end_if_idle()

    def _is_wanted(self, item: Call) -> bool:
        """It waits and was not cancelled."""
        return self._calls.get(item[1].task_id) is item

    def _cancel(self, task_id: bytes) -> None:
        """Begun or not. What is cancelled here has been looked at by ``_start_arrived``, which came first."""
        call = self._calls.get(task_id)
        if not isinstance(call, tuple):
            if call is not None:
                call.cancel()
            return
        del self._calls[task_id]
        with self._lock:
            self._runner.answers.send_cancelled(*call)
        self._cancelled_count += 1
        if self._cancelled_count * 2 > sum(map(len, self._waiting.values())):
            for waiting in self._waiting.values():
                kept = list(filter(self._is_wanted, waiting))
                waiting.clear()
                waiting.extend(kept)
            self._cancelled_count = 0

    def _end_when_idle(self, reason: str) -> None:
        self._ending = reason
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        """Calls that asked for the end wait for it, and are not waited for."""
        if self._unfinished() - self._terminating == 0 and self._end is None:
            self._end = _Promised(self._actor.leave_from_loop(self._ending), loop=self.loop)
