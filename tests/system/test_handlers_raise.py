"""A handler raises, at every level: it costs a message, a request, a connection or a process, never the node.

One error is thrown into one handler while a driver works. That driver gets values or errors of ours, in
bounded time; another one, beside it and after it, notices nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import beamlet as ray
from beamlet import exceptions
from beamlet.core_worker.executing.execution import Execution
from beamlet.core_worker.owning.ownership import Ownership
from beamlet.core_worker.submitting.actors import ActorAccess
from beamlet.core_worker.submitting.results import ResultTaker
from beamlet.gcs.actors import ActorTable
from beamlet.gcs.kv import KvTable
from beamlet.raylet.driver_service import DriverService
from beamlet.raylet.introductions import Introductions
from beamlet.raylet.lease_service import LeaseService
from beamlet.raylet.store_service import StoreService
from beamlet.raylet.worker_pool import WorkerPool
from beamlet.raylet.worker_service import WorkerService
from beamlet.testing.virtual_cluster import VirtualDriver
from beamlet.testing.virtual_os import virtual_os
from beamlet.testing.world import World, sleep
from system.programs import far
from system.stage import Stage

HANDLERS = [
    (DriverService, "hello"),
    (LeaseService, "request"),
    (LeaseService, "give_back"),
    (LeaseService, "place"),
    (StoreService, "create"),
    (StoreService, "pin"),
    (StoreService, "delete"),
    (Introductions, "connect"),
    (WorkerService, "ready"),
    (WorkerPool, "tick"),
    (KvTable, "handle_put"),
    (KvTable, "handle_get"),
    (ActorTable, "handle_create"),
    (ActorTable, "handle_started"),
    (ActorTable, "handle_subscribe"),
    (Execution, "task_arrived"),
    (Execution, "call_arrived"),
    (ResultTaker, "take_result"),
    (ResultTaker, "take_results"),
    (Ownership, "handle"),
    (ActorAccess, "updated"),
]


class Thrown(Exception):
    """What a mistake of ours would raise."""


def work() -> None:
    """A bit of everything, to be right or to fail with an error of ours."""
    for ask in (
        lambda: ray.get([far.add.remote(i, 1) for i in range(20)], timeout=40) == list(range(1, 21)),
        lambda: ray.get(far.Counter.remote().up.remote(), timeout=40) == 1,
        lambda: len(ray.get(far.blob.remote(200_000, 1), timeout=40)) == 200_000,
        lambda: ray.get(far.length.remote(ray.put(bytes(150_000))), timeout=40) == 150_000,
        lambda: ray.get(far.open_list.remote([far.add.remote(1, 1)]), timeout=40) == 2,
    ):
        try:
            assert ask()
        except (exceptions.RayError, TimeoutError):
            continue


@pytest.mark.parametrize(("owner", "name"), HANDLERS, ids=lambda each: getattr(each, "__name__", each))
def test_it_costs_no_more_than_who_asked(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    handler = getattr(owner, name)
    thrown: list[float] = []
    armed: list[bool] = []

    def throwing(self: Any, *args: Any) -> Any:
        if armed and not thrown:
            thrown.append(world.now())
            raise Thrown(f"{owner.__name__}.{name}")
        return handler(self, *args)

    monkeypatch.setattr(owner, name, throwing)
    world = World(3)
    world.tolerated = (Thrown,)
    with virtual_os(world):
        stage = Stage(world)
        try:
            _two_drivers(stage, armed)
        finally:
            stage.cluster.close()
    assert thrown, "the handler was never called: this tests nothing"


def _two_drivers(stage: Stage, armed: list[bool]) -> None:
    met: list[str] = []

    def bystander(_: VirtualDriver) -> None:
        counter = far.Counter.remote()
        assert ray.get(counter.up.remote()) == 1
        met.append("bystander")
        while "victim" not in met:
            sleep(0.01)
        assert ray.get(far.add.remote(1, 2), timeout=60) == 3, "tasks go on"
        assert len(ray.get(far.blob.remote(150_000, 1), timeout=60)) == 150_000, "the store goes on"
        assert ray.get(far.Counter.remote().up.remote(), timeout=60) == 1, "actors go on"

    def victim(_: VirtualDriver) -> None:
        try:
            work()
        finally:
            met.append("victim")

    world, cluster = stage.world, stage.cluster
    beside = cluster.driver("bystander", bystander)
    world.run(lambda: bool(met), 30.0, "that the bystander works")
    armed.append(True)
    other = cluster.driver("victim", victim)
    world.run(lambda: "victim" in met or other.process.ended, 300.0, "the end of the victim's work")
    if "victim" not in met:
        met.append("victim")
    world.run(lambda: beside.process.ended, 200.0, "the end of the bystander")


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("take_result", lambda _: far.add.remote(1, 0)),
        ("take_result", lambda counter: counter.up.remote(0)),
        ("take_results", lambda _: far.blob.remote(200_000, 1)),
    ],
)
def test_who_waits_for_an_answer_that_could_not_be_taken_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, ask: Callable[[Any], Any]
) -> None:
    """At once, not never; nothing is left of it, and the next one is served."""
    handler = getattr(ResultTaker, name)
    armed: list[bool] = []

    def throwing(self: Any, *args: Any) -> Any:
        if armed:
            armed.clear()
            raise Thrown(name)
        return handler(self, *args)

    monkeypatch.setattr(ResultTaker, name, throwing)
    world = World(3)
    world.tolerated = (Thrown,)

    def script(_: VirtualDriver) -> None:
        counter = far.Counter.remote()
        ray.get(counter.up.remote())
        right = ray.get(ask(counter))
        ref = ask(counter)
        armed.append(True)
        with pytest.raises(exceptions.RaySystemError, match=f"could not be taken: Thrown: {name}"):
            ray.get(ref, timeout=1.0)
        assert ray.get(ask(counter), timeout=5.0) == right

    with virtual_os(world):
        stage = Stage(world)
        try:
            stage.play(script)
        finally:
            stage.cluster.close()
