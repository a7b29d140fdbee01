"""● What workers did when: the newest spans of every job's workers, for ``timeline()``.

Spans come and stay in the batches in which workers sent them, encoded: 100,000 of them take 5 MB.  Each job
has a ring of its own, so that one cannot push out another's; it goes when the job is over.  What was dropped
is counted, so that nobody takes a truncated picture for the whole one.
"""

from __future__ import annotations

from collections import deque

from beamlet.base.ids import JobId
from beamlet.protocol.gcs import TaskEvents

#: Of one job, by number and by bytes.
MOST_EVENTS = 100_000
MOST_BYTES = 8 << 20
#: Jobs with events; of more, those that came first lose theirs.
MOST_JOBS = 8
#: What one worker can have dropped between two messages; more is not believed.
_DROPPED_MAX = 1 << 32
#: What a batch takes beside its spans.
_BATCH_BYTES = 300


class _Ring:
    """One job's batches, oldest first."""

    def __init__(self) -> None:
        self.batches: deque[TaskEvents] = deque()
        self.events = 0
        self.bytes = 0
        self.dropped = 0

    def add(self, batch: TaskEvents, most_events: int, most_bytes: int) -> None:
        self.dropped += max(0, min(batch.dropped, _DROPPED_MAX))
        self.batches.append(batch)
        self.events += _count(batch)
        self.bytes += _size(batch)
        while self.events > most_events or self.bytes > most_bytes:
            oldest = self.batches.popleft()
            self.events -= _count(oldest)
            self.bytes -= _size(oldest)
            self.dropped += _count(oldest)


class TaskEventTable:
    def __init__(
        self, most_events: int = MOST_EVENTS, most_bytes: int = MOST_BYTES, most_jobs: int = MOST_JOBS
    ) -> None:
        self._most_events = most_events
        self._most_bytes = most_bytes
        self._most_jobs = most_jobs
        self._rings: dict[JobId, _Ring] = {}
        #: Of jobs whose ring had to make room for another job's.
        self._dropped_with_jobs = 0

    def handle_events(self, job: JobId, message: TaskEvents) -> None:
        ring = self._rings.get(job)
        if ring is None:
            ring = self._rings[job] = _Ring()
            if len(self._rings) > self._most_jobs:
                oldest = self._rings.pop(next(iter(self._rings)))
                self._dropped_with_jobs += oldest.events + oldest.dropped
        ring.add(message, self._most_events, self._most_bytes)

    def job_is_over(self, job: JobId) -> None:
        self._rings.pop(job, None)

    def batches(self) -> list[TaskEvents]:
        """By time within a worker, not across workers."""
        return [batch for ring in self._rings.values() for batch in ring.batches]

    @property
    def dropped(self) -> int:
        """How many spans of jobs that are not over are not here."""
        return self._dropped_with_jobs + sum(ring.dropped for ring in self._rings.values())


def _count(batch: TaskEvents) -> int:
    return max(0, min(batch.count, _DROPPED_MAX))


def _size(batch: TaskEvents) -> int:
    return len(batch.spans) + len(batch.worker_id) + _BATCH_BYTES
