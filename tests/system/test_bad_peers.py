"""What peers must not say, in a whole node: it costs a message or a connection, never a user's ``get``."""

from __future__ import annotations

from typing import Any

import beamlet as ray
from beamlet.api import backend
from beamlet.base.ids import FunctionKey, TaskId
from beamlet.protocol.peer import CallActor, Consumed, PushTask, StealTasks
from beamlet.testing.virtual_cluster import VirtualCluster, VirtualDriver
from beamlet.testing.virtual_os import virtual_os
from beamlet.testing.world import World, sleep


@ray.remote
class Rude:
    """Says to its caller what only workers are told."""

    def say_nonsense(self) -> None:
        core: Any = backend.current()
        task = TaskId(b"t" * 24)
        with core.lock:
            (caller,) = core.peers.by_address.values()
            for message in (
                Consumed(task, 3),
                StealTasks(4),
                PushTask(1, task, FunctionKey(b"f"), "f", 1, b""),
                CallActor(2, task, "m", 1, b""),
            ):
                caller.send(message)

    def add(self, a: int, b: int) -> int:
        return a + b


def run(script: Any) -> None:
    world = World(3)
    with virtual_os(world):
        cluster = VirtualCluster(world)
        driver = cluster.driver("driver", script)
        try:
            world.run(lambda: driver.process.ended, 100, "the end of the driver")
        finally:
            cluster.close()


def test_messages_that_are_not_for_a_driver_cost_nothing_but_themselves() -> None:
    contained: list[BaseException] = []

    def script(driver: VirtualDriver) -> None:
        assert driver.core is not None
        driver.core.reactor.containment.on_contained = contained.append
        rude = Rude.remote()
        assert ray.get(rude.add.remote(1, 2)) == 3
        said = rude.say_nonsense.remote()
        assert ray.get([rude.add.remote(n, 1) for n in range(20)]) == list(range(1, 21))
        ray.get(said)

    run(script)
    assert len(contained) == 4
    assert all("not for a driver" in str(error) for error in contained)


def test_a_visitor_that_never_says_hello_is_shown_out() -> None:
    def script(driver: VirtualDriver) -> None:
        head = driver.cluster.head
        visitor = head.visit(driver.process)
        visitor.setblocking(False)
        sleep(9.0)
        assert is_open(visitor)
        sleep(2.0)
        assert not is_open(visitor)

    def is_open(wire: Any) -> bool:
        try:
            return bool(wire.recv_into(bytearray(1)))
        except BlockingIOError:
            return True

    run(script)
