"""The production classes of a whole node in one thread: tasks, actors, objects, ends."""

from __future__ import annotations

from collections.abc import Callable

import beamlet as ray
from beamlet.testing.virtual_cluster import VirtualCluster, VirtualDriver
from beamlet.testing.virtual_os import virtual_os
from beamlet.testing.world import World


@ray.remote
def add(a: int, b: int) -> int:
    return a + b


@ray.remote
def total(n: int) -> int:
    return sum(ray.get([add.remote(i, 1) for i in range(n)]))


@ray.remote
class Counter:
    def __init__(self) -> None:
        self.n = 0

    def up(self) -> int:
        self.n += 1
        return self.n


def run(seed: int, script: Callable[[VirtualDriver], None]) -> World:
    world = World(seed)
    with virtual_os(world):
        cluster = VirtualCluster(world)
        driver = cluster.driver("driver", script)
        try:
            world.run(lambda: driver.process.ended, 100, "the end of the driver")
        finally:
            cluster.close()
    return world


def everyday(_: VirtualDriver) -> None:
    assert ray.get([add.remote(i, i) for i in range(50)]) == list(range(0, 100, 2))
    counter = Counter.remote()
    assert ray.get([counter.up.remote() for _ in range(50)]) == list(range(1, 51))
    assert ray.get(total.remote(5)) == 15
    big = ray.put(b"x" * 500_000)
    assert len(ray.get(add.remote(big, b"y"))) == 500_001  # type: ignore[arg-type]


def test_a_driver_works_and_leaves() -> None:
    for seed in range(5):
        run(seed, everyday)


def test_the_same_seed_is_the_same_run() -> None:
    assert run(7, everyday).trace_digest == run(7, everyday).trace_digest
    assert run(7, everyday).trace_digest != run(8, everyday).trace_digest
