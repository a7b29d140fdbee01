"""Memory of an idle cluster, and of each idle actor more."""

from __future__ import annotations

import os
import time
from statistics import fmean

from benchmarks.api import RayApi
from benchmarks.catalog import CLUSTER_CPUS, Metric, Samples, Unit, workload
from benchmarks.cluster_processes import descendants, pss_bytes, settled, unique_bytes
from benchmarks.meter import Meter

IDLE = Metric("idle cluster with 2 workers, PSS", Unit.MEGABYTES)
ACTOR = Metric("each further idle actor, unique memory", Unit.MEGABYTES)
ACTOR_PSS = Metric("each further idle actor, growth of the cluster's PSS", Unit.MEGABYTES)
ACTORS = 8
OVERLAP_S = 0.3


@workload(IDLE, ACTOR, ACTOR_PSS, deadline_s=120.0)
def idle_memory(ray: RayApi, _meter: Meter) -> Samples:
    """The driver and everything started for it, at rest; then with eight actors that have answered once."""
    _start_workers(ray)
    idle = settled(_cluster_pss)

    class Idle:
        def pid(self) -> int:
            return os.getpid()

    idle_class = ray.remote(Idle)
    actors = [idle_class.remote() for _ in range(ACTORS)]
    pids = ray.get([actor.pid.remote() for actor in actors])
    with_actors = settled(_cluster_pss)
    unique = fmean(unique_bytes(pid) for pid in pids)
    growth = (with_actors - idle) / ACTORS
    return {IDLE.name: [idle / 1e6], ACTOR.name: [unique / 1e6], ACTOR_PSS.name: [growth / 1e6]}


def _start_workers(ray: RayApi) -> None:
    """Have as many workers run as the cluster has CPUs, by tasks that overlap."""
    overlap_s = OVERLAP_S

    @ray.remote
    def hold() -> int:
        time.sleep(overlap_s)
        return os.getpid()

    for _ in range(10):
        if len(set(ray.get([hold.remote() for _ in range(CLUSTER_CPUS)]))) == CLUSTER_CPUS:
            return
    raise RuntimeError(f"ten times, {CLUSTER_CPUS} overlapping tasks ran in fewer processes than that")


def _cluster_pss() -> float:
    return pss_bytes(descendants(os.getppid()))
