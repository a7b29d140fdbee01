"""This process's way into the node's object store: room to write, pins to read.

The raylet decides where bytes lie and how long; this process moves them itself, through the arena it mapped.
A pin lasts until the last view of the object dies, wherever that happens: the finalizer only appends to
``unpinned``, and the core worker passes it on with its next pass.
"""

from __future__ import annotations

import gc
from collections import deque
from typing import TYPE_CHECKING

from beamlet.base.ids import Address, NodeId, ObjectId
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
    UnpinObject,
)
from beamlet.serialization.values import Serialized

if TYPE_CHECKING:
    from beamlet.core_worker.core_worker import CoreWorker


class StoreClient:
    """``read`` and ``write`` block, without the lock; the rest is called under it."""

    def __init__(self, core: CoreWorker, arena_fd: int, arena_bytes: int, strict_arrays: bool) -> None:
        self._core = core
        self._arena = Arena.attach(arena_fd, arena_bytes)
        self._strict = strict_arrays
        #: Objects whose last view died and whose pin is to be given back.
        self.unpinned: deque[ObjectId] = deque()

    def write(self, object_id: ObjectId, data: Serialized, call_site: str, owner: Address) -> int:
        """Store a value on behalf of ``owner``; returns its bytes. Waits for room.

        Raises ObjectStoreFullError, which names what fills the store.
        """
        core = self._core
        plan = pack_plan(data.kind, len(data.inband), [part.nbytes for part in data.buffers], data.contained)
        size = plan.total_bytes
        with core.lock:
            core.drain_released()
        answer = core.link.call(CreateObject(0, object_id, size, call_site, owner), if_slow=self._make_room)
        if isinstance(answer, ObjectCreated):
            if answer.offset >= 0:
                parts = pieces(plan, data.inband, data.buffers)
                try:
                    self._arena.write(answer.offset, parts, answer.warm)
                except BaseException:
                    with core.lock:
                        core.link.send(AbortObject(object_id))
                    raise
                with core.lock:
                    core.link.send(SealObject(object_id))
            return size
        raise ObjectStoreFullError(answer.reason)

    def _make_room(self) -> None:
        """The store is full: what only circles of garbage hold in this process may be in the way."""
        gc.collect()
        with self._core.lock:
            self._core.drain_released()
            self._core.reactor.flush()

    def read(self, object_id: ObjectId, owner: Address, node: NodeId | None) -> StoredValue:
        """Pin the object here and look into it. Raises ObjectLostError if no node has it."""
        answer = self._core.link.call(PinObject(0, object_id, owner, [node] if node else []))
        if not isinstance(answer, ObjectPinned):
            error = ObjectLostError(object_id.hex(), owner.hex(), "")
            error.add_note(f"object {object_id.hex()}: {answer.reason}")
            raise error
        unpinned = self.unpinned

        def release() -> None:
            unpinned.append(object_id)

        memory = self._arena.map_object(
            answer.offset, answer.size, writable_private=not self._strict, on_release=release
        )
        return read_value(memory)

    def set_strict(self, strict_arrays: bool) -> None:
        """Whether arrays are read-only, as in Ray, or private copy-on-write."""
        self._strict = strict_arrays

    def give_back_pins(self) -> None:
        """Tell the raylet of views that ended. Under the lock."""
        while self.unpinned:
            self._core.link.send(UnpinObject(self.unpinned.popleft()))

    def close(self) -> None:
        self._arena.close()
