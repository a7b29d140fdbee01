"""Waiting without a thread: values for coroutines and for ``concurrent.futures``."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from beamlet.base.own_code import hide_our_frames
from beamlet.core_worker.owning.object_record import PENDING, ObjectRecord, stop_waiting
from beamlet.core_worker.owning.objects import ObjectAccess
from beamlet.core_worker.owning.ports import Ref
from beamlet.processes.prompt_thread import PromptThread
from beamlet.rpc.turns import SharedReactor

if TYPE_CHECKING:
    import concurrent.futures


#: Put there, it is called in a thread that may run users' code; None: no more will come.
_ToResolve = queue.SimpleQueue[Callable[[], None] | None]


class Futures:
    """Both keep the reference alive for as long as the value is awaited."""

    def __init__(self, objects: ObjectAccess, reactor: SharedReactor) -> None:
        self._objects = objects
        self._reactor = reactor
        #: What resolves futures, one after another; None: it ends. Unset while there is no thread for it.
        self._ready: _ToResolve | None = None
        #: What is resolved from then on, whoever asks does himself: nothing is waited for any more.
        self._is_closed = False

    async def await_ref(self, ref: Ref) -> Any:
        """The value, for a coroutine on any loop."""
        try:
            objects = self._objects
            record = objects.record_of(ref)
            if record.state == PENDING:
                await self._until_ready(ref, record)
            return objects.load(ref._id, record)
        except BaseException as error:
            hide_our_frames(error)
            raise

    async def _until_ready(self, ref: Ref, record: ObjectRecord) -> None:
        from beamlet.core_worker.owning.coroutine_wait import CoroutineWait

        wait = CoroutineWait()
        with self._reactor.lock:
            if record.state != PENDING:
                return
            self._objects.when_ready(ref._id, record, wait.on_ready)
            self._reactor.flush()
        self._reactor.nudge()
        try:
            await wait.future
        finally:  # cancelled, timed out, or let go with its loop: then it is still listed
            stop_waiting(record, wait.on_ready)

    def future_of(self, ref: Ref) -> concurrent.futures.Future[Any]:
        """A thread-safe future of the value."""
        import concurrent.futures

        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        record = self._objects.record_of(ref)
        resolving = _Resolving(self._objects, future, ref, record, self._resolver())
        with self._reactor.lock:
            if record.state == PENDING:
                self._objects.when_ready(ref._id, record, resolving.on_ready)
                future.add_done_callback(resolving.stop_if_cancelled)
            elif not self._is_closed:
                resolving.on_ready(record)
            is_late = self._is_closed
            self._reactor.flush()
        if is_late:
            resolving.resolve()
        self._reactor.nudge()
        return future

    def _resolver(self) -> _ToResolve:
        """Where to put what resolves a future, for a thread that runs users' code.

        No executor of ``concurrent.futures``: those end with the main thread, before others that still wait.
        """
        with self._reactor.lock:
            ready = self._ready
            if ready is None:
                ready = queue.SimpleQueue()
                PromptThread(
                    target=self._resolve_all, args=(ready,), name="beamlet-futures", daemon=True
                ).start()
                self._ready = ready
            return ready

    def _resolve_all(self, ready: _ToResolve) -> None:
        while (resolve := ready.get()) is not None:
            try:
                resolve()
            except BaseException as error:  # of a callback, SystemExit, say: there are other futures
                self._reactor.containment.contain(error, "resolving a future")
            del resolve  # or the value would live until the next one comes

    def close(self) -> None:
        """Whoever waits has been told that there is nothing to wait for any more. Under the lock."""
        self._is_closed = True
        if self._ready is not None:
            self._ready.put(None)


class _Resolving:
    """One future on its way to its value; keeps it, and the reference, for so long."""

    __slots__ = ("_future", "_objects", "_record", "_ref", "_to_resolve")

    def __init__(
        self,
        objects: ObjectAccess,
        future: concurrent.futures.Future[Any],
        ref: Ref,
        record: ObjectRecord,
        to_resolve: _ToResolve,
    ) -> None:
        self._objects = objects
        self._future: concurrent.futures.Future[Any] | None = future
        self._ref: Ref | None = ref
        self._record = record
        self._to_resolve = to_resolve

    def on_ready(self, _: ObjectRecord) -> None:
        """Unpickling is user code: never on the thread that reads the sockets, under the lock."""
        self._to_resolve.put(self.resolve)

    def stop_if_cancelled(self, future: concurrent.futures.Future[Any]) -> None:
        if future.cancelled():
            stop_waiting(self._record, self.on_ready)
            self._future = self._ref = None

    def resolve(self) -> None:
        future, ref = self._future, self._ref
        self._future = self._ref = None
        if future is None or ref is None or not future.set_running_or_notify_cancel():
            return
        try:
            value = self._objects.get([ref], None)[0]
        except BaseException as error:
            hide_our_frames(error)
            future.set_exception(_awaitable(error))
        else:
            future.set_result(value)
        finally:
            del future, ref  # an error that is kept keeps this frame


def _awaitable(error: BaseException) -> BaseException:
    """What a future may raise. A StopIteration would end the coroutine's wait, as if it were the value.

    So it becomes a RuntimeError, as Python does where a coroutine raises one, ``await ref`` among them.
    """
    if not isinstance(error, StopIteration):
        return error
    told = RuntimeError("a future cannot raise StopIteration; the task did")
    told.__cause__ = error
    return told
