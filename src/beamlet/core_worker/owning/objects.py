"""get and put: values in and out of the object table.

Threads of users wait here; what they wait for is completed by whichever thread reads the sockets (rpc/turns).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, TypeVar, cast

from beamlet.base.ids import Address, NodeId, ObjectId
from beamlet.base.stack_room import FOR_A_CALL
from beamlet.core_worker.context import Contexts
from beamlet.core_worker.owning.decoding import Decoder
from beamlet.core_worker.owning.object_record import INLINE, LOST, PENDING, ObjectRecord, stop_waiting
from beamlet.core_worker.owning.own_slab import Place
from beamlet.core_worker.owning.ports import Blocking, Peers, Ref, WaitAdvice
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.core_worker.owning.store_client import StoreClient
from beamlet.core_worker.owning.unseen import UnseenErrors
from beamlet.exceptions import CallSite, GetTimeoutError, RaySystemError
from beamlet.object_store.layout import read_value
from beamlet.protocol.peer import GetObject
from beamlet.rpc.turns import IN_THE_MIDDLE, SharedReactor, Waiter
from beamlet.serialization.refs import released
from beamlet.serialization.values import (
    INLINE_MAX_BYTES,
    PICKLE_MARK,
    Serialized,
    dump_error,
    dumps,
    is_error,
    loads_plain,
    pack,
)

#: Shorter waits are no habit worth talking about.
_ADVISED_FROM_S = 0.001


def _failed(record: ObjectRecord) -> bool:
    """Whether getting it raises, as far as can be told here."""
    return record.state == LOST or (record.state == INLINE and is_error(record.payload))


R = TypeVar("R", bound=Ref)


class GetWaiter(Waiter):
    """Waits for all of several objects, or for the first that is an error."""

    __slots__ = ("has_failed",)

    def __init__(self, remaining: int = 1) -> None:
        self.remaining = remaining
        self._signal = None
        self.has_failed = False

    def on_ready(self, record: ObjectRecord) -> None:
        if (record.state == INLINE and record.payload[0] == PICKLE_MARK) or not _failed(record):
            self.remaining -= 1
            if self.remaining <= 0 and self._signal is not None:
                self.interrupt()
        else:
            self.has_failed = True
            self.complete(self.remaining)


class OneGetWaiter(GetWaiter):
    """The same where there is only one."""

    __slots__ = ()

    def on_ready(self, record: ObjectRecord) -> None:
        self.remaining = 0
        if self._signal is not None:
            self.interrupt()


class ObjectAccess:
    """The values of a core worker's objects."""

    #: How threads wait; set by composition, for what waits stands to the right of what owns.
    blocking: Blocking
    #: Set by a driver that wants advice.
    advice: WaitAdvice | None = None

    def __init__(
        self,
        refs: ReferenceCounter,
        releases: Releases,
        reactor: SharedReactor,
        peers: Peers,
        store: StoreClient,
        unseen: UnseenErrors,
        contexts: Contexts,
    ) -> None:
        self._refs = refs
        self._releases = releases
        self._reactor = reactor
        self._lock = reactor.lock
        self._bare_lock = reactor.bare_lock
        self._peers = peers
        self._store = store
        self._unseen = unseen
        self._contexts = contexts
        self.decoder = Decoder(refs, releases, reactor, store, unseen)
        #: The value of an object that is ready; raises if it is an error. Without the lock.
        self.load = self.decoder.load
        #: Objects of ours on their way out of our slab, and who waits for that.
        self._moving: dict[ObjectId, list[Callable[[ObjectRecord], None]]] = {}

    def require(self, object_ids: Sequence[ObjectId]) -> None:
        """Raises for references of an earlier session."""
        with self._lock:
            for object_id in object_ids:
                if object_id not in self._refs.objects:
                    raise stale_reference(object_id)

    def record_of(self, ref: Ref) -> ObjectRecord:
        """What is known of the object; raises for a reference of an earlier session.

        Without the lock: one look-up is atomic, and this is on the way of every argument.
        """
        return self._refs.objects.get(ref._id) or self._record_after_all(ref._id)

    def _record_after_all(self, object_id: ObjectId) -> ObjectRecord:
        """What a look without the lock has missed: the table is empty for a moment while it is shrunk."""
        with self._bare_lock:
            record = self._refs.objects.get(object_id)
        if record is None:
            raise stale_reference(object_id)
        return record

    # -- put -------------------------------------------------------------------------------------

    def put(self, value: Any, call_site: CallSite | None = None) -> ObjectId:
        """A new object of ours, with one local reference for the caller to wrap."""
        if FOR_A_CALL.may_lack():
            FOR_A_CALL.demand()
        return self.put_data(dumps(value), call_site)

    def put_data(self, data: bytes | Serialized, call_site: CallSite | None = None) -> ObjectId:
        """The same for a value that ``dumps`` has taken apart."""
        if type(data) is not bytes and self._reactor.is_in_the_middle():
            return self._put_in_the_middle(cast("Serialized", data), call_site)
        with self._bare_lock:
            object_id = self._contexts.current().next_put()
            record = self._refs.new_owned(object_id)
            record.call_site = call_site
            if type(data) is bytes:
                self._refs.set_inline(record, data)
                return object_id
        assert isinstance(data, Serialized)
        self.place(object_id, record, data)
        return object_id

    def _put_in_the_middle(self, data: Serialized, call_site: CallSite | None) -> ObjectId:
        """By a ``__del__`` amid half-written books: what the value refers to is counted a moment later."""
        if data.total_bytes > INLINE_MAX_BYTES:
            raise RuntimeError(IN_THE_MIDDLE)
        object_id = self._contexts.current().next_put()
        record = self._refs.new_owned(object_id)
        record.call_site = call_site
        self._reactor.put_off(lambda: self._fill(record, data))
        return object_id

    def _fill(self, record: ObjectRecord, data: Serialized) -> None:
        if record.state == PENDING:
            self._refs.set_inline(record, pack(data), data.contained)
            self.notify(record)

    def place(self, object_id: ObjectId, record: ObjectRecord, data: Serialized) -> None:
        """Give ``record`` its value: inline if small, else in the store. Without the lock."""
        if data.total_bytes <= INLINE_MAX_BYTES:
            with self._lock:
                self._refs.set_inline(record, pack(data), data.contained)
            return
        try:
            size = self._store.write(object_id, data, str(record.call_site or ""), self._refs.self_address)
        except BaseException:
            with self._lock:
                self._refs.release_many([object_id])
            raise
        with self._lock:
            self._refs.set_stored(record, (self._store.node_id,), size, data.contained)
            self._releases.perform()

    # -- get -------------------------------------------------------------------------------------

    def get_one(self, ref: Ref, timeout_s: float | None) -> Any:
        """As ``get``: the most frequent one.

        What is here needs no lock, for its reference keeps it.
        """
        object_id = ref._id
        record = self._refs.objects.get(object_id) or self._record_after_all(object_id)
        waiter: GetWaiter | None = None
        if record.state == PENDING or released:
            if FOR_A_CALL.may_lack():
                FOR_A_CALL.demand()
            if not self._reactor.is_in_the_middle():
                with self._bare_lock:
                    if released:
                        self._releases.drain()
                    if record.state == PENDING:
                        waiter = OneGetWaiter()
                        self.when_ready(object_id, record, waiter.on_ready)
                    else:
                        self._reactor.leave()  # else the wait begins with that
            elif record.state == PENDING:
                raise RuntimeError(IN_THE_MIDDLE)
        try:
            if waiter is not None:
                self._wait_for(waiter, (ref,), (record,), timeout_s)
            if record.state == INLINE and record.payload[0] == PICKLE_MARK:
                return loads_plain(record.payload)
            return self.load(object_id, record)
        except GetTimeoutError:
            raise
        except Exception:
            with self._lock:
                self._unseen.excuse((object_id,))
            raise

    def get(self, refs: Sequence[Ref], timeout_s: float | None) -> list[Any]:
        """The values, or the first error among them. ``refs`` are ObjectRefs.

        Raises GetTimeoutError when ``timeout_s`` (None: never) is over.
        """
        if len(refs) == 1 or self._reactor.is_in_the_middle():
            return [self.get_one(ref, timeout_s) for ref in refs]
        if FOR_A_CALL.may_lack():
            FOR_A_CALL.demand()
        waiter: GetWaiter | None = None
        records: list[ObjectRecord] = []
        missing = 0
        #: One that has failed is the outcome: then there is nothing to wait for.
        failed = False
        with self._bare_lock:
            drained = bool(released)
            if drained:
                self._releases.drain()
            objects = self._refs.objects
            for ref in refs:
                record = objects.get(ref._id)
                if record is None:
                    self._reactor.leave()
                    raise stale_reference(ref._id)
                records.append(record)
                if record.state == PENDING:
                    missing += 1
                elif record.state != INLINE or record.payload[0] != PICKLE_MARK:
                    failed = failed or _failed(record)
            if missing and not failed:
                waiter = GetWaiter(missing)
                on_ready = waiter.on_ready
                for ref, record in zip(refs, records, strict=True):
                    if record.state == PENDING:
                        if record.waiters is not None and on_ready in record.waiters:
                            waiter.remaining -= 1  # it stands in the list twice, and tells us once
                        else:
                            self.when_ready(ref._id, record, on_ready)
            elif drained:
                self._reactor.leave()  # else the wait begins with that
        try:
            if waiter is not None:
                self._wait_for(waiter, refs, records, timeout_s)
                failed = waiter.has_failed
            if missing and failed:
                self._raise_first_error(refs, records)
            load = self.load  # not map(): a StopIteration that a task raised would end it
            return [
                loads_plain(record.payload)
                if record.state == INLINE and record.payload[0] == PICKLE_MARK
                else load(ref._id, record)
                for ref, record in zip(refs, records, strict=True)
            ]
        except GetTimeoutError:
            raise
        except Exception:
            with self._lock:
                self._unseen.excuse(ref._id for ref in refs)
            raise

    def _wait_for(
        self, waiter: GetWaiter, refs: Sequence[Ref], records: Sequence[ObjectRecord], timeout_s: float | None
    ) -> None:
        started = monotonic()
        deadline = None if timeout_s is None else started + timeout_s
        done = False
        try:
            done = self.blocking.block_until(waiter, deadline, refs)
        finally:
            if not done or waiter.has_failed:
                with self._lock:
                    for record in records:
                        stop_waiting(record, waiter.on_ready)
        if not done:
            self.blocking.raise_if_shut()
            ids = [ref._id for ref in refs]
            raise GetTimeoutError(self.blocking.timeout_text(waiter, ids, timeout_s or 0.0))
        if self.advice is not None and (seconds := monotonic() - started) > _ADVISED_FROM_S:
            self.advice.waited(refs, seconds)

    def _raise_first_error(self, refs: Sequence[Ref], records: Sequence[ObjectRecord]) -> None:
        """An error among those that are ready is the outcome, whatever the others become."""
        if any(record.state == PENDING for record in records):
            for ref, record in zip(refs, records, strict=True):
                if _failed(record):
                    self.load(ref._id, record)

    def when_ready(
        self, object_id: ObjectId, record: ObjectRecord, callback: Callable[[ObjectRecord], None]
    ) -> None:
        """Call ``callback(record)`` under the lock once ``record``, now PENDING, is not. Under the lock."""
        if record.waiters is None:
            record.waiters = {callback: None}
        else:
            record.waiters[callback] = None
        if record.owner:
            self.ask_owner(object_id, record)

    def ask_owner(self, object_id: ObjectId, record: ObjectRecord) -> None:
        """Have the owner of a borrowed, PENDING object tell its value when there is one. Under the lock."""
        if not record.asked:
            record.asked = True
            self._peers.get(Address(record.owner)).send(GetObject(object_id))

    def notify(self, record: ObjectRecord) -> None:
        """``record`` has just left PENDING: tell who waits."""
        waiters, record.waiters = record.waiters, None
        if waiters:
            for callback in waiters:
                try:
                    callback(record)
                except Exception as error:
                    self.contain(error)

    def contain(self, error: Exception) -> None:
        """Who waits for an object raised when it was told: the others are told all the same."""
        self._reactor.containment.contain(error, "telling who waits for an object")

    # -- out of our slab -------------------------------------------------------------------------

    def share(self, object_id: ObjectId, record: ObjectRecord, then: Callable[[ObjectRecord], None]) -> None:
        """Call ``then(record)`` once others can get at the value of an object of ours. Under the lock.

        What lies in our slab is nobody's but ours and whom we lend it to: it becomes an object of the node,
        or, if that has no room, a value that travels in messages.
        """
        place = record.place
        if place is None:
            then(record)
            return
        if object_id in self._moving:
            self._moving[object_id].append(then)
            return
        self._moving[object_id] = [then]
        record.local += 1  # kept until it has moved

        def moved(is_stored: bool) -> None:
            assert place is not None
            if is_stored:
                record.nodes = (*record.nodes, self._store.node_id)
            else:
                try:
                    record.payload = self._packed(place, record.size)
                except Exception as error:  # nor has this process room for it: better an error than no answer
                    record.payload = dump_error(error)
                record.state = INLINE
            record.place = None
            self._store.own.let_go(place)
            for each in self._moving.pop(object_id):
                try:
                    each(record)
                except Exception as error:
                    self.contain(error)
            self._refs.release_many([object_id])
            self._releases.perform()

        self._store.move(object_id, place, record.size, str(record.call_site or ""), moved)

    def _packed(self, place: Place, size: int) -> bytes:
        value = read_value(self._store.bytes_at(place, size))
        return pack(Serialized(value.kind, bytes(value.inband), value.buffers, value.contained))

    # -- answers of owners -----------------------------------------------------------------------

    def value_came(self, object_id: ObjectId, payload: bytes) -> None:
        record = self._answered(object_id)
        if record is not None:
            self._refs.set_inline(record, payload)
            self.notify(record)

    def place_came(self, object_id: ObjectId, nodes: tuple[NodeId, ...], size: int) -> None:
        record = self._answered(object_id)
        if record is not None:
            self._refs.set_stored(record, nodes, size)
            self.notify(record)

    def loss_came(self, object_id: ObjectId, reason: str) -> None:
        record = self._answered(object_id)
        if record is not None:
            self._refs.set_lost(record, reason)
            self.notify(record)

    def _answered(self, object_id: ObjectId) -> ObjectRecord | None:
        record = self._refs.objects.get(object_id)
        return record if record is not None and record.state == PENDING and record.owner else None

    def lost(self, object_ids: list[ObjectId]) -> None:
        """The reference counter found that these are gone."""
        for object_id in object_ids:
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


def stale_reference(object_id: ObjectId) -> RaySystemError:
    return RaySystemError(
        ValueError(
            f"ObjectRef {object_id.hex()} is not known in this session: it comes from an earlier session, "
            "which was shut down, or from the process that this one was forked from, or it was made up. "
            "Objects end with their session, and a fork is not a part of it."
        )
    )
