"""A driver that the head cuts off, and that lives: what it reads and writes stays its own."""

from __future__ import annotations

from typing import Any

import pytest

import beamlet as ray
from beamlet import exceptions
from beamlet.raylet.lifelines import Lifelines
from beamlet.rpc.frame_budget import STALL_S
from beamlet.rpc.framing import PREFIX
from beamlet.testing import virtual_audit
from beamlet.testing.virtual_cluster import VirtualDriver
from beamlet.testing.world import sleep
from system.programs import far, filled
from system.stage import Stage

SIZE = 130_000


def fill_the_store(_: VirtualDriver) -> None:
    refs = [ray.put(filled(110_000, 9)) for _ in range(26)]
    sleep(1.0)
    del refs


def cut_off(stage: Stage) -> tuple[list[str], set[int]]:
    """A driver that reads ones is cut off, others fill the store: what is kept for it, and what it sees."""
    world, cluster = stage.world, stage.cluster
    others_have_come: list[bool] = []
    seen: set[int] = set()

    def unlucky(driver: VirtualDriver) -> None:
        counter = far.Counter.remote()
        arrays: list[Any] = [ray.get(counter.echo.remote(filled(SIZE, 1))) for _ in range(5)]
        arrays.append(ray.get(ray.put(filled(400_000, 1))))
        sleep(0.01)
        assert driver.core is not None
        assert len(driver.core.store.own), "some lie in its slab"
        member = cluster.head.raylet._node.members.get(driver.core.address)
        assert member is not None
        connection: Any = member.connection
        world.later(0.0, lambda: cluster.head.process.run(lambda: connection.fail("it left 256 MiB unread")))
        while not driver.lost:
            sleep(0.01)
        with pytest.raises(exceptions.RaySystemError):
            ray.put(filled(SIZE, 2))
        while not others_have_come:
            sleep(0.1)
        seen.update(value for array in arrays for value in array.tolist())

    driver = cluster.driver("unlucky", unlucky)
    world.run(lambda: bool(driver.lost), 30.0, "that it is cut off")
    world.run_for(2.0)
    kept = [str(each) for each in cluster.head.store.kept()]
    other = cluster.driver("other", fill_the_store)
    world.run(lambda: other.process.ended, 60.0, "that another has filled the store")
    others_have_come.append(True)
    world.run(lambda: driver.process.ended, 60.0, "its end")
    return kept, seen


def test_what_it_reads_stays_until_it_ends(stage: Stage) -> None:
    (kept,), seen = cut_off(stage)
    assert "process 10002 (a driver; it left 256 MiB unread)" in kept
    assert seen == {1}
    stage.calm_down()
    stage.world.run_for(70.0)
    virtual_audit.audit(stage.cluster)
    virtual_audit.nothing_is_kept(stage.cluster)
    virtual_audit.everybody_left(stage.cluster, warm_workers=1)


def test_that_test_would_notice(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lifelines, "outlived_by", lambda self, driver, reason: "")
    kept, seen = cut_off(stage)
    assert not kept
    assert 9 in seen


def test_who_stops_in_the_middle_of_a_large_message_is_cut_off_when_another_needs_its_room(
    stage: Stage,
) -> None:
    """Two have the room of large messages. A third waits unread, and others work on meanwhile."""
    world, cluster = stage.world, stage.cluster
    large = 90 << 20

    def stops(driver: VirtualDriver) -> None:
        assert driver.core is not None
        link: Any = driver.core.link.connection
        link._sock.send(PREFIX.pack(large, 0, 0) + bytes(1000))
        while not driver.lost and not world.now() > ends:
            sleep(0.5)

    def works(_: VirtualDriver) -> None:
        while world.now() < ends:
            counter = far.Counter.remote()
            assert ray.get(counter.echo.remote(1)) == 1
            sleep(1.0)

    ends = world.now() + 3 * STALL_S
    stopped = [cluster.driver("first", stops), cluster.driver("second", stops)]
    worker = cluster.driver("works", works)
    world.run_for(STALL_S)
    assert not any(driver.lost for driver in stopped), "nobody waits"
    waiting = cluster.driver("third", stops)
    world.run_for(STALL_S - 5)
    assert not any(driver.lost for driver in stopped)
    world.run_for(10.0)
    assert [bool(driver.lost) for driver in (*stopped, waiting)].count(True) == 1
    assert not waiting.lost, "it has the room now"
    world.run(lambda: worker.process.ended, 4 * STALL_S, "the work of another")
    assert worker.done
