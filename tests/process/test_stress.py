"""Eight threads of one driver doing different things at once: all answers right, nothing left at the end."""

from __future__ import annotations

import gc
import os
import random
import threading
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conformance import beamlet_only, get, wait_until

import beamlet as ray

pytestmark = pytest.mark.usefixtures("cluster")
#: Of each of the things that happen at once.
ROUNDS = 20


@ray.remote
def add(a: int, b: int) -> int:
    return a + b


@ray.remote
def nested(n: int) -> list[int]:
    return ray.get([add.remote(i, i) for i in range(n)])


@ray.remote
def put_many(n: int) -> list[Any]:
    return [ray.put(np.full(50_000, i)) for i in range(n)]


@ray.remote
def total(refs: list[Any]) -> int:
    return sum(int(ray.get(ref)[0]) for ref in refs)


@ray.remote
class Keeper:
    def __init__(self) -> None:
        self.kept: dict[float, Any] = {}

    def keep(self, key: float, refs: list[Any]) -> None:
        self.kept[key] = refs[0]

    def show(self, key: float) -> list[Any]:
        return [self.kept[key]]

    def drop(self, key: float) -> None:
        del self.kept[key]


@ray.remote(max_restarts=-1, max_task_retries=-1)
class Flaky:
    def echo(self, i: int) -> int:
        if random.random() < 0.02:
            os._exit(1)
        return i


def bursts(rng: random.Random) -> None:
    n = rng.randint(1, 300)
    assert get([add.remote(i, 1) for i in range(n)]) == list(range(1, n + 1))


def nests(rng: random.Random) -> None:
    n = rng.randint(1, 20)
    assert get(nested.remote(n)) == [2 * i for i in range(n)]


def passes_on_refs_of_others(_: random.Random) -> None:
    assert get(total.remote(get(put_many.remote(5)))) == 10


def reads_and_writes(_: random.Random) -> None:
    ref = ray.put(np.ones(300_000))
    mine = get(ref)
    assert mine.sum() == 300_000


def waits(_: random.Random) -> None:
    refs = [add.remote(i, 1) for i in range(50)]
    while refs:
        _, refs = ray.wait(refs, num_returns=min(3, len(refs)), timeout=20)


def makes_and_drops_actors(_: random.Random) -> None:
    get(Keeper.remote().keep.remote(1, [1]))


@beamlet_only
def test_many_threads_doing_many_things() -> None:
    keeper, flaky = Keeper.remote(), Flaky.remote()

    def keeps(rng: random.Random) -> None:
        key, ref = rng.random(), ray.put(np.full(40_000, 7))
        get(keeper.keep.remote(key, [ref]))
        del ref
        assert get(get(keeper.show.remote(key))[0])[0] == 7
        get(keeper.drop.remote(key))

    def survives(_: random.Random) -> None:
        assert get(flaky.echo.remote(5)) == 5

    failures: list[str] = []

    def repeat(action: Callable[[random.Random], None]) -> None:
        rng = random.Random(action.__name__)
        try:
            for _ in range(ROUNDS):
                action(rng)
        except BaseException:
            failures.append(f"{action.__name__}:\n{traceback.format_exc()}")

    actions = (
        bursts, nests, passes_on_refs_of_others, reads_and_writes, waits, makes_and_drops_actors, keeps,
        survives,
    )  # fmt: skip
    threads = [threading.Thread(target=repeat, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, "\n".join(failures)
    assert not any(thread.is_alive() for thread in threads)

    from beamlet.api import backend

    core = backend.current()
    keeper = flaky = threads = None
    gc.collect()
    wait_until(lambda: ray.available_resources().get("CPU") == 2, "all CPUs to be free again")
    wait_until(lambda: len(core.refs.objects) <= 2, "every object to be freed")
    core.refs.check_invariants()
    core.tasks.check_invariants()
