"""Tasks that start tasks and wait for them: any depth on any number of CPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conformance import get, run_script

import beamlet as ray

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_task_starts_a_task_and_waits_for_it() -> None:
    @ray.remote
    def inner() -> int:
        return 1

    @ray.remote
    def outer() -> int:
        return ray.get(inner.remote()) + 1

    assert get(outer.remote()) == 2


def test_recursion_deeper_than_there_are_cpus() -> None:
    @ray.remote
    def depth(n: int) -> int:
        return 0 if n == 0 else 1 + ray.get(depth.remote(n - 1))

    assert get(depth.remote(8)) == 8


def test_recursion_that_branches() -> None:
    @ray.remote
    def fibonacci(n: int) -> int:
        return n if n < 2 else sum(ray.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))

    assert get(fibonacci.remote(6)) == 8


def test_every_cpu_blocked_in_get_leaves_room_for_what_is_waited_for() -> None:
    @ray.remote
    def inner(x: int) -> int:
        return x

    @ray.remote
    def outer(x: int) -> int:
        return ray.get(inner.remote(x))

    assert get([outer.remote(x) for x in range(8)]) == list(range(8))


def test_every_cpu_blocked_in_wait_leaves_room_for_what_is_waited_for() -> None:
    @ray.remote
    def inner() -> int:
        return 1

    @ray.remote
    def outer() -> int:
        ready, _ = ray.wait([inner.remote(), inner.remote()], num_returns=2)
        return len(ready)

    assert get([outer.remote() for _ in range(4)]) == [2] * 4


def test_a_task_waits_for_a_task_that_queues_behind_it() -> None:
    @ray.remote(num_cpus=2)
    def inner() -> str:
        return "ran"

    @ray.remote(num_cpus=2)
    def outer() -> str:
        return ray.get(inner.remote())

    assert get(outer.remote()) == "ran"


def test_a_task_returns_a_ref_to_a_task_it_started() -> None:
    @ray.remote
    def inner() -> int:
        return 7

    @ray.remote
    def outer() -> Any:
        return inner.remote()

    assert get(get(outer.remote())) == 7


def test_a_task_returns_many_refs() -> None:
    @ray.remote
    def inner(x: int) -> int:
        return x

    @ray.remote
    def outer() -> list[Any]:
        return [inner.remote(x) for x in range(20)]

    assert get(get(outer.remote())) == list(range(20))


def test_an_error_passes_through_the_levels() -> None:
    @ray.remote
    def fails() -> None:
        raise KeyError("deep")

    @ray.remote
    def middle() -> None:
        ray.get(fails.remote())

    @ray.remote
    def top() -> None:
        ray.get(middle.remote())

    with pytest.raises(KeyError, match="deep"):
        get(top.remote())


def test_a_task_catches_the_error_of_a_task_it_started() -> None:
    @ray.remote
    def fails() -> None:
        raise KeyError("caught")

    @ray.remote
    def catches() -> str:
        try:
            ray.get(fails.remote())
        except KeyError:
            return "caught it"
        return "no error"

    assert get(catches.remote()) == "caught it"


def test_a_task_puts_an_object_and_returns_the_ref() -> None:
    @ray.remote
    def puts() -> list[Any]:
        return [ray.put("from a task")]

    (ref,) = get(puts.remote())
    assert get(ref) == "from a task"


def test_a_task_defines_a_remote_function_itself() -> None:
    @ray.remote
    def outer() -> int:
        @ray.remote
        def inner(x: int) -> int:
            return x * 3

        return ray.get(inner.remote(5))

    assert get(outer.remote()) == 15


def test_a_task_creates_and_uses_an_actor() -> None:
    @ray.remote
    class Counter:
        def __init__(self) -> None:
            self.n = 0

        def add(self) -> int:
            self.n += 1
            return self.n

    @ray.remote
    def uses_an_actor() -> int:
        counter = Counter.remote()
        ray.get([counter.add.remote() for _ in range(4)])
        return ray.get(counter.add.remote())

    assert get(uses_an_actor.remote()) == 5


def test_any_depth_on_one_cpu(tmp_path: Path) -> None:
    program = """
        ray.init(num_cpus=1)

        @ray.remote
        def depth(n):
            return 0 if n == 0 else 1 + ray.get(depth.remote(n - 1))

        @ray.remote
        def wide(n):
            return sum(ray.get([depth.remote(i) for i in range(n)]))

        print(ray.get(depth.remote(10)), ray.get(wide.remote(5)))
    """
    assert run_script(tmp_path / "program.py", program) == "10 10\n"
