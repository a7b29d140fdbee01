"""The object store's shell: messages of core workers to ``ObjectStore``, its answers back to them."""

from __future__ import annotations

from collections.abc import Sequence

from beamlet.base.ids import Address, node_of
from beamlet.object_store.arena import Arena
from beamlet.object_store.lifecycle import Usage
from beamlet.object_store.outcomes import (
    AlreadyStored,
    Answer,
    Created,
    CreateRequest,
    Located,
    Missing,
    NoSlab,
    RecallSlab,
    Refused,
    ReleasePages,
    SlabGranted,
    StoreMisuse,
)
from beamlet.object_store.store import ObjectStore
from beamlet.protocol import node
from beamlet.protocol.message import Message
from beamlet.raylet.members import Member, PeerMisuse
from beamlet.raylet.node_services import NodeServices
from beamlet.rpc.alarm import Alarm

#: Between two steps of giving memory back, in which others have their turn.
_TRIM_S = 0.002
#: Dead writers whose numbers are remembered.
_WROTE_MAX = 1000
#: The number of no client.
_NOBODYS = -1


class StoreService:
    def __init__(self, services: NodeServices, store: ObjectStore, arena: Arena) -> None:
        self._node = services
        self._store = store
        self._members = services.members
        #: The store's numbers of those who were cut off, and may live.
        self._cut_off: dict[Address, int] = {}
        #: And of the dead who left values of others here, oldest first: their owners may ask to delete these.
        self._wrote: dict[Address, int] = {}
        self._room_alarm = Alarm(services.clock, self._expire)
        self._trim_alarm = Alarm(services.clock, self._trim)
        services.performer.on(Answer, self._answer)
        services.performer.on(RecallSlab, self._recall)
        services.performer.on(ReleasePages, lambda effect: arena.release_pages(effect.offset, effect.size))

    def create(self, sender: Member, message: node.CreateObject) -> None:
        if message.size <= 0:
            raise PeerMisuse(f"CreateObject {message.req} of {message.size} bytes")
        request = CreateRequest(
            sender.number,
            message.req,
            message.object_id,
            message.size,
            message.owner or sender.address,
            message.call_site,
        )
        now = self._node.now()
        try:
            effects = self._store.create(request, now)
        except StoreMisuse as error:
            sender.send(node.ObjectRefused(message.req, str(error)))
            return
        self._node.perform(effects)
        self._room_alarm.by(self._store.next_deadline())

    def seal(self, sender: Member, message: node.SealObject) -> None:
        now = self._node.now()
        self._node.perform(self._store.seal(sender.number, message.object_id, now))
        owner = self._store.owner_of(message.object_id)
        if owner is not None and self._is_dead(owner):
            # What it owned was deleted at its death. This was on its way: a result that nobody waits for.
            self._node.perform(self._store.delete([message.object_id], now))
            self._trim_later()

    def abort(self, sender: Member, message: node.AbortObject) -> None:
        self._node.perform(self._store.abort(sender.number, message.object_id, self._node.now()))

    def pin(self, sender: Member, message: node.PinObject) -> None:
        self._node.perform(self._store.wait_sealed(sender.number, message.req, message.object_id))

    def unpin(self, sender: Member, message: node.UnpinObject) -> None:
        self._node.perform(self._store.unpin(sender.number, message.object_id, self._node.now()))
        self._trim_later()

    def delete(self, sender: Member, message: node.DeleteObjects) -> None:
        if message.node != self._members.node_id:
            return  # that node is gone, and with it what it held
        creator = self._number_of(message.made_by) if message.made_by is not None else None
        now = self._node.now()
        self._node.perform(self._store.delete(message.object_ids, now, sender.address, creator))
        self._trim_later()

    def lease_slab(self, sender: Member, message: node.LeaseSlab) -> None:
        self._node.perform(self._store.lease_slab(sender.number, message.req, message.size))

    def return_slab(self, sender: Member, message: node.ReturnSlab) -> None:
        self._node.perform(self._store.return_slab(sender.number, message.offset, self._node.now()))
        self._trim_later()

    def heard(self, sender: Member, message: node.DeathHeard) -> None:
        self._node.perform(self._store.heard(sender.number, message.worker, self._node.now()))
        self._trim_later()

    def has_slabs(self, number: int) -> bool:
        return self._store.has_slabs(number)

    def forget(
        self, number: int, address: Address, told: Sequence[Member] = (), still_lives: str = ""
    ) -> None:
        """The process is dead: its pins and unsealed objects go, and what it owned, for nobody else will.

        What it stored for others stays; they are told, for it may have died before it could.
        told: who knew it, and will say DeathHeard if it had slabs.
        still_lives: who, in words, is not dead, but cut off: what it may use stays until ``let_go``.
        """
        now = self._node.now()
        stored = self._store.stored_by(number)
        if stored:
            self._wrote[address] = number
            if len(self._wrote) > _WROTE_MAX:
                del self._wrote[next(iter(self._wrote))]
        for owner, object_ids in stored.items():
            member = self._members.get(owner)
            if member is not None and owner != address:
                member.send(node.StoredByDead(self._members.node_id, object_ids))
        knew_it = [member.number for member in told]
        if still_lives:
            self._cut_off[address] = number
            self._node.perform(self._store.cut_off(number, now, address, knew_it, still_lives))
        else:
            self._node.perform(self._store.disconnect(number, now, address, knew_it))
        self._node.perform(self._store.delete_owned_by(address, now))
        self._trim_later()

    def let_go(self, address: Address) -> None:
        """One that was cut off uses nothing of the store any more. Of others ``forget`` tells."""
        number = self._cut_off.pop(address, None)
        if number is not None:
            self._node.perform(self._store.disconnect(number, self._node.now()))
            self._trim_later()

    def kept_for(self, number: int) -> int:
        """Bytes taken only because this one, cut off, may use them."""
        return self._store.kept_for(number)

    def kept(self) -> list[str]:
        """The same for all of them, for people."""
        return [str(each) for each in self._store.kept()]

    def usage(self) -> Usage:
        return self._store.usage()

    def close(self) -> None:
        self._room_alarm.cancel()
        self._trim_alarm.cancel()

    def _number_of(self, writer: Address) -> int:
        """The store's, also of one that died not long ago; nobody's if it left nothing here."""
        member = self._members.get(writer)
        return member.number if member is not None else self._wrote.get(writer, _NOBODYS)

    def _is_dead(self, owner: Address) -> bool:
        return self._members.get(owner) is None and node_of(owner) == self._members.node_id

    def _answer(self, effect: Answer) -> None:
        asker = self._members.numbered(effect.client)
        if asker is not None:
            asker.send(_as_message(effect))

    def _recall(self, effect: RecallSlab) -> None:
        lessee = self._members.numbered(effect.client)
        if lessee is not None:
            lessee.send(node.SlabWanted())

    def _trim_later(self) -> None:
        """Free memory beyond what is kept warm goes back to the kernel, step by step between messages."""
        if self._store.surplus_bytes:
            self._trim_alarm.by(self._node.now() + _TRIM_S)

    def _trim(self) -> None:
        self._node.perform(self._store.give_back())
        self._trim_later()

    def _expire(self) -> None:
        self._node.perform(self._store.expire(self._node.now()))
        self._room_alarm.by(self._store.next_deadline())


def _as_message(answer: Answer) -> Message:
    outcome = answer.outcome
    match outcome:
        case Created():
            return node.ObjectCreated(answer.request_id, outcome.offset, outcome.warm)
        case AlreadyStored():
            return node.ObjectCreated(answer.request_id, -1, 0)
        case Located():
            return node.ObjectPinned(answer.request_id, outcome.offset, outcome.size)
        case Refused():
            return node.ObjectRefused(answer.request_id, outcome.reason)
        case Missing():
            return node.ObjectNotHere(answer.request_id, outcome.reason)
        case SlabGranted():
            return node.SlabLeased(answer.request_id, outcome.offset, outcome.size, outcome.warm)
        case NoSlab():
            return node.SlabRefused(answer.request_id)
