"""get, put, wait: values in and out of the object table.

Threads of users wait here; what they wait for is completed by whichever thread reads the sockets (rpc/turns).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from beamlet.base.ids import Address, NodeId, ObjectId
from beamlet.core_worker.owning.object_record import (
    CUT_OFF,
    FREED,
    INLINE,
    LOST,
    PENDING,
    STORED,
    ObjectRecord,
)
from beamlet.exceptions import CallSite, GetTimeoutError, ObjectLostError, OwnerDiedError, RayTaskError
from beamlet.protocol.peer import GetObject
from beamlet.rpc.turns import Waiter
from beamlet.serialization.refs import released
from beamlet.serialization.values import (
    ERROR,
    INLINE_MAX_BYTES,
    PICKLE_MARK,
    Serialized,
    dump_error,
    dumps,
    is_error,
    loads_plain,
    pack,
    rebuild,
    rebuild_packed,
    unpack,
)

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

    from beamlet.core_worker.core_worker import CoreWorker

#: Shorter waits are no habit worth talking about.
_ADVISED_FROM_S = 0.001


def _failed(record: ObjectRecord) -> bool:
    """Whether getting it raises, as far as can be told here."""
    return record.state == LOST or (record.state == INLINE and is_error(record.payload))


class GetWaiter(Waiter):
    """Waits for all of several objects, or for the first that is an error."""

    __slots__ = ()

    def on_ready(self, record: ObjectRecord) -> None:
        if _failed(record):
            self.complete(self.remaining)
        else:
            self.complete()


class CountWaiter(Waiter):
    """Waits for some of several objects, whatever they turn out to be."""

    __slots__ = ()

    def on_ready(self, record: ObjectRecord) -> None:
        self.complete()


class ObjectAccess:
    """The values of a core worker's objects."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self._refs = core.refs
        #: Borrowed objects whose owner has been asked.
        self._asked: dict[ObjectId, None] = {}
        self._future_threads: concurrent.futures.ThreadPoolExecutor | None = None

    # -- put -------------------------------------------------------------------------------------

    def put(self, value: Any, call_site: CallSite | None = None) -> ObjectId:
        """A new object of ours, with one local reference for the caller to wrap."""
        data = dumps(value)
        core = self._core
        with core.lock:
            object_id = core.context().next_put()
            record = self._refs.new_owned(object_id)
            record.call_site = call_site
            if type(data) is bytes:
                self._refs.set_inline(record, data)
                return object_id
        assert isinstance(data, Serialized)
        self.place(object_id, record, data)
        return object_id

    def place(self, object_id: ObjectId, record: ObjectRecord, data: Serialized) -> None:
        """Give ``record`` its value: inline if small, else in the store. Without the lock."""
        core = self._core
        if data.total_bytes <= INLINE_MAX_BYTES:
            with core.lock:
                self._refs.set_inline(record, pack(data), data.contained)
            return
        try:
            size = core.store.write(object_id, data, str(record.call_site or ""), core.address)
        except BaseException:
            with core.lock:
                self._refs.release_many([object_id])
            raise
        with core.lock:
            self._refs.set_stored(record, core.node_id, size, data.contained)
            core.perform_effects()

    # -- get -------------------------------------------------------------------------------------

    def get(self, refs: Sequence[Any], timeout_s: float | None) -> list[Any]:
        """The values, or the first error among them. ``refs`` are ObjectRefs.

        Raises GetTimeoutError when ``timeout_s`` (None: never) is over.
        """
        core = self._core
        waiter: GetWaiter | None = None
        objects = self._refs.objects
        with core.lock:
            if released:
                core.drain_released()
            missing = 0
            for ref in refs:
                record = objects.get(ref._id)
                if record is None:
                    raise core.stale_reference(ref._id)
                if record.state == PENDING:
                    if waiter is None:
                        waiter = GetWaiter()
                    missing += 1
                    self.when_ready(ref._id, record, waiter.on_ready)
            if waiter is not None:
                # One that has failed already is the outcome: then there is nothing to wait for.
                waiter.remaining = 0 if any(_failed(objects[ref._id]) for ref in refs) else missing
        try:
            if waiter is not None:
                self._wait_for(waiter, refs, timeout_s)
            load = self._load
            return [load(ref._id, objects[ref._id]) for ref in refs]
        except GetTimeoutError:
            raise
        except Exception:
            with core.lock:
                core.unseen.excuse(ref._id for ref in refs)
            raise

    def _wait_for(self, waiter: GetWaiter, refs: Sequence[Any], timeout_s: float | None) -> None:
        core = self._core
        started = monotonic()
        deadline = None if timeout_s is None else started + timeout_s
        try:
            done = core.block_until(waiter, deadline, refs)
        except BaseException:
            self._stop_waiting(waiter.on_ready, refs)
            raise
        if not done:
            self._stop_waiting(waiter.on_ready, refs)
            core.raise_if_shut()
            raise GetTimeoutError(core.explaining.timeout_text([ref._id for ref in refs], timeout_s or 0.0))
        if core.advisor is not None and (seconds := monotonic() - started) > _ADVISED_FROM_S:
            core.advisor.waited(refs, seconds)
        with core.lock:
            pending = any(self._refs.objects[ref._id].state == PENDING for ref in refs)
        if pending:  # one failed: its error is the outcome, whatever the others become
            self._stop_waiting(waiter.on_ready, refs)
            for ref in refs:
                record = self._refs.objects[ref._id]
                if record.state != PENDING:
                    self._raise_if_error(ref._id, record)

    def _raise_if_error(self, object_id: ObjectId, record: ObjectRecord) -> None:
        if _failed(record):
            self._load(object_id, record)

    def _stop_waiting(self, callback: Callable[[ObjectRecord], None], refs: Sequence[Any]) -> None:
        with self._core.lock:
            for ref in refs:
                record = self._refs.objects.get(ref._id)
                if record is not None and record.waiters and callback in record.waiters:
                    record.waiters.remove(callback)

    def when_ready(
        self, object_id: ObjectId, record: ObjectRecord, callback: Callable[[ObjectRecord], None]
    ) -> None:
        """Call ``callback(record)`` under the lock once ``record``, now PENDING, is not. Under the lock."""
        if record.waiters is None:
            record.waiters = [callback]
        else:
            record.waiters.append(callback)
        if record.owner and object_id not in self._asked:
            self._asked[object_id] = None
            self._core.peers.get(Address(record.owner)).send(GetObject(object_id))

    def notify(self, record: ObjectRecord) -> None:
        """``record`` has just left PENDING: tell who waits."""
        waiters, record.waiters = record.waiters, None
        if waiters:
            for callback in waiters:
                callback(record)

    # -- answers of owners -----------------------------------------------------------------------

    def value_came(self, object_id: ObjectId, payload: bytes) -> None:
        record = self._answered(object_id)
        if record is not None:
            self._refs.set_inline(record, payload)
            self.notify(record)

    def place_came(self, object_id: ObjectId, node: NodeId, size: int) -> None:
        record = self._answered(object_id)
        if record is not None:
            self._refs.set_stored(record, node, size)
            self.notify(record)

    def loss_came(self, object_id: ObjectId, reason: str) -> None:
        record = self._answered(object_id)
        if record is not None:
            self._refs.set_lost(record, reason)
            self.notify(record)

    def _answered(self, object_id: ObjectId) -> ObjectRecord | None:
        self._asked.pop(object_id, None)
        record = self._refs.objects.get(object_id)
        return record if record is not None and record.state == PENDING and record.owner else None

    def lost(self, object_ids: list[ObjectId]) -> None:
        """The reference counter found that these are gone."""
        for object_id in object_ids:
            self._asked.pop(object_id, None)
            record = self._refs.objects.get(object_id)
            if record is not None:
                self.notify(record)

    def lose_promised(self, error: BaseException) -> None:
        """Nobody will keep a promise any more: ``error`` is the value of all that is awaited."""
        payload = dump_error(error)
        for record in list(self._refs.objects.values()):
            if record.state == PENDING:
                self._refs.set_inline(record, payload)
                self.notify(record)

    # -- loading ---------------------------------------------------------------------------------

    def _load(self, object_id: ObjectId, record: ObjectRecord) -> Any:
        """The value; raises if it is an error. The caller holds a reference, not the lock."""
        if record.state == INLINE:
            payload = record.payload
            if payload[0] == PICKLE_MARK:
                return loads_plain(payload)
            return self.load_packed(object_id, payload, record.call_site)
        if record.state == STORED:
            return self._load_stored(object_id, record)
        raise self._loss(object_id, record)

    def load_packed(self, outer: ObjectId | None, payload: bytes, site: CallSite | None = None) -> Any:
        """A payload that is not plain: references inside are counted, an error is raised."""
        packed = unpack(payload)
        if packed.contained:
            with self._core.lock:
                self._refs.found_in_value(outer, packed.contained)
                self._core.perform_effects()
        value = rebuild_packed(packed)
        if packed.kind == ERROR:
            if outer is not None:
                self._core.unseen.seen(outer)
            raise to_raise(value, site)
        return value

    def _load_stored(self, object_id: ObjectId, record: ObjectRecord) -> Any:
        core = self._core
        stored = core.store.read(object_id, Address(record.owner) or core.address, record.node)
        if stored.contained:
            with core.lock:
                self._refs.found_in_value(object_id, stored.contained)
                core.perform_effects()
        value = rebuild(stored.kind, stored.inband, stored.buffers)
        if stored.kind == ERROR:
            raise to_raise(value, record.call_site)
        return value

    def _loss(self, object_id: ObjectId, record: ObjectRecord) -> Exception:
        owner = record.owner.hex() or self._core.address.hex()
        if record.borrow == CUT_OFF:
            error: ObjectLostError = OwnerDiedError(object_id.hex(), owner, str(record.call_site or ""))
        else:
            error = ObjectLostError(object_id.hex(), owner, str(record.call_site or ""))
        error.add_note(f"object {object_id.hex()}: {record.reason or 'its value is gone'}")
        return error

    # -- wait ------------------------------------------------------------------------------------

    def wait(
        self, refs: list[Any], num_returns: int, timeout_s: float | None, fetch_local: bool
    ) -> tuple[list[Any], list[Any]]:
        """(at most ``num_returns`` ready ones, the others), each in the order of ``refs``."""
        core = self._core
        objects = self._refs.objects
        with core.lock:
            if len(released) > 256:
                core.drain_released()
            ready = self._ready_positions(refs, num_returns)
            waiter: CountWaiter | None = None
            if len(ready) < num_returns and timeout_s != 0:
                waiter = CountWaiter(num_returns - len(ready))
                for ref in refs:
                    record = objects[ref._id]
                    if record.state == PENDING:
                        self.when_ready(ref._id, record, waiter.on_ready)
        if waiter is not None:
            deadline = None if timeout_s is None else monotonic() + timeout_s
            try:
                core.block_until(waiter, deadline, refs, num_returns == len(refs))
            finally:
                self._stop_waiting(waiter.on_ready, refs)
            core.raise_if_shut()
            with core.lock:
                ready = self._ready_positions(refs, num_returns)
        if ready == [0]:
            return [refs[0]], refs[1:]
        chosen = set(ready)
        return [refs[i] for i in ready], [ref for i, ref in enumerate(refs) if i not in chosen]

    def _ready_positions(self, refs: list[Any], most: int) -> list[int]:
        objects = self._refs.objects
        ready: list[int] = []
        for position, ref in enumerate(refs):
            record = objects.get(ref._id)
            if record is None:
                raise self._core.stale_reference(ref._id)
            if record.state != PENDING:
                ready.append(position)
                if len(ready) == most:
                    break
            elif record.owner and ref._id not in self._asked:
                self.when_ready(ref._id, record, _ask_only)
        return ready

    # -- futures ---------------------------------------------------------------------------------

    async def await_ref(self, ref: Any) -> Any:
        """The value, for a coroutine on any loop."""
        record = self._refs.objects.get(ref._id)
        if record is None:
            raise self._core.stale_reference(ref._id)
        if record.state == PENDING:
            import asyncio  # a dozen milliseconds and 2 MB: only for those who use it

            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()

            def ready(_: ObjectRecord) -> None:
                loop.call_soon_threadsafe(_set_if_waiting, future)

            core = self._core
            with core.lock:
                if record.state == PENDING:
                    self.when_ready(ref._id, record, ready)
                else:
                    future.set_result(None)
                core.reactor.flush()
            core.reactor.nudge()
            await future
        return self._load(ref._id, record)

    def future_of(self, ref: Any) -> concurrent.futures.Future[Any]:
        """A thread-safe future of the value; it keeps ``ref`` alive."""
        import concurrent.futures

        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        core = self._core

        def resolve() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                value = self.get([ref], None)[0]
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(value)

        def ready(_: ObjectRecord) -> None:
            # Unpickling is user code: never on the thread that reads the sockets, under the lock.
            if self._future_threads is None:
                self._future_threads = concurrent.futures.ThreadPoolExecutor(1, "beamlet-futures")
            self._future_threads.submit(resolve)

        with core.lock:
            record = self._refs.objects.get(ref._id)
            if record is None:
                raise core.stale_reference(ref._id)
            if record.state == PENDING:
                self.when_ready(ref._id, record, ready)
            else:
                ready(record)
            core.reactor.flush()
        core.reactor.nudge()
        return future

    def close(self) -> None:
        if self._future_threads is not None:
            self._future_threads.shutdown(wait=False, cancel_futures=True)


def _ask_only(_: ObjectRecord) -> None:
    """The callback of someone who only wants a borrowed object's owner to be asked."""


def _set_if_waiting(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def to_raise(error: Any, site: CallSite | None = None) -> BaseException:
    """The exception to raise for an error result: the user's class stays catchable.

    Its text starts at ``site``, the line that asked for the result.
    """
    if isinstance(error, RayTaskError):
        if site is not None and error.call_site is None:
            error.called_from(site)
        return error.as_instanceof_cause()
    assert isinstance(error, BaseException)
    return error


__all__ = ["FREED", "CountWaiter", "GetWaiter", "ObjectAccess", "to_raise"]
