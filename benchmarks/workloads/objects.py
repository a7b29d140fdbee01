"""Values put and got: small ones by the call, 100 MB arrays by the gigabyte, and a list of 10,000 refs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.api import RayApi
from benchmarks.catalog import Metric, Samples, Unit, measures, workload
from benchmarks.meter import Meter

LARGE_BYTES = 100_000_000
RESULT_BYTES = 10_000_000
FRESH_PUTS = 8
CLIENTS = 4
CLIENT_PUTS = 250
REFS = 10_000
STORE_BYTES = 2_000_000_000
WARM_UP_PUTS = 5
WARM_PUTS = 40

WARM = Metric("put 100 MB warm", Unit.GIGABYTES_PER_SECOND)
WARM_CALL = Metric("put 100 MB warm, median call", Unit.GIGABYTES_PER_SECOND)


def large_array() -> Any:
    """100 MB whose pages are really there: an untouched zero array would be read from one shared page."""
    import numpy

    return numpy.full(LARGE_BYTES // 8, 1.5)


@measures("single client get calls")
def get_small(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Get the same small object again and again."""
    ref = ray.put(0)
    return meter.rate(lambda: ray.get(ref))


@measures("single client put calls")
def put_small(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Put small objects, each dropped at once."""
    return meter.rate(lambda: ray.put(0))


@measures("multi client put calls")
def put_small_from_clients(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Four actors at once, each putting 250 small objects."""

    class Client:
        def run(self, count: int) -> int:
            return len([ray.put(0) for _ in range(count)])

    clients = [ray.remote(Client).remote() for _ in range(CLIENTS)]
    calls = CLIENTS * CLIENT_PUTS
    return meter.rate(lambda: ray.get([c.run.remote(CLIENT_PUTS) for c in clients]), calls)


@workload(WARM, WARM_CALL)
def put_large_warm(ray: RayApi, meter: Meter) -> Samples:
    """Put a 100 MB array and drop it, 40 times after 5: the store may use the same memory again.

    The first figure is all bytes over all the time, because a store that now and then takes fresh memory is
    slow then (Ray: 0.5 GB/s instead of 10); the second is the median call, which hides that.
    """
    array = large_array()
    seconds = meter.each(lambda: ray.put(array), WARM_UP_PUTS, WARM_PUTS)
    throughput = LARGE_BYTES * len(seconds) / sum(seconds) / 1e9
    return {WARM.name: [throughput], WARM_CALL.name: [LARGE_BYTES / one / 1e9 for one in seconds]}


@measures("put 8 fresh 100 MB objects", Unit.GIGABYTES_PER_SECOND, object_store_memory=STORE_BYTES)
def put_large_fresh(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Eight 100 MB arrays kept alive in a store that has held nothing large before; one sample a process."""
    import numpy

    array = large_array()
    ray.get(ray.put(numpy.ones(1000)))
    kept: list[Any] = []

    def put_all() -> None:
        kept.extend(ray.put(array) for _ in range(FRESH_PUTS))

    return [FRESH_PUTS * LARGE_BYTES / meter.once(put_all) / 1e9]


@measures("get 100 MB", object_store_memory=STORE_BYTES)
def get_large(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Get the same 100 MB array again and again, each view dropped at once."""
    ref = ray.put(large_array())
    return meter.rate(lambda: ray.get(ref))


@measures("task returning 10 MB", object_store_memory=STORE_BYTES)
def return_large(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Run a task that makes and returns a 10 MB array, get it, drop it."""
    size = RESULT_BYTES // 8

    @ray.remote
    def make() -> object:
        import numpy

        return numpy.full(size, 1.5)

    return meter.rate(lambda: ray.get(make.remote()))


@measures("single client get object containing 10k refs", deadline_s=120.0)
def get_refs(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Get an object that a task has returned: a list of 10,000 references to small objects of its own."""

    @ray.remote
    def make_refs(count: int) -> list[Any]:
        return [ray.put(1) for _ in range(count)]

    ref = make_refs.remote(REFS)
    ray.wait([ref])

    def get_all() -> None:
        if (found := len(ray.get(ref))) != REFS:
            raise RuntimeError(f"the object held {found} references instead of {REFS}")

    return meter.rate(get_all)
