"""The objects of one store, from creation until their bytes are free again.

    create ──> CREATED ──seal──> SEALED ──delete, no pins──> gone
                 │  │               └─────delete, pins─────> DELETED_PINNED ──last unpin──> gone
                 │  └──delete──> DELETED_CREATED ──seal, abort──> gone
                 └─────abort, creator lost──> gone

A *pin* is one client's promise-holder: while an object has any, its bytes stay where they are, whoever
deletes it. A primary copy stays until it is deleted; a secondary one (a copy of what another node has) is
evicted, least recently used first, when room is short and nobody pins it.

Decides when bytes become free and what parked readers are told; who waits for room is ``admission``'s.
The caller must not ``disconnect`` a client before its process can no longer write and read: what it was
creating, and what only it pins, is handed to others at once.  Until then it may be ``cut_off``.
"""

from __future__ import annotations

import heapq
from enum import Enum
from typing import TypeVar

import msgspec

from beamlet.base.ids import Address, ObjectId
from beamlet.object_store.allocator import Allocator
from beamlet.object_store.outcomes import Answer, Created, CreateRequest, Located, Missing, StoreMisuse

K = TypeVar("K")


class ObjectState(Enum):
    CREATED = "being written"
    SEALED = "sealed"
    DELETED_CREATED = "deleted, but still being written"
    DELETED_PINNED = "deleted, but still read"


_WRITING = (ObjectState.CREATED, ObjectState.DELETED_CREATED)


class StoredObject(msgspec.Struct):
    """One object's place and story."""

    object_id: ObjectId
    offset: int
    #: Bytes of the value; the allocation is this rounded up.
    size: int
    creator: int
    owner: Address
    call_site: str
    is_primary: bool
    created_at: float
    state: ObjectState = ObjectState.CREATED
    #: Sum over clients.
    pin_count: int = 0
    #: (client, request id) of readers parked until it is sealed, in order of arrival.
    waiters: list[tuple[int, int]] = msgspec.field(default_factory=list)


class Usage(msgspec.Struct, frozen=True):
    """Bytes are those taken from the arena, so used + free = capacity."""

    capacity_bytes: int
    used_bytes: int
    free_bytes: int
    largest_free_bytes: int
    warm_free_bytes: int
    object_count: int
    creating_bytes: int
    pinned_bytes: int
    #: Deleted, and kept only because somebody reads or writes them.
    deleted_bytes: int
    evictable_bytes: int
    #: Leased to processes that keep small objects of their own there.
    slab_bytes: int = 0


class Holder(msgspec.Struct, frozen=True):
    """Who takes how much, for error messages and state queries."""

    object_id: ObjectId
    size: int
    age_s: float
    owner: Address
    call_site: str
    state: ObjectState
    pin_count: int


