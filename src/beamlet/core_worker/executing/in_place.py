"""What work that runs here uses of other processes' slabs, and who has to know when that ends.

An owner lends places of its slab for the time of a call; it hears from our answer that they are free.  If it
dies first, its slabs stay as they are until we have told the raylet that nothing here uses them any more.
"""

from __future__ import annotations

from collections import Counter

from beamlet.base.ids import Address
from beamlet.base.invariants import InvariantBroken
from beamlet.core_worker.context import TaskContext
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.owning.store_client import StoreClient
from beamlet.core_worker.peers import Peer
from beamlet.exceptions import OwnerDiedError
from beamlet.protocol.node import DeathHeard
from beamlet.protocol.peer import InRoom, Room
from beamlet.rpc.turns import SharedReactor
from beamlet.serialization.values import INLINE_MAX_BYTES, Serialized


class Uses:
    """Called under the lock."""

    def __init__(self, link: NodeLink) -> None:
        self._link = link
        #: Pieces of work that use what is their owner's.
        self._users: Counter[Address] = Counter()
        #: Dead owners of which the raylet waits to hear.
        self._dead: set[Address] = set()

    def begin(self, owner: Peer) -> bool:
        """A piece of work is about to; False if it must not: what its owner lent may be somebody else's."""
        if owner.gone:
            return False
        self._users[owner.address] += 1
        return True

    def end(self, owner: Peer) -> bool:
        """It is over; True if something was queued because of that."""
        address = owner.address
        users = self._users[address] = self._users[address] - 1
        if users:
            return False
        del self._users[address]
        if address not in self._dead:
            return False
        self._dead.discard(address)
        self._link.send(DeathHeard(address))
        return True

    def died(self, owner: Address) -> None:
        """Nothing begins with what it lent any more: tell the raylet, now or when the last has ended."""
        if owner in self._users:
            self._dead.add(owner)
        else:
            self._link.send(DeathHeard(owner))


class Lending:
    """What a thread that runs a task does about it. Without the lock."""

    def __init__(self, reactor: SharedReactor, store: StoreClient, uses: Uses) -> None:
        self._reactor = reactor
        self._bare_lock = reactor.bare_lock
        self._store = store
        self._uses = uses

    def begin(self, context: TaskContext) -> None:
        """It is about to read what came with it. Raises OwnerDiedError."""
        owner = context.asker
        assert owner is not None
        with self._bare_lock:
            if not self._uses.begin(owner):
                raise OwnerDiedError("", owner.address.hex(), context.name)
        context.in_place = []

    def end(self, context: TaskContext) -> None:
        """It has run; what its arguments lay in will be used again. Views that live on become copies."""
        views, context.in_place = context.in_place or (), None
        try:
            for view in views:
                view.end()
        except (OSError, MemoryError) as error:
            # Somebody would see another's bytes in his array.
            problem = f"there is no memory to keep an argument of {context.name}: {error}"
            raise InvariantBroken(problem) from error
        self._end(context.asker)

    def _end(self, owner: Peer | None) -> None:
        assert owner is not None
        with self._bare_lock:
            if self._uses.end(owner):
                self._reactor.leave()

    def write_in_room(self, owner: Peer, room: Room, part: bytes | Serialized) -> InRoom | None:
        """A result, where its owner has made room for it, if it fits and that is worth while."""
        if isinstance(part, bytes) or part.total_bytes <= INLINE_MAX_BYTES:
            return None
        with self._bare_lock:
            if not self._uses.begin(owner):
                return None  # whose room it is now, nobody knows; nor does anybody wait for the answer
        try:
            size = self._store.write_in_room(room, part)
        finally:
            self._end(owner)
        return InRoom(size) if size else None
