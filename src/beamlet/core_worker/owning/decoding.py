"""Values of users come back to life here, and nowhere else on the owner's side: counted, then unpickled.

Unpickling runs users' code, so it happens in the thread of whoever asked, never under the lock.  Errors are
values like all others: what they contain is counted before they are rebuilt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beamlet.base.ids import Address, ObjectId
from beamlet.core_worker.owning.object_record import CUT_OFF, INLINE, STORED, ObjectRecord
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.core_worker.owning.store_client import StoreClient
from beamlet.core_worker.owning.unseen import UnseenErrors
from beamlet.exceptions import CallSite, ObjectLostError, OwnerDiedError, RayTaskError
from beamlet.protocol.message import ContainedRef
from beamlet.rpc.turns import IN_THE_MIDDLE, SharedReactor
from beamlet.serialization.values import ERROR, PICKLE_MARK, loads_plain, rebuild, rebuild_packed, unpack


class Decoder:
    """Called without the lock, by whoever holds a reference to what is decoded."""

    def __init__(
        self,
        refs: ReferenceCounter,
        releases: Releases,
        reactor: SharedReactor,
        store: StoreClient,
        unseen: UnseenErrors,
    ) -> None:
        self._refs = refs
        self._releases = releases
        self._lock = reactor.lock
        self._bare_lock = reactor.bare_lock
        self._store = store
        self._unseen = unseen

    def load(self, object_id: ObjectId, record: ObjectRecord) -> Any:
        """The value; raises if it is an error or lost."""
        if record.state == INLINE:
            payload = record.payload
            if payload[0] == PICKLE_MARK:
                return loads_plain(payload)
            return self._load_packed(object_id, payload, record.call_site)
        if record.state == STORED:
            return self._load_stored(object_id, record)
        raise self.loss_of(object_id, record)

    def _load_packed(self, object_id: ObjectId, payload: bytes, site: CallSite | None) -> Any:
        packed = unpack(payload)
        self._count(object_id, packed.contained)
        if packed.kind == ERROR:
            self._unseen.seen(object_id)
            raise to_raise(rebuild_packed(packed), site)
        return rebuild_packed(packed)

    def _load_stored(self, object_id: ObjectId, record: ObjectRecord) -> Any:
        with self._bare_lock:
            place = record.place
            if place is not None:
                place.views += 1
            has_moved = record.state == INLINE
        if has_moved:  # out of our slab, while we came for the lock, and the store had no room
            return self.load(object_id, record)
        if place is not None:
            stored = self._store.read_own(place, record.size)
        else:
            owner = Address(record.owner) or self._refs.self_address
            stored = self._store.read(object_id, owner, record.nodes)
        self._count(object_id, stored.contained)
        return rebuild(stored.kind, stored.inband, stored.buffers, stored.contained)

    def _count(self, object_id: ObjectId, contained: list[ContainedRef]) -> None:
        if contained:
            if self._lock.is_held_here:
                raise RuntimeError(IN_THE_MIDDLE)
            with self._lock:
                self._refs.found_in_value(object_id, contained)
                self._releases.perform()

    def loss_of(self, object_id: ObjectId, record: ObjectRecord) -> ObjectLostError:
        """Why there is no value."""
        owner = record.owner.hex() or self._refs.self_address.hex()
        kind = OwnerDiedError if record.borrow == CUT_OFF else ObjectLostError
        error = kind(object_id.hex(), owner, str(record.call_site or ""))
        error.add_note(f"object {object_id.hex()}: {record.reason or 'its value is gone'}")
        return error


#: How a waiting thing loads what it waited for.
Load = Callable[[ObjectId, ObjectRecord], Any]


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
