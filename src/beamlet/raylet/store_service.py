"""The object store's shell: messages of core workers to ``ObjectStore``, its answers back to them."""

from __future__ import annotations

import time

from beamlet.base.ids import Address
from beamlet.object_store.arena import Arena
from beamlet.object_store.lifecycle import Usage
from beamlet.object_store.outcomes import (
    AlreadyStored,
    Answer,
    Created,
    CreateRequest,
    Located,
    Missing,
    Refused,
    ReleasePages,
    StoreMisuse,
)
from beamlet.object_store.store import ObjectStore
from beamlet.protocol import node
from beamlet.protocol.message import Message
from beamlet.raylet.members import Member, Members, PeerMisuse
from beamlet.raylet.performer import Performer
from beamlet.rpc.reactor import Reactor, Timer

#: Between two steps of giving memory back: each holds up the loop for some milliseconds.
_TRIM_S = 0.02


class StoreService:
    def __init__(
        self, store: ObjectStore, arena: Arena, members: Members, performer: Performer, reactor: Reactor
    ) -> None:
        self._store = store
        self._members = members
        self._performer = performer
        self._reactor = reactor
        self._timer: Timer | None = None
        self._trimming: Timer | None = None
        performer.on(Answer, self._answer)
        performer.on(ReleasePages, lambda effect: arena.release_pages(effect.offset, effect.size))

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
        now = time.monotonic()
        try:
            effects = self._store.create(request, now)
        except StoreMisuse as error:
            sender.send(node.ObjectRefused(message.req, str(error)))
            return
        self._performer.perform(effects)
        self._watch(now)

    def seal(self, sender: Member, message: node.SealObject) -> None:
        self._performer.perform(self._store.seal(sender.number, message.object_id, time.monotonic()))

    def abort(self, sender: Member, message: node.AbortObject) -> None:
        self._performer.perform(self._store.abort(sender.number, message.object_id, time.monotonic()))

    def pin(self, sender: Member, message: node.PinObject) -> None:
        self._performer.perform(self._store.wait_sealed(sender.number, message.req, message.object_id))

    def unpin(self, sender: Member, message: node.UnpinObject) -> None:
        self._performer.perform(self._store.unpin(sender.number, message.object_id, time.monotonic()))
        self._trim_later()

    def delete(self, sender: Member, message: node.DeleteObjects) -> None:
        if message.node != self._members.node_id:
            return  # that node is gone, and with it what it held
        self._performer.perform(self._store.delete(message.object_ids, time.monotonic(), sender.address))
        self._trim_later()

    def forget(self, number: int, address: Address) -> None:
        """The process is dead: its pins and unsealed objects go, and what it owned, for nobody else will."""
        now = time.monotonic()
        self._performer.perform(self._store.disconnect(number, now))
        self._performer.perform(self._store.delete_owned_by(address, now))
        self._trim_later()

    def usage(self) -> Usage:
        return self._store.usage()

    def close(self) -> None:
        for timer in (self._timer, self._trimming):
            if timer is not None:
                timer.cancel()

    def _answer(self, effect: Answer) -> None:
        asker = self._members.numbered(effect.client)
        if asker is not None:
            asker.send(_as_message(effect))

    def _watch(self, now: float) -> None:
        """Look again when the first who waits for room has waited long enough."""
        deadline = self._store.next_deadline()
        if deadline is not None and self._timer is None:
            self._timer = self._reactor.call_later(max(0.0, deadline - now), self._expire)

    def _trim_later(self) -> None:
        """Free memory beyond what is kept warm goes back to the kernel, step by step between messages."""
        if self._trimming is None and self._store.surplus_bytes:
            self._trimming = self._reactor.call_later(_TRIM_S, self._trim)

    def _trim(self) -> None:
        self._trimming = None
        self._performer.perform(self._store.give_back())
        self._trim_later()

    def _expire(self) -> None:
        self._timer = None
        now = time.monotonic()
        self._performer.perform(self._store.expire(now))
        self._watch(now)


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
