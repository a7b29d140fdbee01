"""Actors that hold CPUs, and futures of futures.

CPUs are admission tickets: an actor made with `num_cpus=2` keeps two of them for as long as it lives, so
the fifth such actor on 8 CPUs has to wait until one of the others is gone. The CPUs need not exist in
hardware.

A task may return references to the work it started. Getting its result gives the references, at once;
getting those gives the values, when they are done.
"""

from __future__ import annotations

import time

import beamlet as ray

CPUS = 8
CPUS_PER_ACTOR = 2


@ray.remote(num_cpus=CPUS_PER_ACTOR)
class Counter:
    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0

    def increment(self, by: int = 1) -> int:
        self.count += by
        return self.count

    def read(self) -> tuple[str, int]:
        return self.name, self.count


@ray.remote(num_cpus=0)
def increment_all(counters: list[ray.actor.ActorHandle], by: int) -> list[ray.ObjectRef]:
    """Start one call on every counter; return the references without waiting for any of them."""
    return [counter.increment.remote(by) for counter in counters]


def free_cpus() -> float:
    return ray.available_resources().get("CPU", 0.0)


def wait_for_free_cpus(wanted: float, deadline_s: float = 10.0) -> float:
    """What is free is reported a moment after it changes; look until it is what we expect."""
    deadline = time.monotonic() + deadline_s
    while free_cpus() != wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    return free_cpus()


def main() -> None:
    ray.init(num_cpus=CPUS)
    print(f"CPUs in the cluster: {ray.cluster_resources()['CPU']:g}, free: {free_cpus():g}")

    started = time.perf_counter()
    counters = [Counter.remote(f"counter-{i}") for i in range(CPUS // CPUS_PER_ACTOR)]
    ray.get([counter.read.remote() for counter in counters])
    took_ms = (time.perf_counter() - started) * 1e3
    print(f"{len(counters)} actors of {CPUS_PER_ACTOR} CPUs created in {took_ms:.1f} ms")
    print(f"free CPUs with {len(counters)} actors alive: {wait_for_free_cpus(0):g}")

    fifth = Counter.remote("counter-4")
    first_read = fifth.read.remote()
    ready, _ = ray.wait([first_read], timeout=0.5)
    print(f"a fifth actor finds no CPUs and waits: {not ready}")
    ray.kill(counters.pop())
    print(f"after one is killed it starts: {ray.get(first_read, timeout=30)[0]}")
    counters.append(fifth)

    started = time.perf_counter()
    outer = [increment_all.remote(counters, by) for by in (1, 2, 3)]
    inner = ray.get(outer)  # lists of references …
    values = [ray.get(references) for references in inner]  # … and what they stand for
    print(f"futures of futures: {len(outer)} tasks started {sum(map(len, inner))} calls", end=" ")
    print(f"in {(time.perf_counter() - started) * 1e3:.1f} ms; largest value {max(map(max, values))}")
    print(
        "counts: "
        + " ".join(f"{name}={count}" for name, count in ray.get([c.read.remote() for c in counters]))
    )

    del counters, fifth
    print(f"free CPUs once the actors are out of scope: {wait_for_free_cpus(CPUS):g}")
    ray.shutdown()


if __name__ == "__main__":
    main()
