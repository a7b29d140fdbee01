"""What ran when, for ``timeline()``: noted per task in a tuple, packed by the thousand, sent to the GCS.

Nothing is lost in silence. A worker that is too busy to send keeps packed batches, up to BATCHES_MAX;
what is beyond that is counted. Whoever asks for the timeline has all workers send what they have first.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from itertools import repeat
from operator import floordiv, sub

import msgspec

from beamlet.base.ids import TaskId
from beamlet.protocol.gcs import Spans, TaskEvents

#: Spans of one batch.
BATCH_EVENTS = 1000
#: Batches kept until they can be sent: 100,000 spans in 4 MB.
BATCHES_MAX = 100
#: Of a name that is longer, the rest is left out.
NAME_CHARACTERS = 200

_Noted = tuple[TaskId, str, int, int, bool]


class TaskEventBuffer:
    """One worker's spans since it last told. Appending is all that the hot path does. Thread-safe."""

    def __init__(self, worker_id: bytes) -> None:
        self.worker_id = worker_id
        #: (task, name, start ns, end ns, failed), wall clock. Always the same list: other threads append.
        self._noted: list[_Noted] = []
        self._lock = threading.Lock()
        self._packed: deque[TaskEvents] = deque()
        self._dropped_count = 0

    def note(self, task_id: TaskId, name: str, start_ns: int, end_ns: int, failed: bool) -> None:
        noted = self._noted
        noted.append((task_id, name, start_ns, end_ns, failed))
        if len(noted) >= BATCH_EVENTS:
            with self._lock:
                self._pack()

    @property
    def is_due(self) -> bool:
        return bool(self._noted or self._packed)

    def take(self) -> list[TaskEvents]:
        """The batches to send; the buffer is empty after it."""
        with self._lock:
            while self._noted:
                self._pack()
            packed = list(self._packed)
            self._packed.clear()
            if packed:
                packed[0].dropped += self._dropped_count
                self._dropped_count = 0
        return packed

    def _pack(self) -> None:
        noted = self._noted[:BATCH_EVENTS]
        if not noted:
            return  # another thread was quicker
        del self._noted[:BATCH_EVENTS]
        # By columns, in C: it comes between two calls of a busy worker, a thousand spans at a time.
        ids, names, starts, ends, failed = zip(*noted, strict=True)
        index = {name: number for number, name in enumerate(dict.fromkeys(names))}
        lasted = map(max, map(sub, ends, starts), repeat(0))  # the wall clock may be set back
        rows = list(
            zip(
                *(ids, map(index.__getitem__, names), map(floordiv, starts, repeat(1000))),
                *(map(floordiv, lasted, repeat(1000)), failed),
                strict=False,
            )
        )
        short = [name[:NAME_CHARACTERS] for name in index]
        spans = msgspec.msgpack.encode(Spans(short, rows))
        self._packed.append(TaskEvents(self.worker_id, os.getpid(), len(rows), spans))
        if len(self._packed) > BATCHES_MAX:
            oldest = self._packed.popleft()
            self._dropped_count += oldest.count + oldest.dropped
