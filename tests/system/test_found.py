"""What storms found, each as the shortest story that shows it."""

from __future__ import annotations

import pytest

import beamlet as ray
from beamlet import exceptions
from beamlet.testing.virtual_cluster import VirtualDriver
from beamlet.testing.world import sleep
from system.programs import far
from system.stage import Stage


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
