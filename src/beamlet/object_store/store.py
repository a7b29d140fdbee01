"""The object store of one node, as decisions: what the raylet's shell asks, and what it must then do.

Joins three parts: the *allocator* (which bytes), the *lifecycle* (how long), *admission* (who waits).  Every
method returns effects, to be performed in order: answers to send, pages to give back.  No clock, no memory,
no socket here; the bytes themselves are moved by clients (``arena``).
"""

from __future__ import annotations

from collections.abc import Iterable

from beamlet.base.ids import Address, ObjectId
from beamlet.object_store.admission import Admission, Obstacle, Waiting
from beamlet.object_store.allocator import Allocator
from beamlet.object_store.full_report import Kept, store_full, too_large
from beamlet.object_store.lifecycle import Holder, ObjectState, StoreLifecycle, Usage
from beamlet.object_store.outcomes import (
    AlreadyStored,
    Answer,
    Created,
    CreateRequest,
    Effect,
    Located,
    Missing,
    NoSlab,
    RecallSlab,
    Refused,
    ReleasePages,
    SlabGranted,
    StoreMisuse,
)
from beamlet.object_store.slabs import SlabTable

NOBODY = Address(b"")
#: How many holders a refusal names.
_HOLDERS_NAMED = 5
#: Pages given back at a time: about half a millisecond of the raylet's loop.
GIVE_BACK_STEP = 2 << 20


