"""What ran when, for ``timeline()``: noted per task in a tuple, packed by the thousand, sent to the GCS.

Nothing is lost in silence. A worker that is too busy to send keeps packed batches, up to BATCHES_MAX;
what is beyond that is counted. Whoever asks for the timeline has all workers send what they have first.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import TypeVar

from beamlet.base.ids import TaskId
from beamlet.protocol.gcs import TaskEvents
from beamlet.protocol.spans import Noted, pack

#: Spans of one batch.
BATCH_EVENTS = 1000
#: Batches kept until they can be sent: 100,000 spans in 4 MB.
BATCHES_MAX = 100
#: How long to wait for a thread that packs: a millisecond, unless it runs code of the user's meanwhile.
_PACKED_WITHIN_S = 0.1

T = TypeVar("T")


class TaskEventBuffer:
    """One worker's spans since it last told. Appending is all that the hot path does. Thread-safe.

    Not by the lock, which nobody waits for long: who has it may be in a ``__del__`` of the user's (the
    garbage collector runs it anywhere), which may come here again, or wait for a thread that comes here.
    """

    def __init__(self, worker_id: bytes) -> None:
        self.worker_id = worker_id
        #: Taken out one by one: each is packed once.
        self._noted: deque[Noted] = deque()
        #: So that what is asked for is not just being packed by another thread.
        self._packing = threading.RLock()
        self._packed: deque[TaskEvents] = deque()
        #: Spans of batches that were too many.
        self._dropped: deque[int] = deque()

    def note(self, task_id: TaskId, name: str, start_ns: int, end_ns: int, failed: bool) -> None:
        noted = self._noted
        noted.append((task_id, name, start_ns, end_ns, failed))
        if len(noted) >= BATCH_EVENTS and self._packing.acquire(blocking=False):
            try:
                self._pack()
            finally:
                self._packing.release()

    @property
    def is_due(self) -> bool:
        return bool(self._noted or self._packed)

    def take(self) -> list[TaskEvents]:
        """The batches to send; the buffer is empty after it."""
        has_waited = self._packing.acquire(timeout=_PACKED_WITHIN_S)
        try:
            while self._noted:
                self._pack()
            packed = _taken(self._packed, len(self._packed))
            if packed:
                packed[0].dropped += sum(_taken(self._dropped, len(self._dropped)))
            return packed
        finally:
            if has_waited:
                self._packing.release()

    def _pack(self) -> None:
        noted = _taken(self._noted, BATCH_EVENTS)
        if not noted:
            return  # another thread was quicker
        self._packed.append(TaskEvents(self.worker_id, os.getpid(), len(noted), pack(noted)))
        if len(self._packed) > BATCHES_MAX:
            for oldest in _taken(self._packed, 1):
                self._dropped.append(oldest.count + oldest.dropped)


def _taken(queue: deque[T], most: int) -> list[T]:
    """The first of ``queue``, taken out: whatever else takes meanwhile, each goes to one."""
    taken: list[T] = []
    with suppress(IndexError):  # at its end
        taken.extend(islice(iter(queue.popleft, None), most))
    return taken
