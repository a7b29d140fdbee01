"""Batches of messages to frames and back: encoders and decoders, and where a large batch is cut."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from beamlet.protocol.message import Message
from beamlet.rpc.framing import MAX_HEADER_BYTES, PREFIX, PREFIX_BYTES, FramingError

#: A frame is cut at about this size: the receiver holds it whole before it handles its first message.
FRAME_BYTES = 4 << 20
#: None is larger than this unless one message is.
LONG_FRAME_BYTES = 2 * FRAME_BYTES
#: A frame holds no more messages than this; twice as many are refused unseen.
FRAME_MESSAGES = 1024
#: So many are encoded in one go without a thought for their size: values of 100 KB still make a short frame.
AT_ONCE = 64
#: What one pass of a busy reactor queues; more than this gathers nowhere.
FEW_MESSAGES = 256

_encoder = msgspec.msgpack.Encoder()
_encode_into = _encoder.encode_into
_write_prefix = PREFIX.pack_into
#: By the identity of the union, which is kept alive beside it: hashing one writes to all its types, and in a
#: fresh fork every page that is written to is a page to copy.
_decoders: dict[int, tuple[Any, msgspec.msgpack.Decoder[list[Message]]]] = {}
#: msgpack's arrays of up to 15 elements begin with this or less; those with a length of two bytes with that.
SHORT_BATCH, _LONG_ARRAY = 0x9F, 0xDC
_SHORT_MAX = 15
_write_count = struct.Struct(">BH").pack_into
_COUNT_BYTES = 3
#: Where the messages of a long frame begin.
_BODY = PREFIX_BYTES + _COUNT_BYTES


def decoder_for(messages: Any) -> msgspec.msgpack.Decoder[list[Message]]:
    """The shared decoder of batches of one union of message types."""
    known = _decoders.get(id(messages))
    if known is None:
        known = _decoders[id(messages)] = messages, msgspec.msgpack.Decoder(list[messages])
    return known[1]


def encode_frame(messages: list[Message], acknowledged: int = 0) -> bytearray:
    """One frame holding ``messages``."""
    frame = bytearray(PREFIX_BYTES)
    _encode_into(messages, frame, PREFIX_BYTES)
    _write_prefix(frame, 0, len(frame) - PREFIX_BYTES, 0, acknowledged)
    return frame


def encode_word(acknowledged: int) -> bytearray:
    """A frame that only acknowledges."""
    return bytearray(PREFIX.pack(0, 0, acknowledged))


def encode_frames(
    messages: list[Message], acknowledged: int = 0, most_bytes: int = MAX_HEADER_BYTES
) -> Iterator[bytearray]:
    """``messages`` as several frames, none much larger than FRAME_BYTES unless one message is.

    Raises ValueError for one that is larger than ``most_bytes``.
    """
    start = 0
    while start < len(messages):
        frame, count = _encode_first(messages, start, acknowledged)
        if len(frame) - PREFIX_BYTES > most_bytes:
            raise ValueError(f"a message of {len(frame) >> 20} MiB; {most_bytes >> 20} MiB are allowed")
        yield frame
        start += count


def _encode_first(messages: list[Message], start: int, acknowledged: int) -> tuple[bytearray, int]:
    """A frame of as many from ``start`` on as fit, and how many these are.

    Some at a time, each where the last ended, so that none is encoded twice to find out how large it is: as
    many as will fit if they are like those before. Only what turns out much larger is taken back.
    """
    end = min(len(messages), start + FRAME_MESSAGES)
    frame = bytearray(_BODY)
    at, step = start, AT_ONCE
    while at < end:
        some, size = messages[at : min(end, at + step)], len(frame)
        _append(some, frame)
        if len(frame) > LONG_FRAME_BYTES and at + len(some) > start + 1:
            del frame[size:]
            if len(some) == 1:
                break
            step = max(1, len(some) // 4)
            continue
        at += len(some)
        average = (len(frame) - _BODY) // (at - start) + 1
        if average > FRAME_BYTES - len(frame):
            break
        step = min(step * 8, (FRAME_BYTES - len(frame)) // average)
    _write_prefix(frame, 0, len(frame) - PREFIX_BYTES, 0, acknowledged)
    _write_count(frame, PREFIX_BYTES, _LONG_ARRAY, at - start)
    return frame, at - start


def _append(messages: list[Message], frame: bytearray) -> None:
    """Behind what ``frame`` holds: without the count that lists begin with, over which it ends."""
    head = len(frame) - (1 if len(messages) <= _SHORT_MAX else _COUNT_BYTES)
    kept = frame[head:]
    _encode_into(messages, frame, head)
    frame[head : head + len(kept)] = kept


def encode_what_can(
    messages: list[Message],
    acknowledged: int = 0,
    frame: bytearray | None = None,
    most_bytes: int = MAX_HEADER_BYTES,
) -> tuple[list[bytearray], list[tuple[Message, Exception]]]:
    """``encode_frames``, and the messages that cannot be encoded, each with the reason.

    frame: what ``encode_frame`` made of them, which may be too large. most_bytes: of one message.
    """
    largest = most_bytes if len(messages) == 1 else LONG_FRAME_BYTES
    if frame is not None and len(frame) - PREFIX_BYTES <= largest:
        return [frame], []
    try:
        return list(encode_frames(messages, acknowledged, most_bytes)), []
    except Exception as error:
        if len(messages) == 1:
            return [], [(messages[0], error)]
    frames, failures = [], []
    for message in messages:
        more_frames, more_failures = encode_what_can([message], acknowledged, None, most_bytes)
        frames += more_frames
        failures += more_failures
    return frames, failures


def kinds_of(messages: list[Message]) -> str:
    """For people."""
    return ", ".join(sorted({type(message).__name__ for message in messages}))


def check_count(header: memoryview | bytes) -> None:
    """Raises FramingError for a batch of more messages than anybody sends, before they are built."""
    first = header[0]
    if first > SHORT_BATCH and (
        first != _LONG_ARRAY or int.from_bytes(header[1:3], "big") > 2 * FRAME_MESSAGES
    ):
        raise FramingError(f"more than {2 * FRAME_MESSAGES} messages in one frame, or no list of messages")
