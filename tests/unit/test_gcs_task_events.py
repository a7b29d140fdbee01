from __future__ import annotations

from beamlet.base.ids import Address, TaskId
from beamlet.gcs.effects import ToCoreWorker
from beamlet.gcs.task_events import TaskEventTable
from beamlet.protocol.gcs import QueryTimeline, TaskEvent, TaskEvents, Timeline

ASKER = Address(b"asker")


def event(number: int) -> TaskEvent:
    return TaskEvent(TaskId(b"t"), f"f{number}", "task:execute", 1, b"w", number, number + 1)


def timeline(table: TaskEventTable) -> Timeline:
    (answer,) = table.handle_query(ASKER, QueryTimeline(3))
    assert isinstance(answer, ToCoreWorker)
    assert isinstance(answer.message, Timeline)
    assert answer.address == ASKER
    return answer.message


def test_everything_until_it_is_full() -> None:
    table = TaskEventTable(most_events=3)
    table.handle_events(TaskEvents([event(1), event(2)]))
    assert timeline(table) == Timeline(3, [event(1), event(2)], 0)


def test_the_oldest_are_dropped_and_counted() -> None:
    table = TaskEventTable(most_events=3)
    table.handle_events(TaskEvents([event(1), event(2)]))
    table.handle_events(TaskEvents([event(n) for n in range(3, 7)]))
    assert timeline(table) == Timeline(3, [event(4), event(5), event(6)], 3)
