"""What ran when, for ``timeline()``: noted per task in a tuple, sent to the GCS in batches.

Bounded: of a worker that runs more than EVENTS_MAX tasks between two batches the rest is counted as dropped.
"""

from __future__ import annotations

import os

from beamlet.base.ids import TaskId
from beamlet.protocol.gcs import TaskEvent, TaskEvents

EVENTS_MAX = 1000

_Noted = tuple[bytes, str, int, int, bool]


class TaskEventBuffer:
    """One worker's spans since the last batch. Appending is all that the hot path does."""

    def __init__(self, worker_id: bytes) -> None:
        self._worker_id = worker_id
        #: (task, name, start ns, end ns, failed), wall clock.
        self.noted: list[_Noted] = []
        self.dropped_count = 0

    def note(self, task_id: bytes, name: str, start_ns: int, end_ns: int, failed: bool) -> None:
        if len(self.noted) < EVENTS_MAX:
            self.noted.append((task_id, name, start_ns, end_ns, failed))
        else:
            self.dropped_count += 1

    def take(self) -> TaskEvents:
        """The batch to send; the buffer is empty after it."""
        noted, self.noted = self.noted, []
        dropped, self.dropped_count = self.dropped_count, 0
        pid = os.getpid()
        events = [
            TaskEvent(
                TaskId(task_id),
                name,
                "task:execute",
                pid,
                self._worker_id,
                start // 1000,
                end // 1000,
                failed,
            )
            for task_id, name, start, end, failed in noted
        ]
        return TaskEvents(events, dropped)
