"""A virtual node per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from beamlet.testing.virtual_os import virtual_os
from beamlet.testing.world import World
from system.stage import Stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    world = World(1)
    with virtual_os(world):
        stage = Stage(world)
        try:
            yield stage
        finally:
            stage.cluster.close()
