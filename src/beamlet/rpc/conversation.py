"""A conversation of two processes outlives the sockets that carry it ●: what was sent, what arrived.

Both sides count frames.  What is sent is kept until the other side says that it arrived: with each frame of
its own, or, if it has nothing to say, with a word for every ACK_FRAMES frames or ACK_BYTES bytes.  When a
socket breaks and the raylet has introduced the two once more, each side first says how many frames it has;
then the other sends again what is missing.  So every frame is delivered once and in order, as long as both
processes live, and what is kept is bounded by what may be under way.

    attached(generation) ── the first socket: talk at once
                         └─ a later one: word() out; nothing else until the other's word is in: resumed()
"""

from __future__ import annotations

from collections import deque

ACK_FRAMES = 64
ACK_BYTES = 256 << 10
#: What a frame counts beside its bytes: so one sum says when either is reached.
_FRAME_WEIGHT = ACK_BYTES // ACK_FRAMES


class Conversation:
    """One side's books. Sans-IO."""

    __slots__ = ("_kept", "acknowledged", "generation", "received", "sent", "unsaid")

    def __init__(self) -> None:
        #: Which introduction of the pair carries it; 0: none so far.
        self.generation = 0
        #: How many of our frames the other side has.
        self.acknowledged = 0
        #: Those it has not said it has, oldest first.
        self._kept: deque[bytearray] = deque()
        #: Called with each frame that is sent, or would be if there were a socket. In C: it is a hot path.
        self.sent = self._kept.append
        #: Frames of the other side that arrived here.
        self.received = 0
        #: What of them we have not said; at ACK_BYTES the other side should hear of it.
        self.unsaid = 0

    @property
    def sent_count(self) -> int:
        """Frames that were sent, or would have been."""
        return self.acknowledged + len(self._kept)

    @property
    def kept_bytes(self) -> int:
        return sum(map(len, self._kept))

    def acknowledge(self) -> int:
        """What to say that we have; the caller says it."""
        self.unsaid = 0
        return self.received

    def heard(self, acknowledged: int, frames: int, size: int) -> bool:
        """``size`` bytes completed ``frames`` frames. False if they acknowledge what was not sent."""
        self.received += frames
        self.unsaid += size + frames * _FRAME_WEIGHT
        missing = acknowledged - self.acknowledged
        if missing > 0:
            kept = self._kept
            if missing > len(kept):
                return False
            self.acknowledged = acknowledged
            while missing:
                kept.popleft()
                missing -= 1
        return True

    def unanswered(self) -> list[bytearray]:
        """What has to be sent again over a new socket, once its first word was heard."""
        return list(self._kept)
