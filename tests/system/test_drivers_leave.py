"""Drivers that leave with work queued, in order or killed: the node goes on, what was theirs goes."""

from __future__ import annotations

import pytest

import beamlet as ray
from beamlet.testing import virtual_audit
from beamlet.testing.virtual_cluster import VirtualDriver
from beamlet.testing.world import sleep
from system.programs import far
from system.stage import Stage


def busy(_: VirtualDriver) -> None:
    """More of everything than the node has room for, and nobody waits for it."""
    for _ in range(100):
        far.slow.remote(0.01, 1)
    for _ in range(5):
        far.Counter.options(num_cpus=1).remote().wait.remote(1.0)
    far.Counter.options(num_cpus=2, name="stays", lifetime="detached").remote()
    far.length.remote(far.blob.remote(300_000, 1))
    far.numbers.options(_generator_backpressure_num_objects=1).remote(20, 1)
    ray.put(bytes(300_000))


def last(_: VirtualDriver) -> None:
    """What the node still does. The detached actor waited for all CPUs, and has them now."""
    counter = ray.get_actor("stays")
    assert ray.get(counter.up.remote(), timeout=20) == 1
    ray.kill(counter)
    sleep(0.5)
    assert ray.get(far.add.remote(1, 1), timeout=20) == 2


def founds(_: VirtualDriver) -> None:
    """And has the founder keep what a task of this program owns."""
    founder = far.Founder.options(name="founder", lifetime="detached").remote()
    assert ray.get(founder.begin.remote(3.0), timeout=20) == 3
    far.slow.options(num_cpus=0).remote(3600.0, 1)
    given = ray.get(far.own.remote(3))  # by a worker that is still leased when it leaves
    assert ray.get(founder.keep.remote(given), timeout=20) == 4


def finds(_: VirtualDriver) -> None:
    founder = ray.get_actor("founder")
    assert ray.get(founder.results.remote(), timeout=20) == [5, 5, 1, 3]
    sleep(10.0)
    assert ray.get(founder.results.remote(), timeout=20) == [5, 5, 1, 3]


def ends_it(_: VirtualDriver) -> None:
    """While work of its family's is under way."""
    founder = ray.get_actor("founder")
    ray.get(founder.begin.remote(3600.0), timeout=20)
    sleep(1.0)
    ray.kill(founder)


def test_what_works_for_a_detached_actor_and_what_it_uses_stay_until_it_ends(stage: Stage) -> None:
    """Actors of its tasks' were ended with the driver, and idle workers that owned what it used."""
    world, cluster = stage.world, stage.cluster
    for number, program in enumerate((founds, finds, ends_it)):
        driver = cluster.driver(f"driver{number}", program)
        world.run(lambda driver=driver: driver.process.ended, 60.0, f"that {program.__name__} leaves")  # type: ignore[misc]
        stage.calm_down()
        virtual_audit.audit(cluster)
    world.run_for(70.0)
    virtual_audit.audit(cluster)
    virtual_audit.nothing_is_kept(cluster)
    virtual_audit.everybody_left(cluster, warm_workers=1)


@pytest.mark.parametrize("end", ["in order", "killed"])
@pytest.mark.parametrize("after_s", [0.0, 0.003, 0.02, 0.2])
def test_work_left_behind_ends_with_its_driver(stage: Stage, end: str, after_s: float) -> None:
    world, cluster = stage.world, stage.cluster
    asked: list[bool] = []

    def hasty(driver: VirtualDriver) -> None:
        busy(driver)
        sleep(after_s)
        asked.append(True)
        if end == "killed":
            sleep(3600.0)

    driver = cluster.driver("hasty", hasty)
    world.run(lambda: bool(asked), 30.0, "that the driver has asked")
    if end == "killed":
        driver.process.kill()
    world.run(lambda: driver.process.ended, 60.0, "that it may leave")
    stage.calm_down()
    final = cluster.driver("last", last)
    world.run(lambda: final.process.ended, 60.0, "that another can work")
    world.run_for(70.0)
    virtual_audit.audit(cluster)
    virtual_audit.nothing_is_kept(cluster)
    virtual_audit.everybody_left(cluster, warm_workers=1)


def test_a_detached_actor_is_restarted_with_its_arguments_when_its_driver_is_gone(stage: Stage) -> None:
    world, cluster = stage.world, stage.cluster
    size = 700_000

    def first(_: VirtualDriver) -> None:
        actor = far.BornWith.options(
            name="stays", lifetime="detached", max_restarts=-1, max_task_retries=-1
        ).remote(bytes(size))
        assert len(ray.get(actor.read.remote())) == size

    def second(_: VirtualDriver) -> None:
        actor = ray.get_actor("stays")
        ray.kill(actor, no_restart=False)
        sleep(1.0)
        assert len(ray.get(actor.read.remote(), timeout=20)) == size
        ray.kill(actor)

    for name, script in (("first", first), ("second", second)):
        driver = cluster.driver(name, script)
        world.run(lambda driver=driver: driver.process.ended, 60.0, f"the {name} driver's end")  # type: ignore[misc]
    stage.calm_down()
    world.run_for(70.0)
    virtual_audit.audit(cluster)
    virtual_audit.nothing_is_kept(cluster)
    virtual_audit.everybody_left(cluster, warm_workers=1)
