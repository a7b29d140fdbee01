"""Actor calls on classes with `async def` methods, in the same shapes as in `actors`."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.api import RayApi, Remote
from benchmarks.catalog import measures
from benchmarks.meter import Meter
from benchmarks.workloads.actors import ACTORS, BATCH, CLIENTS, client


def async_server(ray: RayApi) -> Remote:
    """An actor class whose coroutine methods return at once."""

    class AsyncServer:
        async def small(self) -> bytes:
            return b"ok"

        async def small_arg(self, value: object) -> bytes:
            return b"ok"

    return ray.remote(AsyncServer)


@measures("1:1 async-actor calls sync")
def one_to_one_sync(ray: RayApi, meter: Meter) -> Sequence[float]:
    """One asyncio actor; call it, get the result, call it again."""
    actor = async_server(ray).remote()
    return meter.rate(lambda: ray.get(actor.small.remote()))


@measures("1:1 async-actor calls async")
def one_to_one_async(ray: RayApi, meter: Meter) -> Sequence[float]:
    """One asyncio actor; 1000 calls, then get all results."""
    actor = async_server(ray).remote()
    return meter.rate(lambda: ray.get([actor.small.remote() for _ in range(BATCH)]), BATCH)


@measures("1:1 async-actor calls with args async")
def one_to_one_with_args(ray: RayApi, meter: Meter) -> Sequence[float]:
    """One asyncio actor; 1000 calls, each with a small value as its argument, then get all results."""
    actor = async_server(ray).remote()
    return meter.rate(lambda: ray.get([actor.small_arg.remote(i) for i in range(BATCH)]), BATCH)


@measures("1:n async-actor calls async")
def one_to_many(ray: RayApi, meter: Meter) -> Sequence[float]:
    """One client actor calls four asyncio actors, 1000 times in all."""
    servers = [async_server(ray).remote() for _ in range(ACTORS)]
    caller = client(ray).remote(servers)
    return meter.rate(lambda: ray.get(caller.run.remote(BATCH)), BATCH)


@measures("n:n async-actor calls async")
def many_to_many(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Four client actors each call four asyncio actors, 1000 times each."""
    servers = [async_server(ray).remote() for _ in range(ACTORS)]
    clients = [client(ray).remote(servers) for _ in range(CLIENTS)]
    return meter.rate(lambda: ray.get([c.run.remote(BATCH) for c in clients]), BATCH * CLIENTS)
