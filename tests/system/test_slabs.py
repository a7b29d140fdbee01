"""Arguments and results in their owners' slabs: what the raylet hears of them, and who dies meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import beamlet as ray
from beamlet import exceptions
from beamlet.core_worker.core_worker import CoreWorker
from beamlet.core_worker.executing.in_place import Uses
from beamlet.object_store.views import LentView
from beamlet.testing.virtual_cluster import VirtualDriver
from beamlet.testing.world import Broken, sleep
from system.programs import far, filled, lend
from system.stage import Stage

SIZE = 130_000


def slab_bytes(stage: Stage) -> int:
    return stage.cluster.head.store.usage().slab_bytes


def own(driver: VirtualDriver) -> Any:
    core = driver.process.core
    assert isinstance(core, CoreWorker)
    return core.store.own


def warm_up(counter: Any) -> None:
    """From the second call on there is a slab, and room for results is offered."""
    for value in (1, 2):
        assert ray.get(counter.echo.remote(filled(SIZE, value)))[0] == value
        sleep(0.01)


def test_an_array_to_an_actor_and_back_costs_the_raylet_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    raylet = stage.cluster.head.raylet
    heard = raylet._on_message

    def script(_: VirtualDriver) -> None:
        counter = far.Counter.remote()
        warm_up(counter)

        def listen(connection: Any, message: Any) -> None:
            asked.append(type(message).__name__)
            heard(connection, message)

        for member in raylet._node.members:
            line: Any = member.connection
            monkeypatch.setattr(line, "_on_message", listen)
        ray.put(bytes(500_000))
        assert "CreateObject" in asked, "this test hears what the raylet does"
        sleep(0.5)
        asked.clear()
        for value in range(20):
            back = ray.get(counter.echo.remote(filled(SIZE, value)))
            assert (back == value).all()
            back += 1  # it is the user's own
        assert not {name for name in asked if "Object" in name or "Slab" in name}

    stage.play(script)


def test_results_that_live_on_are_left_alone(stage: Stage) -> None:
    def script(driver: VirtualDriver) -> None:
        counter = far.Counter.remote()
        warm_up(counter)
        kept = [ray.get(counter.echo.remote(filled(SIZE, value))) for value in (3, 4, 5, 6)]
        assert [set(array.tolist()) for array in kept] == [{3}, {4}, {5}, {6}]
        assert len(own(driver)), "none of them was where this test wants them"

    stage.play(script)


def test_what_an_actor_keeps_of_an_argument_is_its_own_copy(stage: Stage) -> None:
    def script(_: VirtualDriver) -> None:
        counter = far.Counter.remote()
        warm_up(counter)
        for value in range(10):  # it looks at what it has
            assert ray.get(counter.stash.remote(filled(SIZE, value), value)) == value

    stage.play(script)


def test_that_test_would_notice(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LentView, "end", lambda view: False)
    with pytest.raises(Broken, match="became"):
        test_what_an_actor_keeps_of_an_argument_is_its_own_copy(stage)


def test_a_result_in_our_slab_is_lent_again_and_shared_with_third_parties(stage: Stage) -> None:
    def script(driver: VirtualDriver) -> None:
        counter = far.Counter.remote()
        warm_up(counter)
        ref = counter.echo.remote(filled(SIZE, 7))
        ray.wait([ref])
        assert driver.process.core.refs.objects[ref._id].place is not None  # type: ignore[union-attr]
        assert (ray.get(counter.echo.remote(ref)) == 7).all()
        mine = ray.get(ref)
        assert (ray.get(far.read_list.remote([ref])) == 7).all(), "a borrower asks for it"
        mine += 1
        assert (ray.get(ref) == 7).all(), "now an object of the node"
        assert (mine == 8).all()
        other = far.Counter.remote()
        other_ref = counter.echo.remote(filled(SIZE, 9))
        ray.wait([other_ref])
        born_with = far.BornWith.remote(other_ref)
        assert (ray.get(born_with.read.remote()) == 9).all(), "a constructor's argument goes by the GCS"
        assert ray.get(other.up.remote()) == 1

    stage.play(script)


def test_a_full_store_shares_in_messages(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(driver: VirtualDriver) -> None:
        counter = far.Counter.remote()
        warm_up(counter)
        ref = counter.echo.remote(filled(SIZE, 7))
        ray.wait([ref])
        store = driver.process.core.store  # type: ignore[union-attr]
        monkeypatch.setattr(store, "move", lambda *args: args[-1](False))
        assert (ray.get(far.read_list.remote([ref])) == 7).all()

    stage.play(script)


def test_an_idle_slab_goes_back(stage: Stage) -> None:
    def script(driver: VirtualDriver) -> None:
        counter = far.Counter.remote()
        warm_up(counter)
        assert slab_bytes(stage)
        sleep(5.0)
        assert not slab_bytes(stage)
        assert not len(own(driver))

    stage.play(script)


def test_who_waits_for_room_gets_that_of_slabs(stage: Stage) -> None:
    def script(_: VirtualDriver) -> None:
        counter = far.Counter.remote()
        warm_up(counter)
        capacity = stage.cluster.head.store.usage().capacity_bytes
        began = stage.world.now()
        whole = ray.put(bytes(capacity - 8192))
        assert stage.world.now() - began < 1.0
        assert not slab_bytes(stage)
        assert (ray.get(counter.echo.remote(filled(10_000, 3))) == 3).all()
        assert len(ray.get(whole)) == capacity - 8192

    stage.play(script)


def test_the_slab_of_a_dead_owner_stays_until_its_calls_have_ended(stage: Stage) -> None:
    def script(_: VirtualDriver) -> None:
        counter = far.Counter.options(max_concurrency=4).remote()
        waiting = lend.remote(counter, 5, 3.0)
        sleep(1.0)
        stage.worker_of("lend_to").process.kill()
        with pytest.raises(exceptions.WorkerCrashedError):
            ray.get(waiting)
        assert slab_bytes(stage), "the call of the dead goes on"
        for value in range(10):
            ray.get(counter.echo.remote(filled(SIZE, value)))
        sleep(4.0)
        assert not [error for error in stage.world.failures if "became" in str(error)]
        sleep(4.0)
        assert not slab_bytes(stage)

    stage.play(script)


def test_and_that_test_would_notice(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(uses: Uses, owner: Any) -> None:
        uses._users.clear()
        noted(uses, owner)

    noted: Callable[[Uses, Any], None] = Uses.died
    monkeypatch.setattr(Uses, "died", at_once)
    with pytest.raises((AssertionError, Broken)):
        test_the_slab_of_a_dead_owner_stays_until_its_calls_have_ended(stage)


@pytest.mark.parametrize("retries", [0, 1])
def test_an_executor_that_dies_gives_back_what_it_was_lent(stage: Stage, retries: int) -> None:
    def script(driver: VirtualDriver) -> None:
        counter = far.Counter.remote()
        warm_up(counter)
        ref = far.look_again.options(max_retries=retries).remote(filled(SIZE, 4), 4, 1.0)
        sleep(0.5)
        assert len(own(driver))
        stage.worker_of("look_again").process.kill()
        if retries:
            assert (ray.get(ref) == 4).all()
        else:
            with pytest.raises(exceptions.WorkerCrashedError):
                ray.get(ref)
        del ref
        sleep(0.5)
        assert not len(own(driver))

    stage.play(script)


def test_a_cancelled_call_gives_back_what_it_was_lent(stage: Stage) -> None:
    def script(driver: VirtualDriver) -> None:
        counter = far.Counter.remote()
        warm_up(counter)
        busy = counter.wait.remote(1.0)
        refs = [counter.look_again.remote(filled(SIZE, 4), 4, 0.1) for _ in range(3)]
        sleep(0.1)
        for ref in refs:
            ray.cancel(ref)
        ray.get(busy)
        for ref in refs:
            with pytest.raises(exceptions.TaskCancelledError):
                ray.get(ref)
        del ref, refs
        sleep(0.5)
        assert not len(own(driver))

    stage.play(script)


def test_what_was_lent_to_an_actor_that_had_died_unheard_comes_back(stage: Stage) -> None:
    """Nobody tells of a death to those who only then ask for the dead: the raylet's answer is the word."""

    def script(driver: VirtualDriver) -> None:
        counter = far.Counter.remote()
        warm_up(counter)
        world, cluster = stage.world, stage.cluster
        before = {each.process for each in cluster.workers}
        doomed = far.Counter.remote()
        call = doomed.echo.remote(filled(SIZE, 3))

        def newcomers() -> list[Any]:
            return [each.process for each in cluster.workers if each.process not in before]

        while not newcomers():
            sleep(0.0005)
        # It hears in one breath that the actor is ready and that it is dead.
        driver.process.stalled_until = world.time_s + 1.0
        world.later(0.5, lambda: [process.kill() for process in newcomers()])
        with pytest.raises(exceptions.ActorDiedError):
            ray.get(call)

    stage.play(script)