class ObjectStore:
    """All requests of all clients of one arena.

    full_timeout_s: how long a creation waits for room. keep_warm: free memory up to this part of the
    capacity keeps its pages, so that the next write finds them. What exceeds it goes back to the kernel, a
    slice at each ending and the rest through ``give_back`` in idle moments: 100 MB take the kernel 25 ms.
    alignment_bytes: a multiple of the page size.
    """

    def __init__(
        self,
        capacity_bytes: int,
        full_timeout_s: float = 10.0,
        keep_warm: float = 0.3,
        alignment_bytes: int = 4096,
    ) -> None:
        self._allocator = Allocator(capacity_bytes, alignment_bytes)
        self._lifecycle = StoreLifecycle(self._allocator)
        self._slabs = SlabTable(self._allocator)
        #: Clients that were cut off and may live, in words.
        self._cut_off: dict[int, str] = {}
        self._admission = Admission(self._attempt, self._describe, full_timeout_s)
        #: Whole pages: of a surplus smaller than one nothing could ever be given back.
        self._warm_limit = int(self._allocator.capacity * keep_warm) // alignment_bytes * alignment_bytes

    # --- writing -------------------------------------------------------------------------------------

    def create(self, request: CreateRequest, now: float) -> list[Effect]:
        """Ask for room; answered Created, AlreadyStored or Refused, now or later."""
        if self._allocator.rounded(request.size) > self._allocator.capacity:
            reason = too_large(request, self._allocator.capacity)
            return [Answer(request.client, request.request_id, Refused(reason))]
        stored = self._lifecycle.find(request.object_id)
        if stored and stored.creator == request.client and stored.state is ObjectState.CREATED:
            raise StoreMisuse(
                f"client {request.client} creates object {request.object_id.hex()} again "
                f"before it sealed or aborted it"
            )
        effects: list[Effect] = [*self._admission.request(request, now)]
        if self._admission:
            effects += [RecallSlab(client) for client in self._slabs.recall(now)]
        return effects

    def seal(self, client: int, object_id: ObjectId, now: float) -> list[Effect]:
        """The value is written; whoever waits for it is pinned and answered."""
        return self._settle(self._lifecycle.seal(client, object_id), now)

    def abort(self, client: int, object_id: ObjectId, now: float) -> list[Effect]:
        """The value will not be written; its room is free again."""
        return self._settle(self._lifecycle.abort(client, object_id), now)

    def owner_of(self, object_id: ObjectId) -> Address | None:
        """Of an object that is here."""
        stored = self._lifecycle.find(object_id)
        return stored.owner if stored is not None else None

    # --- reading -------------------------------------------------------------------------------------

    def contains(self, object_id: ObjectId) -> bool:
        """Whether it is here, sealed and not deleted."""
        return self._lifecycle.contains(object_id)

    def get_pin(self, client: int, object_id: ObjectId) -> Located | None:
        """Pin a sealed object for ``client``; None when it is not here. One ``unpin`` is owed for each."""
        return self._lifecycle.pin(client, object_id)

    def wait_sealed(self, client: int, request_id: int, object_id: ObjectId) -> list[Effect]:
        """Answered Located (and pinned) once the object is sealed; Missing when nobody is writing it."""
        located = self._lifecycle.pin(client, object_id)
        if located is not None:
            return [Answer(client, request_id, located)]
        if self._lifecycle.wait(client, request_id, object_id):
            return []
        reason = f"object {object_id.hex()} is not in this store: never written here, or deleted"
        return [Answer(client, request_id, Missing(reason))]

    def unpin(self, client: int, object_id: ObjectId, now: float) -> list[Effect]:
        """Take back one pin."""
        self._lifecycle.unpin(client, object_id)
        return self._settle((), now)

    # --- slabs ---------------------------------------------------------------------------------------

    def lease_slab(self, client: int, request_id: int, size: int) -> list[Effect]:
        """Room for ``client`` to cut up as it likes; answered SlabGranted or NoSlab, at once."""
        found = None if self._admission else self._slabs.lease(client, size)
        return [Answer(client, request_id, NoSlab() if found is None else SlabGranted(*found))]

    def return_slab(self, client: int, offset: int, now: float) -> list[Effect]:
        self._slabs.give_back(client, offset)
        return self._settle((), now)

    def has_slabs(self, client: int) -> bool:
        return self._slabs.has(client)

    def heard(self, client: int, dead: Address, now: float) -> list[Effect]:
        """``client`` uses nothing of the slabs of ``dead``."""
        self._slabs.heard(client, dead)
        return self._settle((), now)

    # --- ending --------------------------------------------------------------------------------------

    def delete(
        self,
        object_ids: Iterable[ObjectId],
        now: float,
        owner: Address | None = None,
        creator: int | None = None,
    ) -> list[Effect]:
        """Nobody will ask for these again. Unknown ids are ignored, so it may be repeated; so are those that
        are not ``owner``'s, or that ``creator`` has not written (None: whoever's they are)."""
        answers: list[Answer] = []
        for object_id in object_ids:
            if owner is not None and not self._is_owned(object_id, owner):
                continue
            if creator is not None and not self._is_made_by(object_id, creator):
                continue
            answers += self._lifecycle.delete(object_id)
            if self._admission:
                reason = f"object {object_id.hex()} was deleted before there was room to write it"
                answers += self._admission.withdraw_object(object_id, reason)
        return self._settle(answers, now)

    def disconnect(
        self, client: int, now: float, address: Address = NOBODY, knew_it: Iterable[int] = ()
    ) -> list[Effect]:
        """The client's process is dead: its pins, its waits and its unsealed objects go.

        knew_it: who must have heard of that before its slabs go, too.
        """
        self._cut_off.pop(client, None)
        self._admission.withdraw_client(client)
        self._slabs.died(client, address, knew_it)
        return self._settle(self._lifecycle.disconnect(client), now)

    def cut_off(
        self, client: int, now: float, address: Address, knew_it: Iterable[int], who: str
    ) -> list[Effect]:
        """Nobody listens to the client any more, but its process may live, and read and write where it did:
        that stays until ``disconnect``. ``who`` it is, for people."""
        self._cut_off[client] = who
        self._admission.withdraw_client(client)
        self._slabs.cut_off(client, address, knew_it)
        return self._settle(self._lifecycle.cut_off(client), now)

    def kept(self) -> list[Kept]:
        """What is taken only because somebody who was cut off may still use it."""
        sizes = ((self.kept_for(client), who) for client, who in self._cut_off.items())
        return [Kept(size, who) for size, who in sizes if size]

    def kept_for(self, client: int) -> int:
        return self._lifecycle.kept_for(client) + self._slabs.kept_for(client)

    def stored_by(self, client: int) -> dict[Address, list[ObjectId]]:
        """What ``client`` has stored, by owner: at its death each must see if it heard of these."""
        return self._lifecycle.stored_by(client)

    def delete_owned_by(self, owner: Address, now: float) -> list[Effect]:
        """The owner died: nobody is left to delete its objects."""
        return self.delete(self._lifecycle.owned_by(owner), now)

    # --- time and memory -----------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``expire`` must be called at the latest; None when nobody waits for room."""
        return self._admission.next_deadline()

    def expire(self, now: float) -> list[Effect]:
        """Refuse whoever has waited too long for room."""
        return self._settle(self._admission.expire(now), now)

    @property
    def surplus_bytes(self) -> int:
        """Free memory that should go back to the kernel; while > 0, an idle shell calls ``give_back``."""
        return max(self._allocator.warm_free_bytes - self._warm_limit, 0)

    def give_back(self, at_most: int = GIVE_BACK_STEP) -> list[Effect]:
        """Give part of the surplus back to the kernel."""
        return self.trim(self._allocator.warm_free_bytes - min(self.surplus_bytes, at_most))

    def trim(self, keep_bytes: int) -> list[Effect]:
        """Give free pages back, all but ``keep_bytes``: for a node under memory pressure, or long idle."""
        return [ReleasePages(offset, size) for offset, size in self._allocator.trim(keep_bytes)]

    def usage(self) -> Usage:
        return self._lifecycle.usage(self._slabs.total_bytes)

    def biggest(self, count: int, now: float) -> list[Holder]:
        return self._lifecycle.biggest(count, now)

    @property
    def waiting_for_room(self) -> int:
        return len(self._admission)

    def check_invariants(self) -> None:
        self._lifecycle.check_invariants(self._slabs.total_bytes)
        self._slabs.check_invariants()

    # --- parts ---------------------------------------------------------------------------------------

    def _settle(self, answers: Iterable[Answer], now: float) -> list[Effect]:
        """What follows from any ending: others are let in, then surplus warm memory goes."""
        effects: list[Effect] = [*answers]
        if self._admission:
            effects += self._admission.admit(now)
        if self.surplus_bytes:
            effects += self.give_back()
        return effects

    def _is_owned(self, object_id: ObjectId, owner: Address) -> bool:
        stored = self._lifecycle.find(object_id)
        found = stored.owner if stored is not None else self._admission.owner_of(object_id)
        return found == owner

    def _is_made_by(self, object_id: ObjectId, creator: int) -> bool:
        stored = self._lifecycle.find(object_id)
        return stored is not None and stored.creator == creator

    def _attempt(
        self, request: CreateRequest, now: float, too_much: int
    ) -> Created | AlreadyStored | Obstacle:
        stored = self._lifecycle.find(request.object_id)
        if stored is None:
            if request.size >= too_much:
                return Obstacle.NO_ROOM
            return self._lifecycle.create(request, now) or Obstacle.NO_ROOM
        return AlreadyStored() if stored.state is ObjectState.SEALED else Obstacle.SAME_ID

    def _describe(self, waiting: Waiting, now: float) -> str:
        biggest = self._lifecycle.biggest(_HOLDERS_NAMED, now)
        return store_full(waiting, now, self.usage(), biggest, len(self._admission), self.kept())
