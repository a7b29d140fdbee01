from __future__ import annotations

from beamlet.base.ids import job_id_of_int
from beamlet.gcs.task_events import TaskEventTable
from beamlet.protocol.gcs import TaskEvents

JOB, OTHER = job_id_of_int(1), job_id_of_int(2)


def batch(name: bytes, count: int, size: int = 10, dropped: int = 0) -> TaskEvents:
    return TaskEvents(name, 1, count, bytes(size), dropped)


def names(table: TaskEventTable) -> list[bytes]:
    return [each.worker_id for each in table.batches()]


def test_everything_until_it_is_full() -> None:
    table = TaskEventTable(most_events=30)
    table.handle_events(JOB, batch(b"1", 10))
    table.handle_events(JOB, batch(b"2", 20))
    assert names(table) == [b"1", b"2"]
    assert table.dropped == 0


def test_the_oldest_are_dropped_and_counted() -> None:
    table = TaskEventTable(most_events=30)
    for name in (b"1", b"2", b"3", b"4"):
        table.handle_events(JOB, batch(name, 10, dropped=5))
    assert names(table) == [b"2", b"3", b"4"]
    assert table.dropped == 10 + 4 * 5


def test_bytes_count_too_however_few_spans_are_said_to_be_in_them() -> None:
    """6,000 events with names of 100 KB must not stay in the head."""
    table = TaskEventTable(most_bytes=1_000_000)
    for _ in range(6_000):
        table.handle_events(JOB, batch(b"w", 1, size=100_000))
    assert sum(len(each.spans) for each in table.batches()) < 1_000_000
    assert table.dropped == 6_000 - len(table.batches())


def test_a_batch_that_says_it_holds_less_than_nothing_changes_nothing() -> None:
    table = TaskEventTable(most_events=10)
    table.handle_events(JOB, batch(b"1", 8))
    table.handle_events(JOB, batch(b"2", -1000, dropped=-5))
    table.handle_events(JOB, batch(b"3", 8))
    assert table.dropped == 8
    assert names(table)[-1] == b"3"


def test_one_job_does_not_push_out_anothers_and_its_own_go_with_it() -> None:
    table = TaskEventTable(most_events=10)
    table.handle_events(JOB, batch(b"1", 10))
    for _ in range(3):
        table.handle_events(OTHER, batch(b"2", 10))
    assert names(table) == [b"1", b"2"]
    table.job_is_over(OTHER)
    assert names(table) == [b"1"]
    assert table.dropped == 0


def test_of_too_many_jobs_the_first_loses_its_events_and_they_are_counted() -> None:
    table = TaskEventTable(most_jobs=2)
    for number in (1, 2, 3):
        table.handle_events(job_id_of_int(number), batch(b"%d" % number, 7))
    assert names(table) == [b"2", b"3"]
    assert table.dropped == 7
