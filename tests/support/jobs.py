"""Job descriptions for tests that run nothing of the job."""

from __future__ import annotations

from beamlet.base.ids import Address, job_id_of_int
from beamlet.protocol.node import JobDescription

NOBODY = Address(b"")


def a_job(number: int = 1, driver: Address = NOBODY) -> JobDescription:
    return JobDescription(job_id_of_int(number), "ns", [], b"", b"", {}, False, driver)
