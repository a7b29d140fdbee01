"""Tasks: what `@remote`, `.remote()` and `.options()` do, and where the work runs."""

from __future__ import annotations

import collections
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
from conformance import beamlet_only, get, process_is_gone, wait_until
from gates import Gate

import beamlet as ray

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_task_returns_its_value() -> None:
    @ray.remote
    def f() -> int:
        return 42

    assert get(f.remote()) == 42


def test_a_task_returns_none_when_its_function_does() -> None:
    @ray.remote
    def f() -> None:
        pass

    assert get(f.remote()) is None


def test_remote_can_be_called_on_a_function() -> None:
    f = ray.remote(lambda: "called")
    assert get(f.remote()) == "called"


def test_remote_with_options_decorates() -> None:
    @ray.remote(num_cpus=0.5, max_retries=0)
    def f() -> str:
        return "decorated"

    assert get(f.remote()) == "decorated"


def test_remote_with_options_can_be_called_on_a_function() -> None:
    f = ray.remote(num_cpus=0.5)(lambda x: x + 1)
    assert get(f.remote(1)) == 2


def test_tasks_run_in_another_process() -> None:
    @ray.remote
    def pid() -> int:
        return os.getpid()

    assert get(pid.remote()) != os.getpid()


def test_tasks_run_on_the_main_thread() -> None:
    @ray.remote
    def on_main_thread() -> bool:
        return threading.current_thread() is threading.main_thread()

    assert get(on_main_thread.remote())


def test_remote_returns_before_the_task_ends(gate: Gate) -> None:
    @ray.remote
    def waits() -> str:
        gate.wait()
        return "done"

    ref = waits.remote()
    assert ray.wait([ref], timeout=0)[0] == []
    gate.open()
    assert get(ref) == "done"


def test_two_tasks_run_at_the_same_time_on_two_cpus(gate: Gate) -> None:
    second = Gate(type(gate.path)(gate.path + "-second"))

    @ray.remote
    def first_side() -> None:
        gate.open()
        second.wait()

    @ray.remote
    def second_side() -> None:
        second.open()
        gate.wait()

    get([first_side.remote(), second_side.remote()])


def test_many_tasks_keep_their_results_apart() -> None:
    @ray.remote
    def double(x: int) -> int:
        return 2 * x

    assert get([double.remote(x) for x in range(1000)]) == [2 * x for x in range(1000)]


def test_num_returns_gives_a_list_of_refs() -> None:
    @ray.remote(num_returns=3)
    def f() -> tuple[int, int, int]:
        return 1, 2, 3

    a, b, c = f.remote()
    assert get([c, b, a]) == [3, 2, 1]


def test_num_returns_accepts_a_list() -> None:
    @ray.remote(num_returns=2)
    def f() -> list[str]:
        return ["a", "b"]

    refs = f.remote()
    assert isinstance(refs, list)
    assert get(refs) == ["a", "b"]


@pytest.mark.parametrize("kind", ["range", "dict", "deque", "str", "generator", "array"])
def test_num_returns_accepts_whatever_has_that_many_items(kind: str) -> None:
    @ray.remote(num_returns=2)
    def f() -> object:
        made: dict[str, Callable[[], object]] = {
            "range": lambda: range(2),
            "dict": lambda: {0: "a", 1: "b"},
            "deque": lambda: collections.deque([0, 1]),
            "str": lambda: "01",
            "generator": lambda: iter([0, 1]),
            "array": lambda: numpy.arange(2),
        }
        return made[kind]()

    assert [int(value) for value in get(f.remote())] == [0, 1]


def test_num_returns_of_an_endless_generator_is_an_error() -> None:
    @ray.remote(num_returns=2)
    def f() -> object:
        return itertools.count()

    with pytest.raises(ValueError, match="more than 2 values"):
        get(f.remote()[0])


def test_what_a_generator_of_several_results_raises_is_what_the_caller_gets() -> None:
    @ray.remote(num_returns=2)
    def f(error: type[Exception] | None) -> Iterator[int]:
        yield 1
        if error is not None:
            raise error("mine")

    with pytest.raises(KeyError, match="mine"):
        get(f.remote(KeyError)[1])
    with pytest.raises(ValueError, match=r"it returned 1 value$"):
        get(f.remote(None)[1])


def test_num_returns_one_returns_a_tuple_whole() -> None:
    @ray.remote
    def f() -> tuple[int, int]:
        return 1, 2

    assert get(f.remote()) == (1, 2)


def test_num_returns_zero_gives_none(gate: Gate) -> None:
    @ray.remote(num_returns=0)
    def f() -> None:
        gate.open()

    assert f.remote() is None
    wait_until(gate.is_open, "the task without results to run")


def test_too_few_results_are_an_error() -> None:
    @ray.remote(num_returns=3)
    def f() -> tuple[int, int]:
        return 1, 2

    for ref in f.remote():
        with pytest.raises(ValueError):
            get(ref)


def test_options_change_num_returns() -> None:
    @ray.remote
    def f() -> tuple[int, int]:
        return 1, 2

    a, b = f.options(num_returns=2).remote()
    assert get([a, b]) == [1, 2]


def test_options_leave_the_function_as_it_was() -> None:
    @ray.remote
    def f() -> tuple[int, int]:
        return 1, 2

    f.options(num_returns=2)
    assert get(f.remote()) == (1, 2)


