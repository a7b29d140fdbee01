"""Generator tasks: their items as they are yielded, one object each, before the task has ended.

    executor ── Yielded(1) ── Yielded(2) ── … ── Results ──▶ owner: Stream ──▶ ObjectRefGenerator (api)

Item i is the task's i-th return value, so a generator that is run again after a crash yields the same
objects: those that came before are not taken twice.  An exception becomes the next item, and the last.
With a limit on items not consumed yet, the executor waits for Consumed before it yields more.

Every attempt is met at its first item, also one by the process that made the attempt before: it is told how
far the program has read, or that nobody reads.  What is sent about a stream between two attempts may come
before the second has begun, and be lost; nothing rests on it, for counts are totals.

A generator that its user drops is stopped (StreamDropped) if it has a limit or was read from, as Python
closes a generator that nobody refers to.  One that was never read from and has no limit runs to its end, for
it may have been called for what it does, and its items are let go.  One that is stopped is not run again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any

from beamlet.base.ids import NodeId, ObjectId, TaskId, index_of_object, return_id
from beamlet.core_worker.owning.borrowing import Guard, ResultsGuard
from beamlet.core_worker.owning.object_record import PENDING, ObjectRecord, stop_waiting
from beamlet.core_worker.owning.objects import ObjectAccess
from beamlet.core_worker.owning.ports import MakeRef, Ref, Sender, Sends, Stoppable
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.exceptions import CallSite, GetTimeoutError, RaySystemError
from beamlet.protocol.message import ContainedRef
from beamlet.protocol.peer import Consumed, StoredAt, StreamDropped, Yielded
from beamlet.rpc.turns import SharedReactor, Waiter
from beamlet.serialization.values import dump_error

#: ``num_returns`` of generator tasks, on the wire.
STREAMING = -1
#: One result that is a DynamicObjectRefGenerator (Ray's older form).
DYNAMIC = -2


class DynamicObjectRefGenerator:
    """References to all that a ``num_returns="dynamic"`` task yielded; iterable, with a length."""

    def __init__(self, refs: Sequence[Any]) -> None:
        self._refs = list(refs)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)


class Stream:
    """The items of one generator task, at its owner. Guarded by the core worker's lock."""

    __slots__ = (
        "_is_told",
        "abandoned",
        "attempt",
        "consumed_count",
        "executor",
        "finished",
        "left",
        "limit",
        "ready",
        "received_count",
        "task_id",
        "waiters",
        "work",
    )

    def __init__(self, task_id: TaskId, limit: int, work: Stoppable | None = None) -> None:
        self.task_id = task_id
        #: The task or call, until it is over.
        self.work = work
        #: Most items yielded and not consumed; negative: no limit.
        self.limit = limit
        #: References to items that nobody has taken yet.
        self.ready: deque[Ref] = deque()
        self.received_count = 0
        self.consumed_count = 0
        self.finished = False
        #: Where attempts that died left items that they never announced; the next attempt may.
        self.left: dict[ObjectId, NodeId] = {}
        #: The ObjectRefGenerator is gone: items that still come are let go at once. Set by ``__del__``.
        self.abandoned = False
        #: Who made the latest item, in which attempt: the executor of two attempts may be the same.
        self.executor: Sends | None = None
        self.attempt = -1
        #: This attempt was told that nobody wants its items.
        self._is_told = False
        self.waiters: dict[Callable[[Any], None], None] = {}

    @property
    def can_step(self) -> bool:
        """``next`` would not wait."""
        return bool(self.ready) or self.finished

    def meet(self, executor: Sends, attempt: int) -> None:
        """Who makes the items now. One that makes them again must know what was taken or dropped before."""
        self.executor, self.attempt, self._is_told = executor, attempt, False
        if self.abandoned:
            self.drop()
        elif self.limit > 0 and self.consumed_count:
            executor.send(Consumed(self.task_id, self.consumed_count))

    def drop(self) -> None:
        """Let go of what was not taken, and stop who makes more. Under the lock, once it is abandoned."""
        self.ready.clear()
        if self.finished or (self.limit <= 0 and not self.consumed_count):
            return
        if self.work is not None:
            self.work.unwanted = True  # nobody would see what another attempt makes
        if self.executor is not None and not self._is_told:
            self._is_told = True
            self.executor.send(StreamDropped(self.task_id))


