"""● What a worker ran, by columns: it is packed between two calls of a busy worker, by C's loops alone.

Who keeps spans need not look into them; only ``timeline()`` does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat

import msgspec

from beamlet.base.ids import TASK_ID_BYTES, TaskId

#: As noted: (task, name, start ns, end ns, failed), by the wall clock.
Noted = tuple[TaskId, str, int, int, bool]
#: As shown: (task, name, start µs, duration µs, failed).
Span = tuple[TaskId, str, int, int, bool]

#: Of a name that is longer, the rest is left out.
NAME_CHARACTERS = 200
_NANOSECONDS, _NUMBER = "q", "H"


class Spans(msgspec.Struct, array_like=True, gc=False):
    """What one worker ran, in the order of ending. Names stand once: thousands of spans share a few."""

    names: list[str]
    #: Which of the names, 16 bits each; empty if there is only one.
    which: bytes
    #: One behind the other.
    task_ids: bytes
    #: Nanoseconds, 64 bits each, little-endian.
    starts: bytes
    ends: bytes
    #: One byte each.
    failed: bytes


def pack(noted: Iterable[Noted]) -> bytes:
    """Some that were noted, at least one and at most 65,536, as ``Spans``, encoded."""
    ids, names, starts, ends, failed = zip(*noted, strict=True)
    index = {name: number for number, name in enumerate(dict.fromkeys(names))}
    which = b"" if len(index) == 1 else _column(_NUMBER, [index[name] for name in names])
    times = _column(_NANOSECONDS, starts), _column(_NANOSECONDS, ends)
    short = [name[:NAME_CHARACTERS] for name in index]
    return msgspec.msgpack.encode(Spans(short, which, b"".join(ids), *times, bytes(failed)))


def unpack(data: bytes) -> Iterator[Span]:
    """The spans of what ``pack`` made. Raises ValueError or struct.error if it is not whole."""
    spans = _decode(data)
    count = len(spans.failed)
    ids = [spans.task_ids[at : at + TASK_ID_BYTES] for at in range(0, len(spans.task_ids), TASK_ID_BYTES)]
    numbers: Iterable[int] = _numbers(_NUMBER, spans.which) if spans.which else repeat(0, count)
    starts, ends = _numbers(_NANOSECONDS, spans.starts), _numbers(_NANOSECONDS, spans.ends)
    for task_id, number, start, end, failed in zip(ids, numbers, starts, ends, spans.failed, strict=True):
        duration = max(0, end - start)  # the wall clock may be set back
        yield TaskId(task_id), spans.names[number], start // 1000, duration // 1000, bool(failed)


_decode = msgspec.msgpack.Decoder(Spans).decode


def _column(kind: str, values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}{kind}", *values)


def _numbers(kind: str, column: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(column) // struct.calcsize(kind)}{kind}", column)
