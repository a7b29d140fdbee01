"""This process's way into the node's object store: room to write, pins to read.

The raylet decides where bytes lie and how long; this process moves them itself, through the arena it mapped.
A pin lasts until the last view of the object dies, wherever that happens: the finalizer only appends to
``Releases.unpinned``, which is passed on with the next pass.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

from beamlet.base.ids import Address, NodeId, ObjectId
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.owning.own_slab import AskSlab, OwnSlab, Place
from beamlet.core_worker.owning.releases import Releases
from beamlet.exceptions import ObjectLostError, ObjectStoreFullError
from beamlet.object_store.arena import Arena, WritingEnded
from beamlet.object_store.layout import PackPlan, StoredValue, pack_plan, pieces, read_value
from beamlet.object_store.views import LentView
from beamlet.protocol.node import (
    AbortObject,
    CreateObject,
    LeaseSlab,
    ObjectCreated,
    ObjectPinned,
    ObjectRefused,
    PinObject,
    ReturnSlab,
    SealObject,
    SlabLeased,
    SlabRefused,
    SlabWanted,
)
from beamlet.protocol.peer import Room
from beamlet.rpc.turns import SharedReactor
from beamlet.serialization.values import Serialized


class StoreClient:
    """``read`` and ``write`` block, without the lock; the rest is called under it."""

    def __init__(
        self,
        link: NodeLink,
        releases: Releases,
        reactor: SharedReactor,
        node_id: NodeId,
        arena: Arena,
        strict_arrays: bool,
        own: OwnSlab,
    ) -> None:
        self._link = link
        self._releases = releases
        self._reactor = reactor
        #: Where ``write`` puts things.
        self.node_id = node_id
        self._arena = arena
        self._strict = strict_arrays
        #: What we have leased of the arena; under the lock.
        self.own = own

    # -- in slabs --------------------------------------------------------------------------------

    def put_in_place(self, values: Sequence[Serialized]) -> list[tuple[Place, int]] | None:
        """Write the values into our own slab; with their sizes. None: it is full, nothing was written."""
        plans = [plan_of(data) for data in values]
        places: list[Place] = []
        with self._reactor.lock:
            self._releases.drain()
            for plan in plans:
                place = self.own.take(plan.total_bytes)
                if place is None:
                    break
                places.append(place)
            if len(places) < len(plans):
                for place in places:
                    self.own.let_go(place)
                self.perform()
                return None
        try:
            for place, plan, data in zip(places, plans, values, strict=True):
                self._arena.write(place.offset, pieces(plan, data.inband, data.buffers), place.warm)
        except BaseException as error:
            self.let_go(places)
            if isinstance(error, WritingEnded):
                raise self._link.gone() from None
            raise
        return [(place, plan.total_bytes) for place, plan in zip(places, plans, strict=True)]

    def let_go(self, places: Sequence[Place]) -> None:
        """Nothing will be submitted with these, after all. Without the lock."""
        if places:
            with self._reactor.lock:
                for place in places:
                    self.own.let_go(place)
                self.perform()

    def write_in_room(self, room: Room, data: Serialized) -> int:
        """Write a result where its owner wants it; its size, 0 if it does not fit. ``room`` is lent to us."""
        plan = plan_of(data)
        if plan.total_bytes > room.size:
            return 0
        self._arena.write(room.offset, pieces(plan, data.inband, data.buffers), room.warm)
        return plan.total_bytes

    def read_own(self, place: Place, size: int) -> StoredValue:
        """Look into a place that the caller has counted a view of."""
        unviewed = self._releases.unviewed
        viewed = [place]

        def release() -> None:
            if viewed:
                unviewed.append(viewed.pop())

        try:
            memory = self._arena.map_object(
                place.offset, size, writable_private=not self._strict, on_release=release
            )
        except BaseException as error:
            release()
            if isinstance(error, WritingEnded):
                raise self._link.gone() from None
            raise
        return read_value(memory)

    def read_lent(self, offset: int, size: int, views: list[LentView]) -> StoredValue:
        """Look into a place of another process's slab that is lent to us; ``views`` gets what ends that."""
        memory, lent = self._arena.lend(offset, size, writable_private=not self._strict)
        if lent is not None:
            views.append(lent)
        return read_value(memory)

    def bytes_at(self, place: Place, size: int) -> memoryview:
        """The bytes of a value of ours. For a moment only: no view is counted."""
        return self._arena.map_object(place.offset, size, writable_private=False)

    def perform(self) -> None:
        """Lease and return slabs as ``own`` wants it. Under the lock."""
        outbox, self.own.outbox = self.own.outbox, []
        for effect in outbox:
            if isinstance(effect, AskSlab):
                self._link.request(LeaseSlab(0, effect.size), self._slab_answered)
            else:
                self._link.send(ReturnSlab(effect.offset))

    def _slab_answered(self, answer: SlabLeased | SlabRefused | None) -> None:
        if isinstance(answer, SlabLeased):
            self.own.came(answer.offset, answer.size, answer.warm)
        else:
            self.own.refused()

    def slab_wanted(self, _: SlabWanted) -> None:
        self._releases.drain()
        self.own.recall()
        self.perform()

    def tick(self) -> None:
        """Now and then, under the lock."""
        self.own.tick()
        self.perform()

    # -- objects of the node ---------------------------------------------------------------------

    def write(
        self,
        object_id: ObjectId,
        data: Serialized,
        call_site: str,
        owner: Address,
        unsealed: list[ObjectId] | None = None,
    ) -> int:
        """Store a value on behalf of ``owner``; returns its bytes. Waits for room.

        unsealed: it is added there, to be given to ``seal`` or ``abort``.
        Raises ObjectStoreFullError, which names what fills the store.
        """
        link, lock = self._link, self._reactor.lock
        plan = plan_of(data)
        size = plan.total_bytes
        request = CreateObject(0, object_id, size, call_site, owner)

        def undo(late: object) -> None:
            if isinstance(late, ObjectCreated) and late.offset >= 0:
                link.send(AbortObject(object_id))

        answer = link.call(request, if_slow=self._make_room, first=self._releases.drain, undo=undo)
        if isinstance(answer, ObjectCreated):
            if answer.offset >= 0:
                parts = pieces(plan, data.inband, data.buffers)
                try:
                    self._arena.write(answer.offset, parts, answer.warm)
                except BaseException as error:
                    with lock:
                        link.send(AbortObject(object_id))
                    if isinstance(error, WritingEnded):
                        raise link.gone() from None
                    raise
                if unsealed is not None:
                    unsealed.append(object_id)
                else:
                    with lock:
                        link.send_first(SealObject(object_id))
            return size
        raise ObjectStoreFullError(answer.reason)

    def seal(self, unsealed: Sequence[ObjectId]) -> None:
        """These are written. Under the lock, before anybody is told."""
        for object_id in unsealed:
            self._link.send_first(SealObject(object_id))

    def abort(self, unsealed: Sequence[ObjectId]) -> None:
        """Nobody will hear of these. Under the lock."""
        for object_id in unsealed:
            self._link.send(AbortObject(object_id))

    def _make_room(self) -> None:
        """The store is full: what only circles of garbage hold in this process may be in the way."""
        gc.collect()
        with self._reactor.lock:
            self._releases.drain()
            self._reactor.flush()

    def read(self, object_id: ObjectId, owner: Address, nodes: Sequence[NodeId]) -> StoredValue:
        """Pin the object here and look into it. Raises ObjectLostError if no node has it."""
        unpinned = self._releases.unpinned

        pinned = [object_id]

        def release() -> None:
            if pinned:
                unpinned.append(pinned.pop())

        def undo(late: object) -> None:
            if isinstance(late, ObjectPinned):
                release()

        answer = self._link.call(PinObject(0, object_id, owner, list(nodes)), undo=undo)
        if not isinstance(answer, ObjectPinned):
            error = ObjectLostError(object_id.hex(), owner.hex(), "")
            error.add_note(f"object {object_id.hex()}: {answer.reason}")
            raise error
        try:
            memory = self._arena.map_object(
                answer.offset, answer.size, writable_private=not self._strict, on_release=release
            )
        except BaseException as error:  # no memory for the mapping
            release()
            if isinstance(error, WritingEnded):
                raise self._link.gone() from None
            raise
        return read_value(memory)

    def move(
        self, object_id: ObjectId, place: Place, size: int, call_site: str, then: Callable[[bool], None]
    ) -> None:
        """Make the value of an object of ours, now in our slab, one of the node's. Under the lock.

        ``then`` is told, under the lock, whether it is; False: there is no room.
        """

        def answered(answer: ObjectCreated | ObjectRefused | None) -> None:
            if not isinstance(answer, ObjectCreated):
                then(False)
                return
            if answer.offset >= 0:
                try:
                    self._arena.write(answer.offset, [self.bytes_at(place, size)], answer.warm)
                except (OSError, MemoryError):  # the machine, or this process, has no memory for it
                    self._link.send(AbortObject(object_id))
                    then(False)
                    return
                self._link.send_first(SealObject(object_id))
            then(True)

        self._link.request(CreateObject(0, object_id, size, call_site), answered)

    def set_strict(self, strict_arrays: bool) -> None:
        """Whether arrays are read-only, as in Ray, or private copy-on-write."""
        self._strict = strict_arrays

    def keep_all(self) -> None:
        """Arrays that live are read on when our pins are gone: they become copies. Without the lock.

        Raises OSError when there is no memory for some.
        """
        self._arena.keep_all()

    def end_writing(self, within_s: float) -> None:
        """Before the goodbye after which our places are others'. Without the lock."""
        self._arena.end_writing(within_s)

    def leave(self) -> None:
        """From here on only arrays that live and are no copies are a reason to leave our places to us."""
        self._arena.leave()

    def abandon(self) -> None:
        """The same in a fork."""
        self._arena.abandon()

    def close(self) -> None:
        self._arena.close()


def plan_of(data: Serialized) -> PackPlan:
    """How the value lies in the arena."""
    return pack_plan(data.kind, len(data.inband), [part.nbytes for part in data.buffers], data.contained)
