"""Forks of workers: the child disturbs nobody, whatever it does, and is told where the API is."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import numpy as np
import pytest
from conformance import DEADLINE_S, beamlet_only, get, wait_until

import beamlet as ray
from beamlet.api.backend import current

pytestmark = [pytest.mark.usefixtures("cluster"), beamlet_only]


@ray.remote
def one() -> int:
    return 1


def _ask(pipe: int) -> None:
    """In a child: what the API says there."""
    try:
        ray.get(one.remote())
    except BaseException as error:
        os.write(pipe, f"{type(error).__name__}: {error}".encode())
    os._exit(0)


def test_a_child_that_uses_the_api_is_told_and_its_parent_goes_on() -> None:
    @ray.remote
    def forks() -> tuple[str, int]:
        here, there = os.pipe()
        pid = os.fork()
        if pid == 0:
            _ask(there)
        calls = sum(ray.get([one.remote() for _ in range(50)]))
        os.waitpid(pid, 0)
        return os.read(here, 1000).decode(), calls

    told, calls = get(forks.remote())
    assert told.startswith("RuntimeError: this process (pid ")
    assert "is a fork of a worker" in told
    assert calls == 50


def test_a_child_that_returns_from_the_task_ends_without_an_answer() -> None:
    @ray.remote(max_retries=0)
    def forks() -> str:
        pid = os.fork()
        if pid == 0:
            return "the child"
        os.waitpid(pid, 0)
        return "the parent"

    assert get(forks.remote()) == "the parent"
    assert get([one.remote() for _ in range(20)]) == [1] * 20


def test_forks_while_other_threads_are_busy_with_the_cluster() -> None:
    @ray.remote(max_concurrency=4)
    class Forks:
        def calls(self, count: int) -> int:
            return sum(ray.get(one.remote()) for _ in range(count))

        def forks(self, count: int) -> list[int]:
            codes = []
            for _ in range(count):
                pid = os.fork()
                if pid == 0:
                    os._exit(7)
                codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            return codes

    actor = Forks.remote()
    busy = [actor.calls.remote(30) for _ in range(2)]
    assert get(actor.forks.remote(20)) == [7] * 20
    assert get(busy) == [30, 30]


def _square(x: int) -> int:
    return x * x


def test_multiprocessing_in_a_task() -> None:
    @ray.remote
    def squares() -> list[int]:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(_square, range(10))

    assert get(squares.remote()) == [x * x for x in range(10)]


def _overwrite() -> None:
    """Store something in every place that is free."""
    fill = ray.remote(lambda array: array + 0)
    for size in (1 << 20, 12 << 20):
        refs = [ray.put(np.full(size, 9, np.uint8)) for _ in range(4)]
        get([fill.remote(np.full(size, 9, np.uint8)) for _ in range(4)])
        del refs


def _sees(array: Any, may_look: Any, seen: Any) -> None:
    may_look.wait(DEADLINE_S)
    seen.put((int(array.min()), int(array.max())))


@pytest.mark.parametrize("size", [1 << 20, 12 << 20])
def test_a_child_of_the_driver_may_read_what_its_parent_has_let_go(size: int) -> None:
    """``start`` deletes the arguments in the parent. When the child has ended, nothing is held."""
    made = ray.remote(lambda array: array + 0).remote
    forking = multiprocessing.get_context("fork")
    may_look, seen = forking.Event(), forking.Queue()
    get(made(np.full(size, 1, np.uint8)))  # from now on with room for the result
    array = get(made(np.full(size, 1, np.uint8)))
    child = forking.Process(target=_sees, args=(array, may_look, seen), daemon=True)
    child.start()
    del array
    ray.cluster_resources()  # what was let go is passed on
    _overwrite()
    assert current().forked_views._held
    may_look.set()
    assert seen.get(timeout=DEADLINE_S) == (1, 1)
    child.join(DEADLINE_S)
    wait_until(lambda: not current().forked_views._held, "what the child could read is let go")


def test_a_child_of_a_task_may_read_its_arguments_after_it() -> None:
    @ray.remote
    class Forks:
        def start(self, *arrays: Any) -> None:
            forking = multiprocessing.get_context("fork")
            self.may_look, self.seen = forking.Event(), forking.Queue()
            for array in arrays:
                forking.Process(target=_sees, args=(array, self.may_look, self.seen), daemon=True).start()

        def result(self) -> list[tuple[int, int]]:
            self.may_look.set()
            return [self.seen.get(timeout=DEADLINE_S) for _ in range(3)]

    forks = Forks.remote()
    get(
        forks.start.remote(
            np.ones(1 << 20, np.uint8), np.ones(1 << 20, np.uint8), np.ones(12 << 20, np.uint8)
        )
    )
    _overwrite()
    assert get(forks.result.remote()) == [(1, 1)] * 3