class StoreLifecycle:
    """All objects of one store. Methods that end something return the answers its waiters get."""

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._objects: dict[ObjectId, StoredObject] = {}
        #: client that lives → what it is writing and has written. This and the next are there so that a death
        #: does not cost a look at all objects there are.
        self._made: dict[int, dict[ObjectId, None]] = {}
        self._owned: dict[Address, dict[ObjectId, None]] = {}
        #: client → object → how many pins.
        self._pins: dict[int, dict[ObjectId, int]] = {}
        #: Objects that have waiters.
        self._awaited: dict[ObjectId, None] = {}
        #: Sealed unpinned secondary copies, least recently used first.
        self._evictable: dict[ObjectId, None] = {}
        self._evictable_bytes = 0

    def find(self, object_id: ObjectId) -> StoredObject | None:
        return self._objects.get(object_id)

    def contains(self, object_id: ObjectId) -> bool:
        """Whether a reader could have it now."""
        stored = self._objects.get(object_id)
        return stored is not None and stored.state is ObjectState.SEALED

    # --- writing -------------------------------------------------------------------------------------

    def create(self, request: CreateRequest, now: float) -> Created | None:
        """Give the object a place, evicting secondary copies if that makes room; None when there is none."""
        if request.object_id in self._objects:
            raise StoreMisuse(f"object {request.object_id.hex()} is in the store already")
        found = self._allocator.allocate(request.size)
        while found is None and self._can_evict_for(request.size):
            self._evict(next(iter(self._evictable)))
            found = self._allocator.allocate(request.size)
        if found is None:
            return None
        self._objects[request.object_id] = StoredObject(
            request.object_id,
            found.offset,
            request.size,
            request.client,
            request.owner,
            request.call_site,
            request.is_primary,
            now,
        )
        self._made.setdefault(request.client, {})[request.object_id] = None
        self._owned.setdefault(request.owner, {})[request.object_id] = None
        return Created(found.offset, request.size, found.warm)

    def seal(self, client: int, object_id: ObjectId) -> list[Answer]:
        """The value is written. Readers parked for it are pinned and told where it is."""
        stored = self._written_by(client, object_id, "seal")
        if stored.state is ObjectState.DELETED_CREATED:
            self._drop(stored)
            return []
        stored.state = ObjectState.SEALED
        self._awaited.pop(object_id, None)
        waiters, stored.waiters = stored.waiters, []
        if not waiters:
            self._note_evictable(stored)
        return [Answer(reader, request_id, self._pin(reader, stored)) for reader, request_id in waiters]

    def abort(self, client: int, object_id: ObjectId) -> list[Answer]:
        """The value will not be written after all."""
        stored = self._written_by(client, object_id, "abort")
        return self._abort(stored, "whoever was writing it gave up before it was complete")

    # --- reading -------------------------------------------------------------------------------------

    def pin(self, client: int, object_id: ObjectId) -> Located | None:
        """Keep a sealed object where it is until ``client`` unpins it; None when it is not here, sealed."""
        stored = self._objects.get(object_id)
        if stored is None or stored.state is not ObjectState.SEALED:
            return None
        return self._pin(client, stored)

    def wait(self, client: int, request_id: int, object_id: ObjectId) -> bool:
        """Park a reader until the object is sealed or lost; False when nobody is writing it."""
        stored = self._objects.get(object_id)
        if stored is None or stored.state is not ObjectState.CREATED:
            return False
        stored.waiters.append((client, request_id))
        self._awaited[object_id] = None
        return True

    def unpin(self, client: int, object_id: ObjectId) -> None:
        """Take back one pin."""
        pins = self._pins.get(client, {})
        if object_id not in pins:
            raise StoreMisuse(f"client {client} unpins object {object_id.hex()}, of which it holds no pin")
        pins[object_id] -= 1
        if not pins[object_id]:
            del pins[object_id]
            if not pins:
                del self._pins[client]
        self._lose_pins(self._objects[object_id], 1)

    # --- ending --------------------------------------------------------------------------------------

    def delete(self, object_id: ObjectId) -> list[Answer]:
        """Nobody will ask for the object again. Its bytes go with the last pin. Repeat-safe."""
        stored = self._objects.get(object_id)
        if stored is None:
            return []
        if stored.state is ObjectState.CREATED:
            stored.state = ObjectState.DELETED_CREATED
            return self._turn_away(stored, "it was deleted: its last reference went away")
        if stored.state is ObjectState.SEALED:
            self._unnote_evictable(stored)
            stored.state = ObjectState.DELETED_PINNED
            if not stored.pin_count:
                self._drop(stored)
        return []

    def disconnect(self, client: int) -> list[Answer]:
        """The client's process is gone: so are its pins, its waits and what it had not finished writing."""
        self._wait_no_more(client)
        for object_id, count in self._pins.pop(client, {}).items():
            self._lose_pins(self._objects[object_id], count)
        answers = []
        for object_id in self._made.pop(client, ()):
            stored = self._objects[object_id]
            if stored.state in _WRITING:
                answers += self._abort(stored, "the process that was writing it died")
        return answers

    def cut_off(self, client: int) -> list[Answer]:
        """Nobody listens to the client any more, but its process may live: its pins stay, and what it was
        writing is nobody's, but not free before ``disconnect``."""
        self._wait_no_more(client)
        answers = []
        for object_id in self._made.get(client, ()):
            stored = self._objects[object_id]
            if stored.state is ObjectState.CREATED:
                stored.state = ObjectState.DELETED_CREATED
                answers += self._turn_away(stored, "the process that was writing it was cut off")
        return answers

    def owned_by(self, owner: Address) -> list[ObjectId]:
        """What an owner's death leaves without anyone to delete it."""
        return list(self._owned.get(owner, ()))

    def stored_by(self, client: int) -> dict[Address, list[ObjectId]]:
        """What ``client`` has sealed and nobody deleted, by owner."""
        stored_for: dict[Address, list[ObjectId]] = {}
        for object_id in self._made.get(client, ()):
            stored = self._objects[object_id]
            if stored.state is ObjectState.SEALED:
                stored_for.setdefault(stored.owner, []).append(object_id)
        return stored_for

    # --- asking --------------------------------------------------------------------------------------

    def usage(self, slab_bytes: int = 0) -> Usage:
        """``slab_bytes``: taken by slabs, which hold no objects of ours."""
        deleted = (ObjectState.DELETED_CREATED, ObjectState.DELETED_PINNED)
        objects = self._objects.values()
        rounded = self._allocator.rounded
        return Usage(
            capacity_bytes=self._allocator.capacity,
            used_bytes=self._allocator.used_bytes,
            free_bytes=self._allocator.free_bytes,
            largest_free_bytes=self._allocator.largest_free,
            warm_free_bytes=self._allocator.warm_free_bytes,
            object_count=len(objects),
            creating_bytes=sum(rounded(o.size) for o in objects if o.state is ObjectState.CREATED),
            pinned_bytes=sum(rounded(o.size) for o in objects if o.pin_count),
            deleted_bytes=sum(rounded(o.size) for o in objects if o.state in deleted),
            evictable_bytes=self._evictable_bytes,
            slab_bytes=slab_bytes,
        )

    def biggest(self, count: int, now: float) -> list[Holder]:
        """The ``count`` largest objects, largest first."""
        largest = heapq.nlargest(count, self._objects.values(), key=lambda stored: stored.size)
        return [
            Holder(o.object_id, o.size, now - o.created_at, o.owner, o.call_site, o.state, o.pin_count)
            for o in largest
        ]

    def kept_for(self, client: int) -> int:
        """Bytes of what is deleted, and kept because ``client`` reads or writes it."""
        read = dict.fromkeys(self._pins.get(client, ()), ObjectState.DELETED_PINNED)
        written = dict.fromkeys(self._made.get(client, ()), ObjectState.DELETED_CREATED)
        found = ((self._objects[object_id], state) for object_id, state in (*read.items(), *written.items()))
        return sum(self._allocator.rounded(stored.size) for stored, state in found if stored.state is state)

    def check_invariants(self, slab_bytes: int = 0) -> None:
        self._allocator.check_invariants()
        rounded = self._allocator.rounded
        assert sum(rounded(o.size) for o in self._objects.values()) + slab_bytes == self._allocator.used_bytes
        pins: dict[ObjectId, int] = {}
        for held in self._pins.values():
            assert held, "an empty pin table was kept"
            for object_id, count in held.items():
                assert count > 0
                pins[object_id] = pins.get(object_id, 0) + count
        for object_id, stored in self._objects.items():
            self._check_object(stored, pins.pop(object_id, 0))
        assert not pins, f"pins of objects that are gone: {pins}"
        sizes = (rounded(self._objects[object_id].size) for object_id in self._evictable)
        assert sum(sizes) == self._evictable_bytes
        assert all([*self._made.values(), *self._owned.values()]), "an empty row was left"
        assert sum(map(len, self._owned.values())) == len(self._objects)
        made = {(client, object_id) for client, ids in self._made.items() for object_id in ids}
        assert all(self._objects[object_id].creator == client for client, object_id in made)

    def _check_object(self, stored: StoredObject, pins: int) -> None:
        writing = stored.state in _WRITING
        idle_copy = stored.state is ObjectState.SEALED and not stored.is_primary and not stored.pin_count
        assert stored.pin_count == pins, f"{stored} has {pins} pins"
        assert not (writing and pins), f"{stored} is pinned while it is written"
        assert not writing or stored.object_id in self._made[stored.creator], f"{stored}: by the dead"
        assert stored.object_id in self._owned[stored.owner]
        assert stored.state is not ObjectState.DELETED_PINNED or pins, f"{stored} is kept for nobody"
        assert (stored.object_id in self._awaited) == bool(stored.waiters)
        assert stored.state is ObjectState.CREATED or not stored.waiters, f"{stored} has forgotten waiters"
        assert (stored.object_id in self._evictable) == idle_copy

    # --- parts ---------------------------------------------------------------------------------------

    def _wait_no_more(self, client: int) -> None:
        for object_id in list(self._awaited):
            stored = self._objects[object_id]
            stored.waiters = [waiter for waiter in stored.waiters if waiter[0] != client]
            if not stored.waiters:
                del self._awaited[object_id]

    def _written_by(self, client: int, object_id: ObjectId, verb: str) -> StoredObject:
        stored = self._objects.get(object_id)
        if stored is None or stored.creator != client or stored.state not in _WRITING:
            found = (
                "not in the store"
                if stored is None
                else f"{stored.state.value}, created by client {stored.creator}"
            )
            raise StoreMisuse(
                f"client {client} may not {verb} object {object_id.hex()}: it is {found}; "
                f"only its creator may, once, after creating it"
            )
        return stored

    def _abort(self, stored: StoredObject, why: str) -> list[Answer]:
        answers = self._turn_away(stored, why)
        self._drop(stored)
        return answers

    def _turn_away(self, stored: StoredObject, why: str) -> list[Answer]:
        self._awaited.pop(stored.object_id, None)
        waiters, stored.waiters = stored.waiters, []
        missing = Missing(f"object {stored.object_id.hex()} is not in this store: {why}")
        return [Answer(client, request_id, missing) for client, request_id in waiters]

    def _pin(self, client: int, stored: StoredObject) -> Located:
        self._unnote_evictable(stored)
        pins = self._pins.setdefault(client, {})
        pins[stored.object_id] = pins.get(stored.object_id, 0) + 1
        stored.pin_count += 1
        return Located(stored.offset, stored.size)

    def _lose_pins(self, stored: StoredObject, count: int) -> None:
        stored.pin_count -= count
        if stored.pin_count:
            return
        if stored.state is ObjectState.DELETED_PINNED:
            self._drop(stored)
        else:
            self._note_evictable(stored)

    def _drop(self, stored: StoredObject) -> None:
        del self._objects[stored.object_id]
        _take_out(self._made, stored.creator, stored.object_id)
        _take_out(self._owned, stored.owner, stored.object_id)
        self._allocator.free(stored.offset)

    def _can_evict_for(self, size: int) -> bool:
        """False also spares secondary copies that would be evicted in vain."""
        enough = self._allocator.free_bytes + self._evictable_bytes >= self._allocator.rounded(size)
        return enough and bool(self._evictable)

    def _evict(self, object_id: ObjectId) -> None:
        stored = self._objects[object_id]
        self._unnote_evictable(stored)
        self._drop(stored)

    def _note_evictable(self, stored: StoredObject) -> None:
        if not stored.is_primary:
            self._evictable[stored.object_id] = None
            self._evictable_bytes += self._allocator.rounded(stored.size)

    def _unnote_evictable(self, stored: StoredObject) -> None:
        if stored.object_id in self._evictable:
            del self._evictable[stored.object_id]
            self._evictable_bytes -= self._allocator.rounded(stored.size)


def _take_out(rows: dict[K, dict[ObjectId, None]], key: K, object_id: ObjectId) -> None:
    """Of one row, which may be gone; an empty one goes."""
    row = rows.get(key)
    if row is not None:
        row.pop(object_id, None)
        if not row:
            del rows[key]
