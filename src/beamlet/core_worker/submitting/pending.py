"""● Work that was submitted and not answered: what it takes to finish it, run it again, or fail it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from beamlet.base.ids import ObjectId
from beamlet.core_worker.owning.own_slab import Place
from beamlet.core_worker.submitting.task_spec import CallSpec, CreationSpec, TaskSpec
from beamlet.protocol.peer import InlineDep, InPlace, Room, StoreDep

if TYPE_CHECKING:
    from beamlet.core_worker.owning.object_record import ObjectRecord

S = TypeVar("S", bound=TaskSpec | CallSpec | CreationSpec, covariant=True)


class Pending(msgspec.Struct, Generic[S], eq=False, gc=False):
    """One task or call, from ``.remote()`` to its answer. Owned by the submitter that holds it."""

    spec: S
    #: The records of its return values, in order.
    returns: Sequence[ObjectRecord]
    #: Attempts it may still be given; -1: any number.
    retries_left: int = 0
    #: The number it was pushed under, unique at its worker; 0 while it is queued.
    seq: int = 0
    #: Attempts made before this one.
    attempt: int = 0
    #: Dependencies whose values are still awaited; it may be pushed at 0.
    unresolved: int = 0
    #: Its outcome is known already: it must not be pushed, and an answer says nothing.
    settled: bool = False
    #: ``cancel`` was asked for, or its generator was dropped: no further attempt.
    unwanted: bool = False
    #: Objects counted as "submitted" until the answer: dependencies, then nested references.
    held: Sequence[ObjectId] = ()
    #: ``spec.deps`` as they travel, once their values are there.
    deps: Sequence[InlineDep | StoreDep | InPlace] = ()
    #: Of our slab, each wanted for this work until it is settled: arguments, and ``room``.
    places: list[Place] | None = None
    #: Where the result may be written.
    room: Place | None = None

    def lend_to(self, executor: bytes) -> Room | None:
        """It is being pushed there with its ``places``; its room as it travels."""
        assert self.places is not None
        for place in self.places:
            place.lend(executor)
        room = self.room
        return Room(room.offset, room.size, room.warm) if room is not None else None


PendingTask = Pending[TaskSpec]
PendingCall = Pending[CallSpec]
PendingCreation = Pending[CreationSpec]
