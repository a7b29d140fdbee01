"""A virtual node for one scripted story, and the demand that nothing is kept at its end."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from beamlet.testing import virtual_audit
from beamlet.testing.virtual_cluster import VirtualCluster, VirtualDriver, VirtualWorker
from beamlet.testing.world import World, sleep


class Stage:
    def __init__(self, world: World, **options: Any) -> None:
        self.world = world
        self.cluster = VirtualCluster(world, **options)

    def play(self, script: Callable[[VirtualDriver], None], within_s: float = 60.0) -> None:
        """Run ``script`` as a driver, then look what is left while that driver still lives."""
        finished: list[bool] = []

        def program(driver: VirtualDriver) -> None:
            script(driver)
            finished.append(True)
            while len(finished) < 2:
                sleep(0.05)

        driver = self.cluster.driver("driver", program)
        self.world.run(lambda: bool(finished), within_s, "the end of the script")
        self.calm_down()
        virtual_audit.audit(self.cluster)
        virtual_audit.nothing_is_kept(self.cluster)
        finished.append(True)
        self.world.run(lambda: driver.process.ended, 60.0, "the end of the driver")

    def calm_down(self) -> None:
        """Garbage goes, and what follows from that happens."""
        for _ in range(3):
            gc.collect()
            self.world.run_for(2.0)

    def worker_of(self, name: str) -> VirtualWorker:
        """The worker that runs a task of that name."""
        for each in self.cluster.workers:
            if each.worker is not None:
                for context in each.worker.core.work.running.values():
                    if context.name == name:
                        return each
        raise AssertionError(f"nobody runs {name}")
