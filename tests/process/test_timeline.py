"""timeline() at once: everything that ran is in it, or counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import beamlet as ray
from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
def quick() -> None:
    pass


@ray.remote
class Counted:
    def call(self) -> None:
        pass


def names() -> Counter[str]:
    rows: list[dict[str, Any]] = ray.timeline() or []
    return Counter(row["name"] for row in rows)


def test_all_of_thousands_of_tasks_are_there_at_once() -> None:
    before = names()["quick"]
    ray.get([quick.remote() for _ in range(12_000)])
    assert names()["quick"] - before == 12_000


def end_by_losing_the_handle(actor: Any) -> None:
    del actor


@pytest.mark.parametrize("end", [ray.kill, end_by_losing_the_handle])
def test_actors_that_ended_are_there(end: Callable[[Any], None]) -> None:
    before = names()["Counted.call"]
    actor = Counted.remote()
    ray.get([actor.call.remote() for _ in range(50)])
    end(actor)
    del actor
    wait_until(lambda: names()["Counted.call"] - before == 50, 10, "the calls of an actor that ended")
