"""What storms found, each as the shortest story that shows it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import beamlet as ray
from beamlet import exceptions
from beamlet.testing import virtual_audit
from beamlet.testing.virtual_cluster import VirtualCluster, VirtualDriver
from beamlet.testing.virtual_os import virtual_os
from beamlet.testing.world import World, sleep
from system.programs import far


class Stage:
    """A virtual node, one driver at a time, and the demand that nothing is kept at the end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.cluster = VirtualCluster(world)

    def play(self, script: Callable[[VirtualDriver], None], within_s: float = 60.0) -> None:
        """Run ``script``, then look what is left while the driver still lives."""
        finished: list[bool] = []

        def program(driver: VirtualDriver) -> None:
            script(driver)
            finished.append(True)
            while len(finished) < 2:
                sleep(0.05)

        driver = self.cluster.driver("driver", program)
        self.world.run(lambda: bool(finished), within_s, "the end of the script")
        for _ in range(3):
            gc.collect()
            self.world.run_for(2.0)
        virtual_audit.audit(self.cluster)
        virtual_audit.nothing_is_kept(self.cluster)
        finished.append(True)
        self.world.run(lambda: driver.process.ended, 60.0, "the end of the driver")

    def worker_of(self, name: str) -> Any:
        """The worker whose core runs a task of that name."""
        for each in self.cluster.workers:
            if each.worker is not None:
                for context in each.worker.core.work.running.values():
                    if context.name == name:
                        return each
        raise AssertionError(f"nobody runs {name}")


@pytest.fixture
def stage() -> Iterator[Stage]:
    world = World(1)
    with virtual_os(world):
        stage = Stage(world)
        try:
            yield stage
        finally:
            stage.cluster.close()


def test_a_call_of_an_actor_that_is_dead_already_holds_no_handle(stage: Stage) -> None:
    def script(_: VirtualDriver) -> None:
        counter = far.Counter.remote()
        assert ray.get(counter.up.remote()) == 1
        ray.kill(counter)
        with pytest.raises(exceptions.ActorDiedError):
            ray.get(counter.up.remote())
        sleep(0.1)
        with pytest.raises(exceptions.ActorDiedError):
            ray.get(counter.up.remote())

    stage.play(script)


def test_a_generator_run_again_goes_on_where_its_reader_is(stage: Stage) -> None:
    """Its second executor waits for reading, too, and must learn how far the program has read."""

    def script(_: VirtualDriver) -> None:
        items = iter(far.numbers.options(_generator_backpressure_num_objects=2).remote(6, 1))
        read = [ray.get(next(items))[-1] for _ in range(3)]
        stage.world.later(0.0, stage.worker_of("numbers").process.kill)
        read += [ray.get(ref)[-1] for ref in items]
        assert read == list(range(6))

    stage.play(script)
