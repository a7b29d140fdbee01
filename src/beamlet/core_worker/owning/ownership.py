"""Serving other processes what we own: values asked for, and who borrows what."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from beamlet.base.ids import ObjectId
from beamlet.core_worker.owning.object_record import INLINE, PENDING, STORED, ObjectRecord
from beamlet.core_worker.owning.objects import ObjectAccess
from beamlet.core_worker.owning.ports import Sender
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.unseen import UnseenErrors
from beamlet.protocol.message import Message
from beamlet.protocol.peer import (
    AddBorrower,
    BorrowerAdded,
    GetObject,
    ObjectGone,
    ObjectStored,
    ObjectValue,
    ReleaseHold,
    RemoveBorrower,
)


class _Asker(msgspec.Struct, frozen=True):
    """Who waits for an object of ours. One that asks twice (it dropped the reference and met it again) is
    one all the same.
    """

    answer: Callable[[Sender, ObjectId, ObjectRecord], None]
    sender: Sender
    object_id: ObjectId

    def __call__(self, ready: ObjectRecord) -> None:
        self.answer(self.sender, self.object_id, ready)


class Ownership:
    """Handlers run under the core worker's lock."""

    #: The kinds of messages that ``handle`` takes.
    SERVES = (
        *(GetObject, ObjectValue, ObjectStored, ObjectGone),
        *(AddBorrower, BorrowerAdded, RemoveBorrower, ReleaseHold),
    )

    def __init__(self, refs: ReferenceCounter, objects: ObjectAccess, unseen: UnseenErrors) -> None:
        self._refs = refs
        self._objects = objects
        self._unseen = unseen

    def handle(self, sender: Sender, message: Message) -> None:
        match message:
            case GetObject(object_id):
                self._get(sender, object_id)
            case ObjectValue(object_id, payload):
                self._objects.value_came(object_id, payload)
            case ObjectStored(object_id, nodes, size):
                self._objects.place_came(object_id, tuple(nodes), size)
            case ObjectGone(object_id, reason):
                self._objects.loss_came(object_id, reason)
            case AddBorrower(token, ids):
                sender.send(BorrowerAdded(token, self._refs.add_borrower(sender.address, ids)))
            case BorrowerAdded(token, missing):
                self._objects.lost(self._refs.registered(token, missing))
            case RemoveBorrower(ids):
                self._refs.remove_borrower(sender.address, ids)
            case ReleaseHold(hold):
                self._refs.release_hold(hold)

    def _get(self, sender: Sender, object_id: ObjectId) -> None:
        """Answer when the object is ready."""
        record = self._refs.objects.get(object_id)
        if record is None:
            sender.send(ObjectGone(object_id, "its owner had already freed it when it was asked for"))
        elif record.state == PENDING:
            self._objects.when_ready(object_id, record, _Asker(self._answer, sender, object_id))
        else:
            self._answer(sender, object_id, record)

    def _answer(self, sender: Sender, object_id: ObjectId, record: ObjectRecord) -> None:
        if record.state == INLINE:
            self._unseen.seen(object_id)
            sender.send(ObjectValue(object_id, record.payload))
        elif record.state == STORED and record.place is not None:
            self._objects.share(object_id, record, lambda ready: self._answer(sender, object_id, ready))
        elif record.state == STORED:
            sender.send(ObjectStored(object_id, list(record.nodes), record.size))
        else:
            sender.send(ObjectGone(object_id, record.reason or "its owner freed it"))