class StepWaiter(Waiter):
    __slots__ = ()

    def on_ready(self, _: Any) -> None:
        self.complete()


class Streams:
    """Taking items in at the owner, and handing them to the program."""

    def __init__(
        self,
        refs: ReferenceCounter,
        releases: Releases,
        objects: ObjectAccess,
        reactor: SharedReactor,
        make_ref: MakeRef,
    ) -> None:
        self._refs = refs
        self._releases = releases
        self._objects = objects
        self._reactor = reactor
        self._lock = reactor.lock
        self._make_ref = make_ref

    # -- arriving (under the lock) ---------------------------------------------------------------

    def take(self, sender: Sender, stream: Stream, message: Yielded, attempt: int) -> None:
        """One more item; one that came before, from an attempt that crashed or failed, is passed over."""
        guard = ResultsGuard(sender.address, message.hold)
        try:
            if stream.attempt != attempt:
                stream.meet(sender, attempt)
            if message.index > stream.received_count:
                self._take_new(stream, message, guard)
            elif type(message.item) is StoredAt:
                self._refs.stored_again(return_id(stream.task_id, message.index), message.item.node)
        except Exception as error:
            self._untaken(stream, message, error)
            raise
        finally:
            self._refs.settle(guard)
            self._notify(stream)

    def _take_new(self, stream: Stream, message: Yielded, guard: ResultsGuard) -> None:
        refs = self._refs
        object_id = return_id(stream.task_id, message.index)
        if stream.left:
            self._claim(stream, object_id, message)
        if stream.abandoned:
            stream.drop()
            if type(message.item) is StoredAt:
                refs.discard_stored(object_id, message.item.node)
        else:
            record = refs.new_owned(object_id)
            if type(message.item) is StoredAt:
                refs.set_stored(record, (message.item.node,), message.item.size, message.contained, guard)
            else:
                refs.set_inline(record, message.item, message.contained, guard)  # type: ignore[arg-type]
            stream.ready.append(self._make_ref(object_id, refs.self_address))
        stream.received_count = message.index

    def _untaken(self, stream: Stream, message: Yielded, error: Exception) -> None:
        """Taking an item raised: the item is that error. To pass over it silently would be a wrong result."""
        if message.index <= stream.received_count:
            return
        object_id = return_id(stream.task_id, message.index)
        if type(message.item) is StoredAt:
            self._refs.discard_stored(object_id, message.item.node)
        stream.received_count = message.index
        if stream.abandoned:
            return
        reason = f"item {message.index} could not be taken: {type(error).__name__}: {error}"
        record = self._refs.new_owned(object_id)
        self._refs.set_inline(record, dump_error(RaySystemError(reason)))
        stream.ready.append(self._make_ref(object_id, self._refs.self_address))

    def _claim(self, stream: Stream, object_id: ObjectId, message: Yielded) -> None:
        """An item comes of which a former attempt left a copy: it is that copy, or replaces it."""
        node = stream.left.pop(object_id, None)
        if node is not None and not (type(message.item) is StoredAt and message.item.node == node):
            self._refs.discard_stored(object_id, node)

    def stored_by_dead(self, stream: Stream, object_id: ObjectId, node: NodeId) -> None:
        """As for the reference counter; items that have not come have no record there."""
        if index_of_object(object_id) > stream.received_count and not stream.abandoned:
            stream.left[object_id] = node
        else:
            self._refs.stored_by_dead(object_id, node)

    def end(
        self,
        stream: Stream,
        error: bytes | None,
        contained: Sequence[ContainedRef] = (),
        guard: Guard | None = None,
        site: CallSite | None = None,
    ) -> dict[ObjectId, ObjectRecord]:
        """The task is over; an error is its last item, which is returned.

        contained, guard: as for ``set_inline``. site: where the task was called.
        """
        last: dict[ObjectId, ObjectRecord] = {}
        for object_id, node in stream.left.items():
            self._refs.discard_stored(object_id, node)
        stream.left.clear()
        if error is not None and not stream.abandoned:
            stream.received_count += 1
            object_id = return_id(stream.task_id, stream.received_count)
            last[object_id] = record = self._refs.new_owned(object_id)
            record.call_site = site
            self._refs.set_inline(record, error, contained, guard)
            stream.ready.append(self._make_ref(object_id, self._refs.self_address))
        stream.finished = True
        stream.work = None
        self._notify(stream)
        return last

    def _notify(self, stream: Stream) -> None:
        waiters, stream.waiters = stream.waiters, {}
        for callback in waiters:
            try:
                callback(stream)
            except Exception as error:
                self._objects.contain(error)

    # -- consuming (without the lock) ------------------------------------------------------------

    def abandon(self, stream: Stream) -> None:
        """Its generator died: this may run anywhere, inside any lock."""
        stream.abandoned = True
        self._releases.abandoned.append(stream)

    def next(self, stream: Stream, timeout_s: float | None) -> Any:
        """The next item's reference; None at the end. Raises GetTimeoutError."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while True:
            with self._lock:
                if stream.ready:
                    return self._pop(stream)
                if stream.finished:
                    return None
                waiter = StepWaiter()
                stream.waiters[waiter.on_ready] = None
            try:
                done = self._objects.blocking.block_until(waiter, deadline)
            finally:
                with self._lock:
                    stream.waiters.pop(waiter.on_ready, None)
            if not done:
                self._objects.blocking.raise_if_shut()
                raise GetTimeoutError(f"the generator task yielded nothing within {timeout_s} s")

    def _pop(self, stream: Stream) -> Any:
        ref = stream.ready.popleft()
        stream.consumed_count += 1
        if stream.limit > 0 and stream.executor is not None:
            stream.executor.send(Consumed(stream.task_id, stream.consumed_count))
        return ref

    async def next_async(self, stream: Stream) -> Any:
        """As ``next``, for a coroutine on any loop."""
        from beamlet.core_worker.owning.coroutine_wait import CoroutineWait

        while True:
            with self._lock:
                if stream.ready:
                    return self._pop(stream)
                if stream.finished:
                    return None
                wait = CoroutineWait()
                stream.waiters[wait.on_ready] = None
                self._reactor.flush()
            self._reactor.nudge()
            try:
                await wait.future
            finally:
                stream.waiters.pop(wait.on_ready, None)

    def wait(
        self, items: list[Any], num_returns: int, timeout_s: float | None
    ) -> tuple[list[Any], list[Any]]:
        """``wait`` for lists that hold generators too: one is ready when its next item is."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while True:
            waiter = StepWaiter()
            with self._lock:
                ready = [i for i, item in enumerate(items) if self._is_ready(item)][:num_returns]
                late = deadline is not None and monotonic() >= deadline
                if len(ready) >= num_returns or late:
                    chosen = set(ready)
                    rest = [item for i, item in enumerate(items) if i not in chosen]
                    return [items[i] for i in ready], rest
                for item in items:
                    if not self._is_ready(item):
                        self._watch(item, waiter.on_ready)
            try:
                self._objects.blocking.block_until(waiter, deadline)
            finally:
                with self._lock:
                    for item in items:
                        self._unwatch(item, waiter.on_ready)
            self._objects.blocking.raise_if_shut()

    def _is_ready(self, item: Any) -> bool:
        stream = getattr(item, "_stream", None)
        return stream.can_step if stream is not None else self._objects.record_of(item).state != PENDING

    def _watch(self, item: Any, callback: Callable[[Any], None]) -> None:
        stream = getattr(item, "_stream", None)
        if stream is not None:
            stream.waiters[callback] = None
        else:
            self._objects.when_ready(item._id, self._objects.record_of(item), callback)

    def _unwatch(self, item: Any, callback: Callable[[Any], None]) -> None:
        stream = getattr(item, "_stream", None)
        if stream is not None:
            stream.waiters.pop(callback, None)
        else:
            stop_waiting(self._objects.record_of(item), callback)
