"""Beamlet on one page: tasks, an actor, a shared array, and what each of them costs on this machine.

python examples/quickstart.py
"""

from __future__ import annotations

import time

import numpy as np

import beamlet as ray


@ray.remote
def square(x: int) -> int:
    """A task: an ordinary function that runs in a worker process."""
    return x * x


@ray.remote
class Counter:
    """An actor: an object that lives in a process of its own and keeps its state between calls."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, amount: int = 1) -> int:
        self.total += amount
        return self.total


@ray.remote
def part_sum(array: np.ndarray, start: int, stop: int) -> float:
    """Reads its part of a shared array: the argument is a view of shared memory, not a copy."""
    return float(array[start:stop].sum())


class Stopwatch:
    """Prints how long a step took, and how long each of its parts took."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    def lap(self, what: str, parts: int = 1) -> None:
        took = time.perf_counter() - self.started
        each = f"  ({took / parts * 1e6:,.0f} µs each)" if parts > 1 else ""
        print(f"{what:<58}{took * 1e3:9.1f} ms{each}", flush=True)
        self.started = time.perf_counter()


def main() -> None:
    watch = Stopwatch()
    ray.init(num_cpus=2)
    assert ray.get(square.remote(7)) == 49
    watch.lap("start a cluster, run a first task: 7² = 49")

    # `.remote()` returns at once, with a reference to a result that is still to come.
    references = [square.remote(x) for x in range(1000)]
    total = sum(ray.get(references))
    watch.lap(f"1000 tasks at once: squares sum to {total}", parts=1000)

    counter = Counter.remote()
    assert ray.get(counter.add.remote()) == 1
    watch.lap("create an actor and call it")

    for _ in range(999):
        value = ray.get(counter.add.remote())
    watch.lap(f"999 actor calls, one after another: counter at {value}", parts=999)

    value = ray.get([counter.add.remote() for _ in range(1000)])[-1]
    watch.lap(f"1000 actor calls, all at once: counter at {value}", parts=1000)

    # Stored once; every task that takes the reference maps the same memory.
    numbers = np.arange(4_000_000, dtype=np.float64)
    watch = Stopwatch()
    shared = ray.put(numbers)
    watch.lap(f"put an array of {numbers.nbytes / 1e6:.0f} MB into shared memory")

    step = len(numbers) // 8
    parts = [part_sum.remote(shared, i * step, (i + 1) * step) for i in range(8)]
    array_sum = sum(ray.get(parts))
    watch.lap(f"8 tasks sum their parts of it: {array_sum:.0f}", parts=8)
    assert array_sum == numbers.sum()

    ray.shutdown()
    watch.lap("shut down; no process is left")


if __name__ == "__main__":
    main()
