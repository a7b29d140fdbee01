"""Work that was submitted and not answered: what it takes to finish it, run it again, or fail it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from beamlet.base.class_names import RetryRule
from beamlet.base.ids import ObjectId
from beamlet.exceptions import CallSite
from beamlet.protocol.peer import CallActor, PushTask

if TYPE_CHECKING:
    from beamlet.core_worker.owning.object_record import ObjectRecord


class Pending(msgspec.Struct, gc=False):
    """One task or actor call, from ``.remote()`` to its answer. Owned by the submitter that holds it."""

    #: What is pushed; its ``seq`` and ``attempt`` change with every push.
    message: PushTask | CallActor
    #: The records of its return values, in order.
    returns: Sequence[ObjectRecord]
    #: Objects counted as "submitted" until the answer: dependencies and nested references.
    held: Sequence[ObjectId] = ()
    #: System failures it may still survive; -1: any number.
    retries_left: int = 0
    #: Which errors of the user's code are worth another attempt.
    retry_exceptions: RetryRule = False
    #: SchedulingKey of a task, ActorLink of a call.
    route: Any = None
    #: Dependencies whose values are still awaited; it may be pushed at 0.
    unresolved: int = 0
    cancelled: bool = False
    #: Where ``.remote()`` was called, of a task; of a call it stands in its ``returns`` only.
    call_site: CallSite | None = None
    #: Where the items of a generator task go (streams.Stream).
    stream: Any = None
    #: The task whose code submitted it.
    parent: bytes = b""
