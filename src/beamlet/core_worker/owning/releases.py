"""References that died are counted down here, in batches, and what follows from it is sent.

``ObjectRef.__del__`` and the finalizers of views may run anywhere, inside any lock, so they only append to
deques.  ``drain`` empties those; ``perform`` does what the reference counter then asks for, in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from beamlet.base.ids import ObjectId
from beamlet.core_worker.owning.borrowing import (
    DeleteStored,
    Effect,
    Freed,
    LetPlaceGo,
    ReplyMayGo,
    SendAddBorrower,
    SendReleaseHold,
    SendRemoveBorrower,
)
from beamlet.core_worker.owning.own_slab import OwnSlab, Place
from beamlet.core_worker.owning.ports import Peers, Sends
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.unseen import UnseenErrors
from beamlet.protocol.node import DeleteObjects, UnpinObject
from beamlet.protocol.peer import AddBorrower, ReleaseHold, RemoveBorrower
from beamlet.serialization.refs import released

#: References counted down at a time: what a step needs for itself stays small, and is used again by the next.
_AT_ONCE = 4096


class Abandoned(Protocol):
    """Something whose last holder died, and that others must hear of."""

    def drop(self) -> None: ...


class Releases:
    """All methods are called under the core worker's lock."""

    def __init__(
        self, refs: ReferenceCounter, peers: Peers, raylet: Sends, unseen: UnseenErrors, own: OwnSlab
    ) -> None:
        self._refs = refs
        self._peers = peers
        self._raylet = raylet
        self._unseen = unseen
        self._own = own
        #: Objects of the store whose last view here died, and whose pin is to be given back.
        self.unpinned: deque[ObjectId] = deque()
        #: Places of our own slab of which a view died.
        self.unviewed: deque[Place] = deque()
        #: Streams of generators whose user let go of them.
        self.abandoned: deque[Abandoned] = deque()
        #: Told that a held answer may leave; set by what runs tasks, for nothing else holds answers.
        self.on_reply_may_go: Callable[[int], None] = _no_answer_is_held
        #: Told the (object, owner) whose last handle is gone; set by those who follow actors.
        self.on_freed: Callable[[ObjectId, bytes], None] = _nobody_watches

    @property
    def is_due(self) -> bool:
        """Something died since the last ``drain``, or what was decided was not done yet."""
        return bool(released or self._refs.outbox or self.unpinned or self.unviewed or self.abandoned)

    def drain(self) -> None:
        """Count down the references that died since, give back the pins of dead views, stop dead streams."""
        while self.abandoned:
            self.abandoned.popleft().drop()
        while released:
            ids = [released.popleft()]
            if released:
                count = min(len(released), _AT_ONCE)
                # "if": a signal handler that runs in the middle of this may call us, too, and take the rest.
                ids += [released.popleft() for _ in range(count) if released]
            self._refs.release_many(ids)
            if self._unseen.errors:
                self._unseen.let_go(ids)
        if self._refs.outbox:
            self.perform()
        if self._unseen.due:
            self._unseen.sweep()
        while self.unviewed:
            self._own.view_ended(self.unviewed.popleft())
        while self.unpinned:
            self._raylet.send(UnpinObject(self.unpinned.popleft()))

    def keep_pins(self) -> None:
        """We leave: of views that die from now on nobody is told, for forks of us may have them, too."""
        self.unpinned, self.unviewed = deque(), deque()  # finalizers go on with what they were made with

    def perform(self) -> None:
        """Do what the reference counter asks, in order."""
        refs = self._refs
        while refs.outbox:
            effects = iter(refs.take_effects())
            try:
                for effect in effects:
                    self._perform(effect)
            except BaseException:
                refs.outbox[:0] = effects  # what one of them raises does not undo the others: the next call
                raise

    def _perform(self, effect: Effect) -> None:
        match effect:
            case SendAddBorrower(owner, token, ids):
                self._peers.get(owner).send(AddBorrower(token, ids))
            case SendRemoveBorrower(owner, ids):
                self._peers.get(owner).send(RemoveBorrower(ids))
            case SendReleaseHold(executor, hold):
                self._peers.get(executor).send(ReleaseHold(hold))
            case DeleteStored(node_id, ids):
                self._raylet.send(DeleteObjects(node_id, ids))
            case LetPlaceGo(place):
                self._own.let_go(place)
            case ReplyMayGo(reply):
                self.on_reply_may_go(reply)
            case Freed(object_id, owner):
                self.on_freed(object_id, owner)


def _no_answer_is_held(reply: int) -> None:
    raise AssertionError(f"answer {reply} may go, but nothing here runs tasks")


def _nobody_watches(object_id: ObjectId, owner: bytes) -> None:
    raise AssertionError(f"object {object_id.hex()} is watched, but nobody was told to follow it")
