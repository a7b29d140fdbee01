"""What the raylet tells the factory besides forks."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

from beamlet.protocol.factory import LoadModule
from beamlet.raylet.worker_service import FOR_ASYNC_ACTORS, WorkerService
from support.fake_node import FakeLine


def test_what_async_actors_need_is_loaded_once_and_exists() -> None:
    factory: Any = FakeLine()
    performer = SimpleNamespace(on=lambda kind, handler: None)
    services: Any = SimpleNamespace(pool=None, members=None, performer=performer)
    output: Any = None
    service = WorkerService(services, output, factory, lambda wire: factory)
    service.expect_async_actors()
    service.expect_async_actors()
    assert factory.sent == [LoadModule(FOR_ASYNC_ACTORS)]
    assert importlib.util.find_spec(FOR_ASYNC_ACTORS) is not None
