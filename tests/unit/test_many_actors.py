"""What one more actor costs node and cluster does not grow with those that live, nor with those that wait.

Counted in lines of Python that run, so that a loop over all of them shows, on any machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import Any

import pytest

from beamlet.base.ids import ActorId, Address, make_address
from beamlet.gcs.actors import ActorTable
from beamlet.gcs.storage import MemoryStorage
from beamlet.protocol import cluster, gcs, node
from beamlet.raylet.members import Member
from support.fake_node import NODE, FakeNode, a_spec

#: Some growth is none: a table that is rebuilt, a tree that gets deeper.
_NEARLY = 1.05


def lines_of(run: Callable[[], None]) -> int:
    """How many lines ``run`` executes."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return lines


class Node:
    """A raylet whose driver creates actors and calls each."""

    def __init__(self) -> None:
        self.fake = FakeNode(CPU=1)
        self.driver = self.fake.driver()
        self._numbers = count()

    def create(self, number: int) -> None:
        for _ in range(number):
            spec = a_spec(self.driver)
            spec.actor_id = ActorId(b"%016d" % next(self._numbers))
            self.fake.place(spec)
        while workers := self.fake.ready():
            for worker in workers:
                self._introduce(self.fake.member(worker))
        self.fake.gcs.clear()

    def _introduce(self, worker: Member) -> None:
        self.fake.services.introductions.connect(self.driver, node.ConnectPeer(1, worker.address))


class Table:
    """The GCS's table of actors, whose owner subscribes to each."""

    def __init__(self) -> None:
        self.fake = FakeNode(CPU=1)
        self.driver = self.fake.driver()
        self.table = ActorTable(lambda spec: NODE, MemoryStorage())
        self._numbers = count()

    def create(self, number: int) -> None:
        specs = [a_spec(self.driver) for _ in range(number)]
        for spec in specs:
            spec.actor_id = ActorId(b"%016d" % next(self._numbers))
            self.table.handle_create(self.driver.address, gcs.CreateActor(1, spec), 0.0)
            self.table.handle_subscribe(self.driver.address, gcs.SubscribeActor(spec.actor_id))
        for spec in specs:
            worker = make_address(NODE, spec.actor_id + b"w" * 12)  # type: ignore[arg-type]
            self._begin(spec.actor_id, worker)

    def _begin(self, actor: ActorId, worker: Address) -> None:
        self.table.handle_placed(cluster.ActorPlaced(actor, 0, worker, 1), 0.0)
        self.table.handle_started(worker, gcs.ActorStarted(actor, 0), 0.0)


@pytest.mark.parametrize("kind", [Node, Table])
def test_the_next_actor_costs_the_same_however_many_live(kind: type[Node] | type[Table]) -> None:
    place = kind()
    place.create(5)  # the first fill tables and caches
    first = lines_of(lambda: place.create(20))
    place.create(400)
    assert lines_of(lambda: place.create(20)) < _NEARLY * first


@pytest.mark.parametrize("kind", [Node, Table])
def test_an_actor_costs_the_same_however_many_are_asked_for_at_once(kind: type[Node] | type[Table]) -> None:
    few, many = kind(), kind()
    few.create(5)
    many.create(5)
    assert lines_of(lambda: many.create(400)) < _NEARLY * 10 * lines_of(lambda: few.create(40))
