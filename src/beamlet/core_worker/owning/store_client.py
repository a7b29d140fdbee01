"""This process's way into the node's object store: room to write, pins to read.

The raylet decides where bytes lie and how long; this process moves them itself, through the arena it mapped.
A pin lasts until the last view of the object dies, wherever that happens: the finalizer only appends to
``Releases.unpinned``, which is passed on with the next pass.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

from beamlet.base.ids import Address, NodeId, ObjectId
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.owning.releases import Releases
from beamlet.exceptions import ObjectLostError, ObjectStoreFullError
from beamlet.object_store.arena import Arena
from beamlet.object_store.layout import StoredValue, pack_plan, pieces, read_value
from beamlet.protocol.node import (
    AbortObject,
    CreateObject,
    ObjectCreated,
    ObjectPinned,
    PinObject,
    SealObject,
)
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
    ) -> None:
        self._link = link
        self._releases = releases
        self._reactor = reactor
        #: Where ``write`` puts things.
        self.node_id = node_id
        self._arena = arena
        self._strict = strict_arrays

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
        plan = pack_plan(data.kind, len(data.inband), [part.nbytes for part in data.buffers], data.contained)
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
                except BaseException:
                    with lock:
                        link.send(AbortObject(object_id))
                    raise
                if unsealed is not None:
                    unsealed.append(object_id)
                else:
                    with lock:
                        link.send(SealObject(object_id))
            return size
        raise ObjectStoreFullError(answer.reason)

    def seal(self, unsealed: Sequence[ObjectId]) -> None:
        """These are written. Under the lock."""
        for object_id in unsealed:
            self._link.send(SealObject(object_id))

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
        except BaseException:  # no memory for the mapping
            release()
            raise
        return read_value(memory)

    def set_strict(self, strict_arrays: bool) -> None:
        """Whether arrays are read-only, as in Ray, or private copy-on-write."""
        self._strict = strict_arrays

    def close(self) -> None:
        self._arena.close()
