"""What a worker notes of what it ran is sent or counted, never lost in silence."""

from __future__ import annotations

import threading
from collections.abc import Callable

from beamlet.base.ids import TaskId
from beamlet.core_worker.task_events import BATCH_EVENTS, BATCHES_MAX, TaskEventBuffer
from beamlet.protocol.gcs import TaskEvents
from beamlet.protocol.spans import NAME_CHARACTERS, unpack

TASK = TaskId(b"t" * 24)


def test_what_was_noted_is_told_once_with_every_name_written_once() -> None:
    buffer = TaskEventBuffer(b"w")
    assert not buffer.is_due
    buffer.note(TASK, "f", 1_000_000, 1_500_000, False)
    buffer.note(TASK, "g", 2_000_000, 2_000_900, True)
    buffer.note(TASK, "f", 3_000_000, 2_000_000, False)  # the clock was set back meanwhile
    assert buffer.is_due
    (batch,) = buffer.take()
    assert (batch.worker_id, batch.count, batch.dropped) == (b"w", 3, 0)
    assert list(unpack(batch.spans)) == [
        (TASK, "f", 1000, 500, False),
        (TASK, "g", 2000, 0, True),
        (TASK, "f", 3000, 0, False),
    ]
    assert not buffer.is_due
    assert buffer.take() == []


def test_thirty_thousand_tasks_between_two_reports_are_all_there() -> None:
    buffer = TaskEventBuffer(b"w")
    for _ in range(30_000):
        buffer.note(TASK, "f", 0, 1000, False)
    batches = buffer.take()
    assert sum(batch.count for batch in batches) == 30_000
    assert sum(batch.dropped for batch in batches) == 0
    assert sum(len(batch.spans) for batch in batches) < 30_000 * 45


def test_what_is_too_much_to_keep_is_counted() -> None:
    buffer = TaskEventBuffer(b"w")
    noted = (BATCHES_MAX + 3) * BATCH_EVENTS + 1
    for _ in range(noted):
        buffer.note(TASK, "f", 0, 1000, False)
    batches = buffer.take()
    assert sum(batch.count + batch.dropped for batch in batches) == noted
    assert sum(batch.dropped for batch in batches) == 4 * BATCH_EVENTS


def test_a_long_name_is_cut() -> None:
    buffer = TaskEventBuffer(b"w")
    buffer.note(TASK, "n" * 100_000, 0, 1, False)
    (batch,) = buffer.take()
    assert len(batch.spans) < NAME_CHARACTERS + 100


def test_threads_of_one_actor_note_at_once() -> None:
    buffer = TaskEventBuffer(b"w")
    taken: list[int] = []

    def note() -> None:
        for _ in range(5_000):
            buffer.note(TASK, "f", 0, 1, False)

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken += [batch.count + batch.dropped for batch in buffer.take()]
    for thread in threads:
        thread.join()
    taken += [batch.count + batch.dropped for batch in buffer.take()]
    assert sum(taken) == 20_000


class Amid(str):
    """A name that calls the API when it is packed, as a ``__del__`` may there."""

    def __new__(cls, then: Callable[[], None]) -> Amid:
        self = super().__new__(cls, "amid")
        self.then = then  # type: ignore[attr-defined]
        return self

    def __getitem__(self, key: object) -> str:
        self.then()  # type: ignore[attr-defined]
        return "amid"


def test_what_runs_in_the_middle_of_packing_may_come_back_or_wait_for_who_does() -> None:
    buffer = TaskEventBuffer(b"w")
    batches: list[TaskEvents] = []

    def come_back() -> None:
        for _ in range(BATCH_EVENTS + 2):
            buffer.note(TASK, "inner", 0, 1, False)
        batches.extend(buffer.take())
        other = threading.Thread(target=lambda: batches.extend(buffer.take()), daemon=True)
        buffer.note(TASK, "other", 0, 1, False)
        other.start()
        other.join(10.0)
        assert not other.is_alive(), "each waits for the other"

    def program() -> None:
        buffer.note(TASK, Amid(come_back), 0, 1, False)
        batches.extend(buffer.take())

    thread = threading.Thread(target=program, daemon=True)
    thread.start()
    thread.join(20.0)
    assert not thread.is_alive(), "it waits for itself"
    assert sum(batch.count + batch.dropped for batch in batches) == BATCH_EVENTS + 4
