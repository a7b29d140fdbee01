"""Frames: how a batch of messages lies in a byte stream.

    u32 header length | u32 payload length | header (msgpack list of messages) | payload (raw bytes)

A frame is a batch: everything that was queued when the socket was written is one msgpack list, so that
encoding, the system call and the wake-up of the other side are paid once per batch.  The payload section
is for bulk data between nodes; on a node it is empty.
"""

from __future__ import annotations

import struct

PREFIX = struct.Struct("<II")
PREFIX_BYTES = PREFIX.size
#: A header larger than this is not ours: inline values are ≤100 KB and batches are cut at FLUSH_BYTES.
MAX_HEADER_BYTES = 1 << 30


class FramingError(Exception):
    """The peer sent something that is no frame."""


class Deframer:
    """Cuts a byte stream into frame headers. Sans-IO."""

    __slots__ = ("_partial", "_wanted")

    def __init__(self) -> None:
        self._partial = bytearray()
        #: Size at which ``_partial`` can hold a whole frame: until then nothing is looked at again.
        self._wanted = 0

    def feed(self, data: memoryview) -> list[memoryview]:
        """The headers completed by ``data``; views are valid until the buffers behind them change."""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted:
                return []
            buffer, self._partial = self._partial, bytearray()
            data = memoryview(buffer)
        headers: list[memoryview] = []
        at, end = 0, len(data)
        self._wanted = PREFIX_BYTES
        while end - at >= PREFIX_BYTES:
            header_bytes, payload_bytes = PREFIX.unpack_from(data, at)
            if header_bytes > MAX_HEADER_BYTES or payload_bytes:
                raise FramingError(f"frame announces {header_bytes} + {payload_bytes} bytes")
            stop = at + PREFIX_BYTES + header_bytes
            if stop > end:
                self._wanted = stop - at
                break
            headers.append(data[at + PREFIX_BYTES : stop])
            at = stop
        if at < end:
            self._partial += data[at:]
        return headers
