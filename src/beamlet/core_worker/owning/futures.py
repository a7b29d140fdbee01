"""Waiting without a thread: values for coroutines and for ``concurrent.futures``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from beamlet.base.own_code import hide_our_frames
from beamlet.core_worker.owning.object_record import PENDING, ObjectRecord, stop_waiting
from beamlet.core_worker.owning.objects import ObjectAccess
from beamlet.core_worker.owning.ports import Ref
from beamlet.rpc.turns import SharedReactor

if TYPE_CHECKING:
    import concurrent.futures


class Futures:
    """Both keep the reference alive for as long as the value is awaited."""

    def __init__(self, objects: ObjectAccess, reactor: SharedReactor) -> None:
        self._objects = objects
        self._reactor = reactor
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None

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
        threads = self._threads
        if threads is None:
            threads = self._threads = concurrent.futures.ThreadPoolExecutor(1, "beamlet-futures")
            threads.submit(int)  # starts its thread, which is waited for: not under the lock

        def resolve() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                value = self._objects.get([ref], None)[0]
            except BaseException as error:
                hide_our_frames(error)
                future.set_exception(error)
            else:
                future.set_result(value)

        def ready(_: ObjectRecord) -> None:
            # Unpickling is user code: never on the thread that reads the sockets, under the lock.
            threads.submit(resolve)

        def stop_if_cancelled(future: concurrent.futures.Future[Any]) -> None:
            if future.cancelled():
                stop_waiting(record, ready)

        with self._reactor.lock:
            if record.state == PENDING:
                self._objects.when_ready(ref._id, record, ready)
                future.add_done_callback(stop_if_cancelled)
            else:
                ready(record)
            self._reactor.flush()
        self._reactor.nudge()
        return future

    def close(self) -> None:
        """Whoever waits hears that there is nothing to wait for any more."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)
