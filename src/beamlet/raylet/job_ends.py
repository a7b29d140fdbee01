"""What the end of a job keeps. ●

    detached actor ──leases──► worker ──creates──► actor ──leases──► worker      lasting, all of them
    driver ──leases──► worker ──creates──► actor ──leases──► worker              not one of them

A detached actor outlives its job, and so does what works for it: such a process is *lasting*.  It is marked
when it gets its first work, by who asked for that: a detached actor is lasting, and whatever is leased or
created by what is lasting.  The mark is for good, as no worker serves both sides; so nobody has to find out
later who had asked for whom, when some of them have gone.

    the driver goes ──► no detached actor lives: all end
                    └─► one does: what is not lasting ends ──► the last of them ends: what is lasting ends

Of an outlived job idle workers are asked instead of killed: they do nothing, but those who stay, or another
program, may use what they own.  Nothing begins on their behalf any more (``is_over``).  When all of the job
has gone they stay for those who are known to use something, no longer for who might have copied a reference.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from beamlet.base.ids import JobId
from beamlet.raylet.worker_record import WorkerRecord, WorkerState


class Fate(Enum):
    STAYS = "stays"
    IS_ASKED = "is asked"
    ENDS = "ends"


class JobEnds:
    """The jobs of a node's workers, and which of these workers a job's end has left without purpose."""

    def __init__(self) -> None:
        self._running: set[JobId] = set()
        #: Jobs whose driver is gone, while they are outlived or have workers: whether they are outlived.
        self._ended: dict[JobId, bool] = {}

    @property
    def any_runs(self) -> bool:
        return bool(self._running)

    def started(self, job: JobId) -> None:
        self._running.add(job)

    def ended(
        self, job: JobId, outlived: bool, records: Iterable[WorkerRecord]
    ) -> list[tuple[WorkerRecord, Fate]]:
        """What becomes of its workers. ``outlived``: by detached actors; told again when none is left."""
        again = job in self._ended
        self._running.discard(job)
        self._ended[job] = outlived
        return [(each, self._fate(each, outlived, again)) for each in records if each.job == job]

    def _fate(self, record: WorkerRecord, outlived: bool, again: bool) -> Fate:
        if not self.is_over(record):
            return Fate.STAYS
        if again and record.state is WorkerState.ACTOR:
            return Fate.STAYS  # the GCS has each of them ended, the detached one perhaps in order
        works = record.state is not WorkerState.IDLE and not record.worn_out
        return Fate.IS_ASKED if (outlived or again) and not works else Fate.ENDS

    def is_over(self, record: WorkerRecord) -> bool:
        """Whether what it belongs to has ended."""
        if record.job is None or record.job not in self._ended:
            return False
        return not (record.lasting and self._ended[record.job])

    def is_forgotten(self, record: WorkerRecord) -> bool:
        """Whether nothing of its job lives that could have copied a reference behind our backs."""
        return record.job is not None and self._ended.get(record.job) is False

    def forget(self, job: JobId | None, records: Iterable[WorkerRecord]) -> None:
        """After a death: of a job without workers nothing need be known, unless more will come."""
        if job is not None and self._ended.get(job) is False and all(each.job != job for each in records):
            del self._ended[job]

    def check_invariants(self, records: Iterable[WorkerRecord]) -> None:
        of_jobs = set()
        for record in records:
            of_jobs.add(record.job)
            works = record.state is WorkerState.LEASED and not record.worn_out
            assert not (works and self.is_over(record)), "a worker works for what has ended"
        for job, outlived in self._ended.items():
            assert outlived or job in of_jobs, "a job that left nothing behind is remembered"
            assert job not in self._running, "a job both runs and has ended"
