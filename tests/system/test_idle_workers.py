"""Idle workers are ended; what they had sent off and not waited for is done all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import beamlet as ray
from beamlet.raylet.worker_pool import IDLE_S
from beamlet.testing.virtual_cluster import VirtualDriver, VirtualWorker
from beamlet.testing.world import sleep
from system.programs import far
from system.stage import Stage

#: More than are kept warm, so that each would be ended that may be.
MANY = 6
LATE_S = 2 * IDLE_S


def living(stage: Stage) -> list[VirtualWorker]:
    return [each for each in stage.cluster.workers if not each.process.ended]


def play(stage: Stage, begin: Callable[[], Any], finish: Callable[[Any], None]) -> None:
    """``begin`` makes workers that would be lost with what they wait for until ``LATE_S``, others end."""
    seen: list[tuple[int, int]] = []

    def script(_: VirtualDriver) -> None:
        what = begin()
        ray.get([far.idle.remote(0.1, 1) for _ in range(2 * MANY)])
        before = len(living(stage))
        sleep(LATE_S - 1.0)
        seen.append((before, len(living(stage))))
        finish(what)
        sleep(3 * IDLE_S)
        seen.append((before, len(living(stage))))

    stage.play(script)
    (before, meanwhile), (_, after) = seen
    assert meanwhile < before, "no idle worker was ended at all"
    assert after < meanwhile, "one that is needed no longer is ended"


def all_came(actor: Any) -> None:
    """Each in its own time: calls of several callers have no order."""
    for _ in range(50):
        if len(seen := ray.get(actor.seen.remote())) == MANY:
            break
        sleep(0.1)
    assert sorted(seen) == list(range(MANY))


def test_calls_of_an_actor_that_starts_late_are_made(stage: Stage) -> None:
    def begin() -> Any:
        actor = far.BornLate.remote(LATE_S)
        ray.get([far.note_and_go.remote(actor, i) for i in range(MANY)])
        return actor

    play(stage, begin, all_came)


def test_values_for_an_actor_that_is_busy_are_there_when_it_asks(stage: Stage) -> None:
    def begin() -> Any:
        actor = far.BornLate.remote(0.0)
        ray.get(actor.seen.remote())
        actor.wait.remote(LATE_S)
        ray.get([far.note_and_go.remote(actor, i) for i in range(MANY)])
        return actor

    play(stage, begin, all_came)


def test_a_detached_actor_whose_argument_comes_late_is_made(stage: Stage) -> None:
    names = [f"a{i}" for i in range(MANY)]

    def begin() -> None:
        late = far.idle.remote(LATE_S, 7)
        ray.get([far.create_and_go.remote([late], name) for name in names])

    def finish(_: None) -> None:
        actors = [ray.get_actor(name) for name in names]
        assert ray.get([actor.read.remote() for actor in actors]) == [7] * MANY
        for actor in actors:
            ray.kill(actor)

    play(stage, begin, finish)


def test_a_detached_actor_starts_again_with_an_argument_of_a_worker(stage: Stage) -> None:
    names = [f"a{i}" for i in range(MANY)]
    size = 150_000

    def begin() -> None:
        ray.get([far.create_to_restart.remote(size, name) for name in names])

    def finish(_: None) -> None:
        actors = [ray.get_actor(name) for name in names]
        for _ in range(2):
            assert [len(data) for data in ray.get([actor.read.remote() for actor in actors])] == [size] * MANY
            for actor in actors:
                ray.kill(actor, no_restart=False)
        for actor in actors:
            ray.kill(actor)

    play(stage, begin, finish)


def test_workers_that_max_calls_replaces_end_when_what_they_own_is_let_go(stage: Stage) -> None:
    seen: list[int] = []

    def script(_: VirtualDriver) -> None:
        given = ray.get([far.own_much.remote(i, LATE_S) for i in range(MANY)])
        sleep(LATE_S + 1.0)
        values, actors, results = zip(*given, strict=True)
        assert ray.get([*values]) == list(range(MANY))
        assert ray.get([actor.up.remote(2) for actor in actors]) == [2] * MANY
        assert ray.get([*results]) == list(range(MANY))
        seen.append(len(living(stage)))
        del given, values, actors, results
        sleep(2 * IDLE_S)
        seen.append(len(living(stage)))

    stage.play(script)
    before, after = seen
    assert before - after >= 2 * MANY, "they end, and so do their actors"


def test_a_worker_that_max_calls_replaces_is_gone_soon_after_what_it_owned(stage: Stage) -> None:
    """Its memory, and what it holds of a GPU's, waits for that."""
    most: list[int] = []

    def script(_: VirtualDriver) -> None:
        for i in range(100):
            value, _, _ = ray.get(far.own_much.remote(i, 0.0))
            assert ray.get(value) == i
            most.append(len(living(stage)))

    stage.play(script)
    assert max(most) < 20, most
