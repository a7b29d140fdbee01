"""Remote functions: one at a time, by the thousand, from several clients, chained, and waited for."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.api import RayApi
from benchmarks.catalog import measures
from benchmarks.meter import Meter

BATCH = 1000
CLIENTS = 4
CHAIN = 100


@measures("single client tasks sync")
def tasks_sync(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Submit one task, get its result, submit the next."""

    @ray.remote
    def small() -> bytes:
        return b"ok"

    return meter.rate(lambda: ray.get(small.remote()))


@measures("single client tasks async")
def tasks_async(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Submit 1000 tasks, then get all results."""

    @ray.remote
    def small() -> bytes:
        return b"ok"

    return meter.rate(lambda: ray.get([small.remote() for _ in range(BATCH)]), BATCH)


@measures("multi client tasks async")
def tasks_from_clients(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Four actors at once: each submits 1000 tasks and gets their results."""

    @ray.remote
    def small() -> bytes:
        return b"ok"

    class Client:
        def run(self, count: int) -> int:
            return len(ray.get([small.remote() for _ in range(count)]))

    clients = [ray.remote(Client).remote() for _ in range(CLIENTS)]
    return meter.rate(lambda: ray.get([c.run.remote(BATCH) for c in clients]), BATCH * CLIENTS)


@measures("single client wait 1k refs")
def wait_one_by_one(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Submit 1000 tasks, then take them with `wait` one at a time until none is left; once round is one."""

    @ray.remote
    def small() -> bytes:
        return b"ok"

    def drain() -> None:
        pending = [small.remote() for _ in range(BATCH)]
        while pending:
            _, pending = ray.wait(pending)

    return meter.rate(drain)


@measures("chain of 100 dependent tasks")
def chain(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Each task's argument is the result of the one before it; one chain, submitted at once, is one."""

    @ray.remote
    def increment(value: int) -> int:
        return value + 1

    def run_chain() -> None:
        link = increment.remote(0)
        for _ in range(CHAIN - 1):
            link = increment.remote(link)
        if (end := ray.get(link)) != CHAIN:
            raise RuntimeError(f"the chain of {CHAIN} increments ended at {end}")

    return meter.rate(run_chain)
