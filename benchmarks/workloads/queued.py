"""Very many tasks queued at once: what each costs the driver, and whether the queue's length slows it.

Two tasks hold both CPUs while the others are submitted, so that all of them are waiting when memory is
read; then the way is cleared. Throughput counts from the first submission to the last result, without
the reading of memory.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.api import RayApi
from benchmarks.catalog import BEAMLET, CLUSTER_CPUS, Metric, Samples, Unit, workload
from benchmarks.cluster_processes import unique_bytes
from benchmarks.meter import Meter

SHORT = 1_000
LONG = 100_000
LONGEST = 1_000_000
POLL_S = 0.005
HOLDERS_LIMIT_S = 30.0

LONG_BYTES = Metric("100k queued tasks, driver memory per task", Unit.BYTES)
LONG_RATE = Metric("100k queued tasks, throughput", Unit.PER_SECOND)
LONG_SHARE = Metric("100k queued tasks, throughput against 1k", Unit.SHARE)
LONGEST_BYTES = Metric("1M queued tasks, driver memory per task", Unit.BYTES)
LONGEST_RATE = Metric("1M queued tasks, throughput", Unit.PER_SECOND)


class Queued(NamedTuple):
    """What one queue of tasks has cost."""

    bytes_per_task: float
    tasks_per_s: float


@workload(LONG_BYTES, LONG_RATE, LONG_SHARE, deadline_s=240.0)
def hundred_thousand(ray: RayApi, _meter: Meter) -> Samples:
    """A queue of 100,000 tasks, after a few of 1000 to compare with."""
    short = median([queue_tasks(ray, SHORT).tasks_per_s for _ in range(5)])
    long = queue_tasks(ray, LONG)
    return {
        LONG_BYTES.name: [long.bytes_per_task],
        LONG_RATE.name: [long.tasks_per_s],
        LONG_SHARE.name: [long.tasks_per_s / short],
    }


@workload(LONGEST_BYTES, LONGEST_RATE, implementations=(BEAMLET,), deadline_s=900.0)
def million(ray: RayApi, _meter: Meter) -> Samples:
    """A queue of 1,000,000 tasks."""
    queue_tasks(ray, SHORT)
    longest = queue_tasks(ray, LONGEST)
    return {LONGEST_BYTES.name: [longest.bytes_per_task], LONGEST_RATE.name: [longest.tasks_per_s]}


def queue_tasks(ray: RayApi, count: int) -> Queued:
    """Queue `count` tasks behind two that hold the CPUs, read the driver's memory, let them all run."""

    @ray.remote
    def small() -> bytes:
        return b"ok"

    with tempfile.TemporaryDirectory() as folder:
        gate = Path(folder) / "open"
        holders = _hold_cpus(ray, gate)
        gc.collect()
        before = unique_bytes(os.getpid())
        started = time.perf_counter()
        refs = [small.remote() for _ in range(count)]
        submitted_s = time.perf_counter() - started
        after = unique_bytes(os.getpid())
        gate.touch()
        started = time.perf_counter()
        ray.get(refs)
        drained_s = time.perf_counter() - started
        ray.get(holders)
    return Queued((after - before) / count, count / (submitted_s + drained_s))


def _hold_cpus(ray: RayApi, gate: Path) -> Sequence[Any]:
    """Tasks that occupy every CPU of the cluster until the file `gate` exists; all are running already."""
    poll_s = POLL_S

    @ray.remote
    def hold(mine: str, gate: str) -> None:
        open(mine, "w").close()
        while not os.path.exists(gate):
            time.sleep(poll_s)

    marks = [gate.with_name(f"holding-{number}") for number in range(CLUSTER_CPUS)]
    holders = [hold.remote(str(mark), str(gate)) for mark in marks]
    end = time.monotonic() + HOLDERS_LIMIT_S
    while not all(mark.exists() for mark in marks):
        if time.monotonic() > end:
            gate.touch()
            raise TimeoutError(f"{CLUSTER_CPUS} tasks of one CPU each did not run at once")
        time.sleep(POLL_S)
    return holders
