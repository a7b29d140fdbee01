"""Estimate π by throwing darts in parallel, while an actor keeps everyone's progress.

Sampling tasks report to a `Progress` actor as they go; the driver asks it how far they are, and needs to
know nothing about the tasks to do so. A handle to an actor is an ordinary value, passed as an argument.
"""

from __future__ import annotations

import math
import time

import numpy as np

import beamlet as ray

TASKS = 8
BATCHES_PER_TASK = 25
POINTS_PER_BATCH = 100_000


@ray.remote
class Progress:
    """Counts the points that each task has drawn."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.drawn: dict[int, int] = {}

    def report(self, task: int, points: int) -> None:
        self.drawn[task] = self.drawn.get(task, 0) + points

    def fraction(self) -> float:
        return sum(self.drawn.values()) / self.total

    def by_task(self) -> dict[int, int]:
        return self.drawn


@ray.remote
def sample(task: int, progress: ray.actor.ActorHandle) -> int:
    """Draw points in the unit square; count those inside the quarter circle. One stream of luck per task."""
    random = np.random.default_rng(seed=task)
    inside = 0
    for _ in range(BATCHES_PER_TASK):
        x, y = random.random((2, POINTS_PER_BATCH))
        inside += int(np.count_nonzero(x * x + y * y <= 1.0))
        progress.report.remote(task, POINTS_PER_BATCH)  # nobody waits for the answer
    return inside


def main() -> None:
    ray.init(num_cpus=2)
    total = TASKS * BATCHES_PER_TASK * POINTS_PER_BATCH
    progress = Progress.remote(total)
    print(f"{TASKS} tasks draw {total:,} points")

    started = time.perf_counter()
    counts = [sample.remote(task, progress) for task in range(TASKS)]

    running = counts
    while running:
        _, running = ray.wait(running, num_returns=len(running), timeout=0.1)
        fraction = ray.get(progress.fraction.remote())
        print(f"  {fraction:6.1%} drawn, {len(running)} tasks still running", flush=True)

    estimate = 4 * sum(ray.get(counts)) / total
    took = time.perf_counter() - started
    by_task = ray.get(progress.by_task.remote())
    print(f"pi is about {estimate:.5f}, off by {abs(estimate - math.pi):.5f}")
    rate = total / took / 1e6
    print(f"{total:,} points from {len(by_task)} tasks in {took:.2f} s: {rate:.0f} million a second")
    ray.shutdown()


if __name__ == "__main__":
    main()