def test_options_twice_both_count() -> None:
    @ray.remote(num_returns=2)
    def f() -> tuple[int, int]:
        return 1, 2

    a, b = f.options(num_cpus=0.5).remote()
    assert get([a, b]) == [1, 2]


def test_name_option_names_the_task() -> None:
    @ray.remote
    def f() -> str | None:
        return ray.get_runtime_context().get_task_name()

    assert get(f.options(name="my task").remote()) == "my task"


def test_redefining_a_function_uses_the_new_code() -> None:
    def define(value: int) -> ray.remote_function.RemoteFunction:
        @ray.remote
        def f() -> int:
            return value

        return f

    assert get(define(1).remote()) == 1
    assert get(define(2).remote()) == 2


def test_a_remote_function_can_be_used_many_times() -> None:
    @ray.remote
    def f(x: int) -> int:
        return x

    assert [get(f.remote(x)) for x in range(20)] == list(range(20))


@beamlet_only
def test_a_remote_function_keeps_its_name_and_doc() -> None:
    @ray.remote
    def documented() -> None:
        """What it does."""

    assert documented.__name__ == "documented"
    assert documented.__doc__ == "What it does."


def test_tasks_may_be_submitted_from_threads() -> None:
    @ray.remote
    def double(x: int) -> int:
        return 2 * x

    results: dict[int, list[int]] = {}

    def submit(number: int) -> None:
        results[number] = get([double.remote(number * 100 + i) for i in range(50)])

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [2 * (n * 100 + i) for i in range(50)] for n in range(4)}


def test_max_calls_recycles_the_worker() -> None:
    @ray.remote(max_calls=1)
    def pid() -> int:
        return os.getpid()

    assert get(pid.remote()) != get(pid.remote())


def test_a_worker_that_max_calls_replaces_ends_when_nothing_is_lost_with_it(gate: Gate) -> None:
    @ray.remote(max_calls=1)
    def put(actor: Any) -> tuple[int, list[Any]]:
        actor.note.remote([ray.put("called")])
        return os.getpid(), [ray.put("value")]

    @ray.remote(num_cpus=0)
    class Late:
        def __init__(self) -> None:
            gate.wait()
            self.got: list[Any] = []

        def note(self, refs: list[Any]) -> None:
            self.got += ray.get(refs)

        def seen(self) -> list[Any]:
            return self.got

    late = Late.remote()
    # More than there are CPUs: those who stay must not hold them.
    given = get([put.remote(late) for _ in range(8)], timeout=30)
    assert len({pid for pid, _ in given}) == 8
    gate.open()
    wait_until(lambda: get(late.seen.remote()) == ["called"] * 8, "the calls")
    assert get([inner for _, (inner,) in given]) == ["value"] * 8
    pids = [pid for pid, _ in given]
    del given
    wait_until(lambda: all(process_is_gone(pid) for pid in pids), "the workers to end", timeout_s=20)


def test_max_calls_counts_calls_that_are_submitted_together_too() -> None:
    @ray.remote(max_calls=3)
    def pid() -> int:
        return os.getpid()

    runs = collections.Counter(get([pid.remote() for _ in range(30)], timeout=20))
    assert max(runs.values()) <= 3, runs


def test_a_task_that_starts_threads_ends_without_waiting_for_them(gate: Gate) -> None:
    @ray.remote
    def starts_a_thread() -> str:
        threading.Thread(target=gate.wait, daemon=True).start()
        return "returned"

    assert get(starts_a_thread.remote()) == "returned"


def test_environment_of_the_driver_reaches_tasks() -> None:
    @ray.remote
    def home() -> str | None:
        return os.environ.get("PATH")

    assert get(home.remote()) == os.environ["PATH"]


def test_tasks_run_in_the_drivers_folder() -> None:
    @ray.remote
    def folder() -> str:
        return os.getcwd()

    assert get(folder.remote()) == os.getcwd()


def test_a_task_of_one_cpu_gets_one_thread_of_numeric_libraries() -> None:
    """Otherwise every worker starts as many as the machine has cores, and they fight for them."""

    @ray.remote
    def threads() -> str | None:
        return os.environ.get("OMP_NUM_THREADS")

    def expected(cpus: int) -> str:
        return os.environ.get("OMP_NUM_THREADS", str(cpus))

    assert get(threads.remote()) == expected(1)
    assert get(threads.options(num_cpus=2).remote()) == expected(2)
    assert get(threads.options(num_cpus=0.5).remote()) == expected(1)


def test_an_actor_gets_as_many_threads_of_numeric_libraries_as_it_holds_cpus() -> None:
    @ray.remote
    class Numeric:
        def __init__(self) -> None:
            self.seen = os.environ.get("OMP_NUM_THREADS")

        def threads(self) -> str | None:
            return self.seen

    assert get(Numeric.options(num_cpus=2).remote().threads.remote()) == os.environ.get(
        "OMP_NUM_THREADS", "2"
    )
    assert get(Numeric.remote().threads.remote()) == os.environ.get("OMP_NUM_THREADS", "1")


def test_the_users_number_of_threads_stands() -> None:
    @ray.remote(num_cpus=2, runtime_env={"env_vars": {"OMP_NUM_THREADS": "7"}})
    def threads() -> str | None:
        return os.environ.get("OMP_NUM_THREADS")

    assert get(threads.remote()) == "7"
