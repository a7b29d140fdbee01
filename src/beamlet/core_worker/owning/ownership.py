"""Serving other processes what we own: values asked for, and who borrows what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from beamlet.base.ids import ObjectId
from beamlet.core_worker.owning.object_record import INLINE, PENDING, STORED, ObjectRecord
from beamlet.core_worker.peers import Peer
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

if TYPE_CHECKING:
    from beamlet.core_worker.core_worker import CoreWorker


class Ownership:
    """Handlers run under the core worker's lock."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core

    def handle(self, sender: Peer, message: Any) -> None:
        core = self._core
        match message:
            case GetObject(object_id):
                self._get(sender, object_id)
            case ObjectValue(object_id, payload):
                core.objects.value_came(object_id, payload)
            case ObjectStored(object_id, node, size):
                core.objects.place_came(object_id, node, size)
            case ObjectGone(object_id, reason):
                core.objects.loss_came(object_id, reason)
            case AddBorrower(token, ids):
                sender.send(BorrowerAdded(token, core.refs.add_borrower(sender.address, ids)))
            case BorrowerAdded(token, missing):
                core.objects.lost(core.refs.registered(token, missing))
            case RemoveBorrower(ids):
                core.refs.remove_borrower(sender.address, ids)
            case ReleaseHold(hold):
                core.refs.release_hold(hold)

    def _get(self, sender: Peer, object_id: ObjectId) -> None:
        """Answer when the object is ready."""
        record = self._core.refs.objects.get(object_id)
        if record is None:
            sender.send(ObjectGone(object_id, "its owner had already freed it when it was asked for"))
        elif record.state == PENDING:
            self._core.objects.when_ready(
                object_id, record, lambda ready: self._answer(sender, object_id, ready)
            )
        else:
            self._answer(sender, object_id, record)

    def _answer(self, sender: Peer, object_id: ObjectId, record: ObjectRecord) -> None:
        if record.state == INLINE:
            self._core.unseen.seen(object_id)
            sender.send(ObjectValue(object_id, record.payload))
        elif record.state == STORED and record.node is not None:
            sender.send(ObjectStored(object_id, record.node, record.size))
        else:
            sender.send(ObjectGone(object_id, record.reason or "its owner freed it"))
