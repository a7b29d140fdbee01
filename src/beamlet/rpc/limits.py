"""What one connection may cost, and what a message may lack."""

from __future__ import annotations

import msgspec

from beamlet.rpc.containment import Misuse
from beamlet.rpc.frame_budget import FrameBudget
from beamlet.rpc.framing import MAX_HEADER_BYTES

#: What a raylet takes of a visitor, and of a core worker: a function of 95 MiB is the largest message.
HELLO_BYTES = 4 << 20
FROM_CORE_WORKER_BYTES = 112 << 20


class Limits(msgspec.Struct, frozen=True):
    """What one connection may cost."""

    #: The largest frame the peer may send.
    frame_bytes: int = MAX_HEADER_BYTES
    #: The largest message that the peer takes: a larger one is not sent, and the connection stays.
    sent_bytes: int = MAX_HEADER_BYTES
    #: Shared by the unfinished frames of several connections.
    budget: FrameBudget | None = None
    #: ``is_full`` above this many bytes that the peer has not read, until half of it is.
    full_bytes: int = 64 << 20
    #: A peer that leaves more than this unread is not read from until it reads; 0: no matter.
    deaf_bytes: int = 0
    #: A peer that leaves more than this unread is cut off; 0: never.
    most_bytes: int = 0


ANYTHING = Limits()


class DescriptorMissing(Misuse):
    """A message came without the descriptor that belongs to it."""
