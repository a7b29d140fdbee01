"""Frames: how a batch of messages lies in a byte stream.

    u32 header length | u32 payload length | u64 acknowledged | header (msgpack list of messages) | payload

A frame is a batch: what was queued when the socket was written is one msgpack list, so that encoding, the
system call and the wake-up of the other side are paid once per batch; a large batch is several frames of a
few MiB.  ``acknowledged`` counts the frames that the sender has received (rpc/conversation.py); a frame
without header says nothing else, and is not counted.  The payload section is for bulk data between nodes; on
a node it is empty.
"""

from __future__ import annotations

import struct
from typing import Protocol

from beamlet.rpc.frame_budget import FREE_BYTES, Claim, FrameBudget

PREFIX = struct.Struct("<IIQ")
PREFIX_BYTES = PREFIX.size
_prefix_at = PREFIX.unpack_from
#: A header larger than this is nobody's: what is large travels through the store.
MAX_HEADER_BYTES = 1 << 30


class FramingError(Exception):
    """The peer sent something that is no frame, or more of it than it may."""


class Source(Protocol):
    """Where a stream comes from: a connection."""

    def hold_back(self, held: bool) -> None: ...
    def fail(self, reason: str) -> None: ...


class Deframer:
    """Cuts a byte stream into frame headers. Sans-IO.

    max_bytes: of one frame's header. ``budget``: shared with others; it has ``source`` read, or not.
    """

    __slots__ = ("_budget", "_claim", "_partial", "_source", "_wanted", "acknowledged", "max_bytes")

    def __init__(
        self,
        max_bytes: int = MAX_HEADER_BYTES,
        budget: FrameBudget | None = None,
        source: Source | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self._budget = budget
        self._source = source if budget is not None else None
        #: What the budget knows of the unfinished frame.
        self._claim: Claim | None = None
        self._partial = bytearray()
        #: Size at which ``_partial`` can hold a whole frame: until then nothing is looked at again.
        self._wanted = 0
        #: How many of our frames the other side had received when it wrote the last frame we saw; -1: none
        #: came yet.
        self.acknowledged = -1

    @property
    def is_between_frames(self) -> bool:
        return not self._partial

    def feed(self, data: memoryview) -> list[memoryview]:
        """The headers completed by ``data``; views are valid until the buffers behind them change."""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted:
                return []
            buffer, self._partial = self._partial, bytearray()
            data = memoryview(buffer)
        elif len(data) >= PREFIX_BYTES:
            header_bytes, payload_bytes, acknowledged = _prefix_at(data)
            if 0 < header_bytes == len(data) - PREFIX_BYTES <= self.max_bytes and not payload_bytes:
                self.acknowledged = acknowledged
                return [data[PREFIX_BYTES:]]  # nearly always: one read brings one frame
        headers: list[memoryview] = []
        at, end = 0, len(data)
        self._wanted = PREFIX_BYTES
        while end - at >= PREFIX_BYTES:
            header_bytes, payload_bytes, self.acknowledged = PREFIX.unpack_from(data, at)
            if header_bytes > self.max_bytes or payload_bytes:
                raise FramingError(
                    f"frame announces {header_bytes} + {payload_bytes} bytes; "
                    f"{self.max_bytes} + 0 are allowed"
                )
            stop = at + PREFIX_BYTES + header_bytes
            if stop > end:
                self._wanted = stop - at
                break
            if header_bytes:
                headers.append(data[at + PREFIX_BYTES : stop])
            at = stop
        if at < end:
            self._partial += data[at:]
        if self._budget is not None:
            self._settle(self._budget)
        return headers

    def _settle(self, budget: FrameBudget) -> None:
        """A frame has ended, or another begun."""
        if self._claim is not None:
            claim, self._claim = self._claim, None
            budget.leave(claim)
        if self._partial and self._wanted > FREE_BYTES:
            self._claim = budget.enter(self, self._wanted)

    # -- for the budget --------------------------------------------------------------------------

    @property
    def is_held_back(self) -> bool:
        return self._claim is not None and not self._claim.is_inside

    @property
    def arrived_bytes(self) -> int:
        return len(self._partial)

    def hold_back(self, held: bool) -> None:
        if self._source is not None:
            self._source.hold_back(held)

    def cut_off(self, reason: str) -> None:
        if self._source is not None:
            self._source.fail(reason)

    def drop(self) -> None:
        """The stream is over: what is unfinished stays so."""
        self._source = None
        self._partial.clear()
        if self._budget is not None:
            self._settle(self._budget)
