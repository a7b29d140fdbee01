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


class Conversation:
    """One side's books. Sans-IO."""

    __slots__ = (
        "_bytes_unsaid",
        "_frames_unsaid",
        "_kept",
        "acknowledged",
        "generation",
        "kept_bytes",
        "owes_word",
        "received",
        "sent_count",
    )

    def __init__(self) -> None:
        #: Which introduction of the pair carries it; 0: none so far.
        self.generation = 0
        #: Frames that were sent, or would have been if there were a socket.
        self.sent_count = 0
        #: How many of them the other side has.
        self.acknowledged = 0
        #: The others, oldest first.
        self._kept: deque[bytearray] = deque()
        self.kept_bytes = 0
        #: Frames of the other side that arrived here.
        self.received = 0
        #: Since we last said so.
        self._frames_unsaid = 0
        self._bytes_unsaid = 0
        #: So much has arrived since then that the other side should hear of it.
        self.owes_word = False

    def sent(self, frame: bytearray) -> None:
        self.sent_count += 1
        self._kept.append(frame)
        self.kept_bytes += len(frame)

    def acknowledge(self) -> int:
        """What to say that we have; the caller says it."""
        self._frames_unsaid = self._bytes_unsaid = 0
        self.owes_word = False
        return self.received

    def heard(self, acknowledged: int, frames: int, size: int) -> bool:
        """``size`` bytes completed ``frames`` frames. False if they acknowledge what was not sent."""
        if frames:
            self.received += frames
            self._frames_unsaid += frames
        self._bytes_unsaid += size
        if self._frames_unsaid >= ACK_FRAMES or self._bytes_unsaid >= ACK_BYTES:
            self.owes_word = True
        missing = acknowledged - self.acknowledged
        if missing > 0:
            if acknowledged > self.sent_count:
                return False
            self.acknowledged = acknowledged
            kept = self._kept
            for _ in range(missing):
                self.kept_bytes -= len(kept.popleft())
        return True

    def unanswered(self) -> list[bytearray]:
        """What has to be sent again over a new socket, once its first word was heard."""
        return list(self._kept)

    def check_invariants(self) -> None:
        assert self.acknowledged + len(self._kept) == self.sent_count, "a frame is kept until acknowledged"
        assert self.kept_bytes == sum(map(len, self._kept)), "kept_bytes is off"
