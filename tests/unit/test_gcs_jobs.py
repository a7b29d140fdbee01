from __future__ import annotations

from beamlet.base.ids import Address, JobId, NodeId, job_id_of_int
from beamlet.gcs.effects import ToRaylet
from beamlet.gcs.jobs import MOST_ENTRYPOINT, TABLE, JobTable
from beamlet.gcs.storage import MemoryStorage
from beamlet.protocol.cluster import EndJob, JobStarted, StartJob

NODES = [NodeId(b"n1"), NodeId(b"n2")]


def begin(jobs: JobTable, driver: bytes = b"driver", wall_now: float = 1.0) -> JobId:
    start = StartJob(Address(driver), 4711, "space", "app.py")
    (answer,) = jobs.handle_start(NODES[0], start, wall_now)
    assert isinstance(answer, ToRaylet)
    assert isinstance(answer.message, JobStarted)
    assert (answer.node, answer.message.driver) == (NODES[0], driver)
    return answer.message.job_id


def test_ids_count_from_one() -> None:
    jobs = JobTable(MemoryStorage())
    assert [begin(jobs, b"d1"), begin(jobs, b"d2")] == [job_id_of_int(1), job_id_of_int(2)]


def test_ids_go_on_counting_where_another_gcs_stopped() -> None:
    storage = MemoryStorage()
    begin(JobTable(storage))
    assert begin(JobTable(storage)) == job_id_of_int(2)


def test_a_start_told_twice_is_one_job() -> None:
    jobs = JobTable(MemoryStorage())
    assert begin(jobs) == begin(jobs)


def test_life_of_a_job() -> None:
    jobs = JobTable(MemoryStorage())
    job = begin(jobs, wall_now=100.0)
    assert jobs.driven_by(Address(b"driver")) == job
    assert jobs.handle_ended(job, NODES, wall_now=105.0) == [ToRaylet(n, EndJob(job)) for n in NODES]
    assert jobs.driven_by(Address(b"driver")) is None
    record = jobs.get(job)
    assert record is not None
    assert (record.pid, record.entrypoint, record.started_at, record.ended_at) == (4711, "app.py", 100, 105)
    jobs.check_invariants()


def test_of_a_long_command_line_the_beginning_is_kept() -> None:
    storage = MemoryStorage()
    jobs = JobTable(storage)
    (answer,) = jobs.handle_start(NODES[0], StartJob(Address(b"d"), 1, "", "x" * 4_000_000), 1.0)
    assert isinstance(answer, ToRaylet)
    (record,) = jobs.records()
    assert record.entrypoint == "x" * MOST_ENTRYPOINT
    assert sum(len(row) for _, row in storage.scan(TABLE)) < 2 * MOST_ENTRYPOINT


def test_the_end_is_told_once() -> None:
    jobs = JobTable(MemoryStorage())
    job = begin(jobs)
    jobs.handle_ended(job, NODES, 2.0)
    assert jobs.handle_ended(job, NODES, 3.0) == []
    assert jobs.driven_by(Address(b"driver")) is None
    assert [each.ended_at for each in jobs.records()] == [2.0]


def test_ended_jobs_are_bounded_and_leave_the_storage() -> None:
    storage = MemoryStorage()
    jobs = JobTable(storage, most_ended=2)
    ids = []
    for at in range(3):
        ids.append(begin(jobs, wall_now=at))
        jobs.handle_ended(ids[-1], [], at + 0.5)
    assert [each.job_id for each in jobs.records()] == ids[1:]
    assert len(list(storage.scan("jobs", b"job:"))) == 2
    jobs.check_invariants()
