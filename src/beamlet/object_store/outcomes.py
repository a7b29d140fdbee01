"""What the object store is asked and what it answers, as data.

Clients (connections of the raylet) and request ids are the shell's own integers. Every request that carries
a request id is answered by exactly one ``Answer``, unless its client goes away first.
"""

from __future__ import annotations

from msgspec import Struct

from beamlet.base.ids import Address, ObjectId


class StoreMisuse(ValueError):
    """A client asked for what its own history rules out; nothing was changed."""


class CreateRequest(Struct, frozen=True):
    """Room for one object. ``size``: bytes of its serialized value."""

    client: int
    request_id: int
    object_id: ObjectId
    size: int
    owner: Address
    #: Where the user's code asked for it, ``file:line``; "" when not known.
    call_site: str = ""
    #: The copy the cluster relies on; others may be evicted when room is short.
    is_primary: bool = True


class Created(Struct, frozen=True):
    """Write at ``offset``, then seal. The first ``warm`` bytes there have pages already."""

    offset: int
    size: int
    warm: int


class AlreadyStored(Struct, frozen=True):
    """The object is here and sealed (its creating task was run again): nothing to write."""


class Refused(Struct, frozen=True):
    """No room, now or ever. ``reason`` is for the user."""

    reason: str


class Located(Struct, frozen=True):
    """Sealed, and pinned for the asker: ``size`` bytes at ``offset`` stay as they are until unpinned."""

    offset: int
    size: int


class Missing(Struct, frozen=True):
    """Not in this store. ``reason`` is for the user."""

    reason: str


class SlabGranted(Struct, frozen=True):
    """``size`` bytes at ``offset`` are the asker's; the first ``warm`` have pages already."""

    offset: int
    size: int
    warm: int


class NoSlab(Struct, frozen=True):
    """There is no room to spare."""


Outcome = Created | AlreadyStored | Refused | Located | Missing | SlabGranted | NoSlab


class Answer(Struct, frozen=True):
    """To be sent to ``client``: the one answer to its request."""

    client: int
    request_id: int
    outcome: Outcome


class ReleasePages(Struct, frozen=True):
    """To be done by the shell, in its place among the effects: give these pages back to the kernel."""

    offset: int
    size: int


class RecallSlab(Struct, frozen=True):
    """Somebody waits for room: ask ``client`` for its slabs."""

    client: int


#: To be performed in order.
Effect = Answer | ReleasePages | RecallSlab
