"""● What one process knows about one object: who keeps it, and its value or the promise of one.

One record serves the reference counter *and* the memory store, so that a call's whole life costs one dict
lookup.  The core worker reads and writes the value half directly; only ``reference_counter`` changes the
counting half.  A msgspec Struct because it is built in C, twice as fast as a slotted class of this width, and
stays out of the garbage collector's lists while its fields are plain.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from beamlet.base.ids import Address, NodeId, ObjectId
from beamlet.core_worker.owning.own_slab import Place
from beamlet.exceptions import CallSite

#: Values of ``ObjectRecord.state``: plain ints, compared on the hottest path there is.
PENDING = 0  # promised: by a task of ours, or (borrowed) by its owner
INLINE = 1  # ``payload`` is the encoded value
STORED = 2  # sealed in the arenas of ``nodes``, or at ``place``
LOST = 3  # there is no value and none is promised; ``reason`` says why
FREED = 4  # nobody kept it: the record left ``objects`` and only stale pointers still see it

#: Values of ``ObjectRecord.borrow``; above 0 it is the token of the AddBorrower on its way.
UNREGISTERED = 0  # ours; or found in task arguments and so far guarded by the task's submitter
REGISTERED = -1  # the owner counts us among its borrowers
CUT_OFF = -2  # the owner is gone or disowned it: nobody is left to tell


class ObjectRecord(msgspec.Struct, eq=False, gc=False):
    """See the module. Built positionally on the hot path: ``ObjectRecord(1)``."""

    #: Live ObjectRef instances in this process.
    local: int = 0
    #: One of the states above. PENDING → INLINE | STORED | LOST → FREED; lineage may go LOST → PENDING.
    state: int = PENDING
    #: The encoded value while INLINE, else empty.
    payload: bytes = b""
    #: Who owns the object; empty: this process.
    owner: bytes = b""
    #: Unfinished tasks of ours that have it among their arguments, top-level or nested.
    submitted: int = 0
    #: Objects of ours whose value contains it, counted once per occurrence.
    contained_in: int = 0
    #: Results of ours not yet taken over by their receiver, and values whose refs we still register.
    holds: int = 0
    #: Owner only: processes that registered. None while there never was one.
    borrowers: set[Address] | None = None
    #: Ids of the references inside our value, once per occurrence. Only of objects that we own.
    contains: tuple[ObjectId, ...] = ()
    #: Callbacks for "has a value now", as an ordered set. Whoever waits must also hold a count.
    waiters: dict[Callable[[ObjectRecord], None], None] | None = None
    #: Where copies of the value are, each once, and its bytes; while STORED. While PENDING, or if another
    #: value came: where an attempt that died left one. All are deleted when the object dies.
    nodes: tuple[NodeId, ...] = ()
    size: int = 0
    #: Borrowed: its owner was asked for the value.
    asked: bool = False
    #: Where in our own slab the value is, while STORED there; only for objects that we own.
    place: Place | None = None
    #: UNREGISTERED, REGISTERED, CUT_OFF or a token.
    borrow: int = UNREGISTERED
    #: Someone wants to hear of its end (an actor handle's object): its death emits ``Freed``.
    watched: bool = False
    #: Why it is LOST, for a person.
    reason: str = ""
    #: Where user code made it.
    call_site: CallSite | None = None

    def is_kept(self) -> bool:
        """Somebody, here or in another process, can still reach it through this record."""
        return bool(self.local or self.submitted or self.contained_in or self.holds or self.borrowers)


def stop_waiting(record: ObjectRecord, callback: Callable[[ObjectRecord], None]) -> None:
    """``callback`` is not to be called any more. One step in C, so a finalizer may do it without the lock."""
    waiters = record.waiters
    if waiters is not None:
        waiters.pop(callback, None)
