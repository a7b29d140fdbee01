"""● Which driver's job is which: ids, who drives it, when it began and ended.

A job ends when its driver says so or is gone, whichever is heard first; the raylets are then told to end
its workers.  Which actors end with it is the actor table's decision.
"""

from __future__ import annotations

import msgspec

from beamlet.base.ids import Address, JobId, NodeId, job_id_of_int, short
from beamlet.gcs.effects import Effect, ToRaylet
from beamlet.gcs.storage import Storage
from beamlet.protocol.cluster import EndJob, JobStarted, StartJob

TABLE = "jobs"
COUNTER_KEY = b"next"
MOST_ENDED_JOBS = 10_000
#: Of a job's command line, which may have megabytes (``xargs``), so many characters are kept.
MOST_ENTRYPOINT = 2_000


class JobRecord(msgspec.Struct, array_like=True):
    job_id: JobId
    driver: Address
    pid: int
    namespace: str
    entrypoint: str
    #: Wall-clock seconds.
    started_at: float
    ended_at: float | None = None


class JobTable:
    def __init__(self, storage: Storage, most_ended: int = MOST_ENDED_JOBS) -> None:
        self._storage = storage
        self._most_ended = most_ended
        self._last_number = 0
        self._running: dict[JobId, JobRecord] = {}
        self._by_driver: dict[Address, JobId] = {}
        #: In order of ending; the oldest are forgotten.
        self._ended: dict[JobId, JobRecord] = {}

    def handle_start(self, node: NodeId, message: StartJob, wall_now: float) -> list[Effect]:
        """``wall_now``: seconds since the epoch. Repeat-safe: a driver has one job."""
        job_id = self.driven_by(message.driver)
        if job_id is None:
            job_id = self._new_id()
            entrypoint = message.entrypoint[:MOST_ENTRYPOINT]
            record = JobRecord(job_id, message.driver, message.pid, message.namespace, entrypoint, wall_now)
            self._running[job_id] = record
            self._by_driver[message.driver] = job_id
            self._save(record)
        return [ToRaylet(node, JobStarted(message.driver, job_id))]

    def _new_id(self) -> JobId:
        """1, 2, 3 … for as long as the storage lasts: an id is never given twice."""
        if not self._last_number:
            self._last_number = int.from_bytes(self._storage.get(TABLE, COUNTER_KEY) or b"", "big")
        self._last_number += 1
        self._storage.put(TABLE, COUNTER_KEY, self._last_number.to_bytes(4, "big"))
        return job_id_of_int(self._last_number)

    def handle_ended(
        self, job_id: JobId, nodes: list[NodeId], wall_now: float, outlived: bool = False
    ) -> list[Effect]:
        """``outlived``: by detached actors.

        Nothing for a job that has ended before: a death may be told twice.
        """
        record = self._running.pop(job_id, None)
        if record is None:
            return []
        del self._by_driver[record.driver]
        record.ended_at = wall_now
        self._ended[job_id] = record
        self._save(record)
        while len(self._ended) > self._most_ended:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self._storage.delete(TABLE, _row(oldest))
        return [ToRaylet(node, EndJob(job_id, outlived)) for node in nodes]

    def driven_by(self, address: Address) -> JobId | None:
        """The running job that ends if this process is gone."""
        return self._by_driver.get(address)

    def describe_driver(self, address: Address) -> str:
        """For a person; "" for who drives no running job."""
        job_id = self._by_driver.get(address)
        if job_id is None:
            return ""
        return f"the driver of job {job_id.hex()} (pid {self._running[job_id].pid})"

    def is_running(self, job_id: JobId) -> bool:
        return job_id in self._running

    def get(self, job_id: JobId) -> JobRecord | None:
        return self._running.get(job_id) or self._ended.get(job_id)

    def records(self) -> list[JobRecord]:
        return sorted((*self._running.values(), *self._ended.values()), key=lambda each: each.started_at)

    def check_invariants(self) -> None:
        assert self._by_driver == {record.driver: job_id for job_id, record in self._running.items()}
        for job_id, record in self._running.items():
            assert record.ended_at is None, f"job {short(job_id)} has ended and is listed as running"
            assert job_id not in self._ended, f"job {short(job_id)} both runs and has ended"
        assert len(self._ended) <= self._most_ended

    def _save(self, record: JobRecord) -> None:
        self._storage.put(TABLE, _row(record.job_id), msgspec.msgpack.encode(record))


def _row(job_id: JobId) -> bytes:
    return b"job:" + job_id
