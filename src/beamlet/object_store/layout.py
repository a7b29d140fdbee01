"""How a serialized value lies in its object.

    0    u32 magic, u32 header length
    8    header        msgpack: kind, inband length, buffer lengths, contained references
    …    inband        the pickle, at the next multiple of 64
    …    buffers       each at the next multiple of 64 (cache lines, and what vector code asks for)

Offsets follow from lengths, so only lengths are stored. What ``kind`` means and how a value is taken apart
is the serializer's; contained references stand here so that a raylet could read them without unpickling.
Numbers are little endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from beamlet.protocol.message import ContainedRef

ALIGNMENT = 64

_MAGIC = 0x31564C42  # "BLV1"
_PREFIX = struct.Struct("<II")
_PADDING = bytes(ALIGNMENT)
#: A pickle of this length is copied rather than written by itself.
_SMALL_BYTES = 4096


class LayoutError(ValueError):
    """The bytes are not a value of this version: a defect of ours, or a foreign writer."""


class Header(msgspec.Struct, array_like=True, frozen=True):
    """All that is needed to find the parts."""

    kind: int
    inband_bytes: int
    buffer_bytes: list[int]
    contained: list[ContainedRef]


class PackPlan(msgspec.Struct, frozen=True):
    """Where each part of a value goes, from the object's start."""

    #: Magic, header length and header.
    prefix: bytes
    inband_offset: int
    buffer_offsets: list[int]
    total_bytes: int


class StoredValue(msgspec.Struct, frozen=True):
    """A value's parts, as views of the object's bytes."""

    kind: int
    inband: memoryview
    buffers: list[memoryview]
    contained: list[ContainedRef]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Header).decode


def pack_plan(
    kind: int, inband_bytes: int, buffer_bytes: Sequence[int], contained: Sequence[ContainedRef] = ()
) -> PackPlan:
    """Lay out a value whose parts have these lengths; ``total_bytes`` is the object's size."""
    header = _encode(Header(kind, inband_bytes, list(buffer_bytes), list(contained)))
    prefix = _PREFIX.pack(_MAGIC, len(header)) + header
    inband_offset, *buffer_offsets, total = _offsets(len(prefix), inband_bytes, buffer_bytes)
    return PackPlan(prefix, inband_offset, buffer_offsets, total)


def pieces(plan: PackPlan, inband: bytes, buffers: Sequence[memoryview]) -> list[bytes | memoryview]:
    """The object's bytes from its start to its end, padding included, ready for ``Arena.write``."""
    parts: list[bytes | memoryview] = []
    #: What is small is joined to one part: each costs some steps, whatever its size.
    small = [plan.prefix, bytes(plan.inband_offset - len(plan.prefix))]
    position = plan.inband_offset + len(inband)
    if len(inband) <= _SMALL_BYTES:
        small.append(inband)
    else:
        parts += [b"".join(small), inband]
        small = []
    for offset, buffer in zip(plan.buffer_offsets, buffers, strict=True):
        small.append(_PADDING[: offset - position])
        parts += [b"".join(small), buffer]
        small = []
        position = offset + buffer.nbytes
    if small:
        parts.append(b"".join(small))
    if position != plan.total_bytes:
        raise ValueError(f"the parts end at {position}, the plan was made for {plan.total_bytes} bytes")
    return parts


def read_value(view: memoryview) -> StoredValue:
    """Find the parts of the value in an object's bytes; nothing is copied."""
    header, start = _read_header(view)
    inband_offset, *buffer_offsets, total = _offsets(start, header.inband_bytes, header.buffer_bytes)
    if min(header.inband_bytes, *header.buffer_bytes, 0) < 0 or total > view.nbytes:
        raise LayoutError(f"a stored value of {total} bytes in an object of {view.nbytes}: {header}")
    return StoredValue(
        header.kind,
        view[inband_offset : inband_offset + header.inband_bytes],
        [view[at : at + size] for at, size in zip(buffer_offsets, header.buffer_bytes, strict=True)],
        header.contained,
    )


def _read_header(view: memoryview) -> tuple[Header, int]:
    """The header and where it ends."""
    if view.nbytes < _PREFIX.size:
        raise LayoutError(f"an object of {view.nbytes} bytes is too short for a stored value")
    magic, length = _PREFIX.unpack_from(view)
    end = _PREFIX.size + length
    if magic != _MAGIC or end > view.nbytes:
        raise LayoutError(
            f"not a stored value: it begins with {magic:#010x} (expected {_MAGIC:#010x}) "
            f"and a header of {length} bytes, in an object of {view.nbytes}"
        )
    try:
        return _decode(view[_PREFIX.size : end]), end
    except msgspec.DecodeError as error:
        raise LayoutError(f"the header of a stored value cannot be read: {error}") from error


def _offsets(start: int, inband_bytes: int, buffer_bytes: Sequence[int]) -> list[int]:
    """Where inband and each buffer begin, then where the last one ends."""
    offsets = []
    position = start
    for size in (inband_bytes, *buffer_bytes):
        position = (position + ALIGNMENT - 1) & -ALIGNMENT
        offsets.append(position)
        position += size
    return [*offsets, position]
