"""● What workers did when: the newest spans of every worker's life, for ``timeline()``.

A ring: it says how much it has dropped, so that nobody takes a truncated picture for the whole one.
"""

from __future__ import annotations

from collections import deque

from beamlet.base.ids import Address
from beamlet.gcs.effects import Effect, ToCoreWorker
from beamlet.protocol.gcs import QueryTimeline, TaskEvent, TaskEvents, Timeline

MOST_EVENTS = 100_000
#: What one worker can have dropped between two messages; more is not believed.
_DROPPED_MAX = 1 << 32


class TaskEventTable:
    def __init__(self, most_events: int = MOST_EVENTS) -> None:
        self._events: deque[TaskEvent] = deque(maxlen=most_events)
        self._seen = 0

    def handle_events(self, message: TaskEvents) -> None:
        self._events.extend(message.events)
        self._seen += len(message.events) + max(0, min(message.dropped, _DROPPED_MAX))

    def handle_query(self, sender: Address, message: QueryTimeline) -> list[Effect]:
        """Events in order of arrival: by time within a worker, not across workers."""
        return [ToCoreWorker(sender, Timeline(message.req, list(self._events), self.dropped))]

    @property
    def dropped(self) -> int:
        return self._seen - len(self._events)
