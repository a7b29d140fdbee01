"""The owning room of one process without sockets: messages are written down, waits are scripted."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from beamlet.base.ids import Address, NodeId, ObjectId, TaskId
from beamlet.core_worker.context import Contexts, TaskContext
from beamlet.core_worker.owning.futures import Futures
from beamlet.core_worker.owning.object_record import ObjectRecord
from beamlet.core_worker.owning.objects import ObjectAccess
from beamlet.core_worker.owning.own_slab import OwnSlab
from beamlet.core_worker.owning.ownership import Ownership
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.core_worker.owning.selecting import Selecting
from beamlet.core_worker.owning.streams import Streams
from beamlet.core_worker.owning.unseen import UnseenErrors
from beamlet.rpc.turns import SharedReactor, Waiter
from beamlet.serialization.refs import released

#: Every test has ids of its own: references that live on in another's traceback are not ours.
_numbers = itertools.count(1_000_000)
SELF = Address(b"s" * 32)
NODE, OTHER_NODE = NodeId(b"n" * 16), NodeId(b"m" * 16)


class FakeRef:
    """Stands for one local count, like an ObjectRef."""

    def __init__(self, object_id: ObjectId, owner: Address = SELF) -> None:
        self._id = object_id
        self._owner = owner

    def __del__(self) -> None:
        released.append(self._id)


class FakePeer:
    """Another process: what it was sent."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


class FakePeers(dict[Address, FakePeer]):
    def get(self, address: Address, default: Any = None) -> FakePeer:
        return self.setdefault(address, FakePeer(address))


class ScriptedBlocking:
    """A wait runs the next of ``script`` (which stands for what the sockets bring) until it is over."""

    def __init__(self) -> None:
        self.script: list[Callable[[], None]] = []
        self.waits = 0

    def block_until(
        self, waiter: Waiter, deadline: float | None, refs: Sequence[Any] = (), needs_all: bool = True
    ) -> bool:
        self.waits += 1
        while waiter.remaining > 0:
            if not self.script:
                assert deadline is not None, "it would wait for ever"
                return False
            self.script.pop(0)()
        return True

    def timeout_text(self, waiter: Waiter, object_ids: Sequence[ObjectId], timeout_s: float) -> str:
        return f"{len(object_ids)} late"

    def raise_if_shut(self) -> None: ...


class Owner:
    """All of the room, composed as core_worker.py does."""

    def __init__(self) -> None:
        self.reactor = SharedReactor()
        self.raylet = FakePeer(Address(b""))
        self.peers = FakePeers()
        self.refs = ReferenceCounter(SELF)
        self.unseen = UnseenErrors()
        self.own = OwnSlab()
        self.releases = Releases(self.refs, self.peers, self.raylet, self.unseen, self.own)
        self.blocking = ScriptedBlocking()
        store: Any = None
        contexts = Contexts(TaskContext(TaskId(b"t" * 24)))
        self.objects = ObjectAccess(
            self.refs, self.releases, self.reactor, self.peers, store, self.unseen, contexts
        )
        self.objects.blocking = self.blocking
        self.selecting = Selecting(self.refs, self.releases, self.objects, self.reactor)
        self.futures = Futures(self.objects, self.reactor)
        self.streams = Streams(self.refs, self.releases, self.objects, self.reactor, FakeRef)
        self.ownership = Ownership(self.refs, self.objects, self.unseen)
        released.clear()

    def promise(self, number: int | None = None) -> FakeRef:
        """A result of a task of ours that has not come."""
        number = next(_numbers) if number is None else number
        object_id = ObjectId(number.to_bytes(24, "big") + (1).to_bytes(4, "little"))
        self.refs.new_owned(object_id)
        return FakeRef(object_id)

    def borrow(self, owner: FakePeer, number: int | None = None) -> FakeRef:
        """A reference that came from elsewhere, registered with its owner."""
        number = next(_numbers) if number is None else number
        object_id = ObjectId(number.to_bytes(24, "big") + (2).to_bytes(4, "little"))
        self.refs.found_in_value(None, [(object_id, owner.address)])
        self.releases.perform()
        return FakeRef(object_id, owner.address)

    def keep_promise(self, ref: FakeRef, payload: bytes) -> None:
        """The task's answer is here."""
        record = self.record(ref)
        self.refs.set_inline(record, payload)
        self.objects.notify(record)

    def record(self, ref: FakeRef) -> ObjectRecord:
        return self.refs.objects[ref._id]

    def close(self) -> None:
        self.reactor.close()


def settled(owner: Owner) -> list[ObjectId]:
    """What is still counted once everything dead was counted down."""
    gc.collect()
    owner.releases.drain()
    owner.refs.check_invariants()
    return list(owner.refs.objects)
