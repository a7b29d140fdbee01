"""Forks of workers: the child disturbs nobody, whatever it does, and is told where the API is."""

from __future__ import annotations

import multiprocessing
import os

import pytest
from conformance import beamlet_only, get

import beamlet as ray

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
