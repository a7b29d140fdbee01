"""How cost grows, and what stays: figures that are fine when little is asked for and show when much is.

Waiting for many references one at a time, cancelling a long queue, many actors, memory that does not come
back; and how late a task starts that nobody waits for.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.api import RayApi
from benchmarks.catalog import BEAMLET, Metric, Samples, Unit, measures, workload
from benchmarks.meter import Meter

FEW = 2_000
MANY = 8_000
CANCELLED = 20_000
ACTORS = 500
FREED = 1_000_000
FREED_AT_ONCE = 10_000
ARRAY_BYTES = 1_000_000
UNWAITED = 40
#: How long nobody waits: longer than a task should take to start.
QUIET_S = 0.3

WAIT_RATE = Metric("wait for 8k refs one at a time", Unit.PER_SECOND)
WAIT_SHARE = Metric("wait one at a time, rate of 8k refs against 2k", Unit.SHARE)
KEPT_SHARE = Metric("driver memory before 1M tasks against after", Unit.SHARE)


@measures("delay of a task nobody waits for", Unit.SECONDS)
def unwaited(ray: RayApi, _meter: Meter) -> Sequence[float]:
    """Right after a `get`, submit a task and do nothing; from `.remote()` to its first line."""

    @ray.remote
    def started() -> float:
        return time.monotonic()

    ray.get([started.remote() for _ in range(100)])
    delays = []
    for _ in range(UNWAITED):
        submitted = time.monotonic()
        ref = started.remote()
        time.sleep(QUIET_S)
        delays.append(ray.get(ref) - submitted)
    return delays


@workload(WAIT_RATE, WAIT_SHARE, deadline_s=240.0)
def one_at_a_time(ray: RayApi, _meter: Meter) -> Samples:
    """`wait` for one of many tasks until all have been returned."""

    @ray.remote
    def small() -> bytes:
        return b"ok"

    def rate(count: int) -> float:
        waiting = [small.remote() for _ in range(count)]
        started = time.perf_counter()
        while waiting:
            _, waiting = ray.wait(waiting)
        return count / (time.perf_counter() - started)

    rate(FEW // 4)
    few = sorted(rate(FEW) for _ in range(3))[1]
    many = sorted(rate(MANY) for _ in range(3))[1]
    return {WAIT_RATE.name: [many], WAIT_SHARE.name: [many / few]}


@measures("cancel 20k queued tasks", Unit.SECONDS, deadline_s=240.0)
def cancel_queued(ray: Any, meter: Meter) -> Sequence[float]:
    """Cancel 20,000 tasks that wait behind two which hold the CPUs."""

    @ray.remote
    def hold(seconds: float) -> None:
        time.sleep(seconds)

    holders = [hold.remote(10.0) for _ in range(2)]
    queued = [hold.remote(0.0) for _ in range(CANCELLED)]
    seconds = meter.once(lambda: [ray.cancel(ref) for ref in queued])
    del holders
    return [seconds]


@measures("1 MB array to an actor and back")
def array_round_trip(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Call an actor with a 1 MB array and get the array it returns."""
    import numpy

    class Echo:
        def back(self, value: object) -> object:
            return value

    actor = ray.remote(Echo).remote()
    array = numpy.ones(ARRAY_BYTES // 8)
    return meter.rate(lambda: ray.get(actor.back.remote(array)))


CREATED = Metric("500 actors created and called", Unit.PER_SECOND)


@workload(CREATED, implementations=(BEAMLET,), deadline_s=180.0)
def many_actors(ray: RayApi, meter: Meter) -> Samples:
    """Create 500 actors at once and call each; actors per second until the last has answered."""

    class Server:
        def small(self) -> bytes:
            return b"ok"

    server = ray.remote(Server)
    actors: list[Any] = []

    def make() -> None:
        actors.extend(server.options(num_cpus=0).remote() for _ in range(ACTORS))
        ray.get([actor.small.remote() for actor in actors])

    return {CREATED.name: [ACTORS / meter.once(make)]}


@workload(KEPT_SHARE, implementations=(BEAMLET,), deadline_s=180.0)
def memory_comes_back(ray: RayApi, _meter: Meter) -> Samples:
    """The driver's resident memory before a million tasks, as a share of what it is when all are freed."""

    @ray.remote
    def small() -> bytes:
        return b"ok"

    ray.get([small.remote() for _ in range(FREED_AT_ONCE)])
    gc.collect()
    before = _resident_bytes()
    refs = [small.remote() for _ in range(FREED)]
    ray.get(refs)
    del refs
    gc.collect()
    time.sleep(1.0)
    return {KEPT_SHARE.name: [before / _resident_bytes()]}


def _resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096
