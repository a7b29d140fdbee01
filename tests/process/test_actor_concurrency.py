"""Actors that do several things at once: threads, and how many of them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from conformance import DEADLINE_S, get
from gates import Gate

import beamlet as ray

pytestmark = pytest.mark.usefixtures("cluster")


class Meeting:
    """A method that returns only when enough calls are inside it at the same time."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)

    def meet(self, timeout: float) -> str:
        try:
            self.barrier.wait(timeout)
        except threading.BrokenBarrierError:
            return "alone"
        return "met"

    def ping(self) -> str:
        return "pong"


def test_max_concurrency_lets_that_many_calls_run_at_once() -> None:
    meeting = ray.remote(max_concurrency=4)(Meeting).remote(4)
    assert get([meeting.meet.remote(DEADLINE_S) for _ in range(4)]) == ["met"] * 4


def test_max_concurrency_in_options() -> None:
    meeting = ray.remote(Meeting).options(max_concurrency=2).remote(2)
    assert get([meeting.meet.remote(DEADLINE_S) for _ in range(2)]) == ["met"] * 2


def test_not_more_calls_than_max_concurrency_run_at_once() -> None:
    @ray.remote(max_concurrency=3)
    class Gauge:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.inside = self.most = 0

        def enter(self, gate: Gate) -> None:
            with self.lock:
                self.inside += 1
                self.most = max(self.most, self.inside)
            threading.Event().wait(0.01)
            with self.lock:
                self.inside -= 1

        def read(self) -> int:
            return self.most

    gauge = Gauge.remote()
    get([gauge.enter.remote(None) for _ in range(30)])
    assert get(gauge.read.remote()) == 3


def test_a_default_actor_runs_one_call_at_a_time() -> None:
    meeting = ray.remote(Meeting).remote(2)
    assert get([meeting.meet.remote(0.1) for _ in range(2)]) == ["alone"] * 2


def test_other_calls_run_while_one_blocks(gate: Gate) -> None:
    @ray.remote(max_concurrency=2)
    class Blocks:
        def wait(self) -> str:
            gate.wait()
            return "passed"

        def ping(self) -> str:
            return "pong"

    blocks = Blocks.remote()
    waiting = blocks.wait.remote()
    assert get(blocks.ping.remote()) == "pong"
    gate.open()
    assert get(waiting) == "passed"


def test_a_threaded_actor_may_call_itself() -> None:
    @ray.remote(max_concurrency=2)
    class Recursive:
        def outer(self) -> str:
            return ray.get(ray.get_runtime_context().current_actor.inner.remote())

        def inner(self) -> str:
            return "inner"

    assert get(Recursive.remote().outer.remote()) == "inner"


def test_get_and_put_from_many_threads_of_an_actor() -> None:
    @ray.remote
    def square(x: int) -> int:
        return x * x

    @ray.remote(max_concurrency=8)
    class Busy:
        def work(self, x: int) -> int:
            return ray.get(square.remote(ray.put(x)))

    busy = Busy.remote()
    assert get([busy.work.remote(x) for x in range(40)]) == [x * x for x in range(40)]


def test_each_call_has_its_own_task_id() -> None:
    @ray.remote(max_concurrency=4)
    class Ids:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(4)

        def id(self) -> str:
            self.barrier.wait(30)
            return ray.get_runtime_context().get_task_id()

    ids = Ids.remote()
    assert len(set(get([ids.id.remote() for _ in range(4)]))) == 4


def test_errors_of_threads_stay_apart() -> None:
    @ray.remote(max_concurrency=4)
    class Odd:
        def check(self, x: int) -> int:
            if x % 2:
                raise ValueError(f"odd {x}")
            return x

    odd = Odd.remote()
    refs = [odd.check.remote(x) for x in range(8)]
    assert get(refs[::2]) == [0, 2, 4, 6]
    for x in (1, 3, 5, 7):
        with pytest.raises(ValueError, match=f"odd {x}"):
            get(refs[x])


def test_threads_an_actor_starts_itself_may_use_the_api() -> None:
    @ray.remote
    class Starts:
        def run(self) -> Any:
            results: list[Any] = []
            thread = threading.Thread(target=lambda: results.append(ray.get(ray.put("from a thread"))))
            thread.start()
            thread.join()
            return results

    assert get(Starts.remote().run.remote()) == ["from a thread"]


def test_concurrency_groups_do_not_wait_for_each_other(gate: Gate) -> None:
    @ray.remote(concurrency_groups={"io": 1, "compute": 1})
    class Grouped:
        @ray.method(concurrency_group="io")
        def wait(self) -> str:
            gate.wait()
            return "passed"

        @ray.method(concurrency_group="compute")
        def compute(self) -> int:
            return 42

        def plain(self) -> str:
            return "plain"

    grouped = Grouped.remote()
    waiting = grouped.wait.remote()
    assert get([grouped.compute.remote(), grouped.plain.remote()]) == [42, "plain"]
    gate.open()
    assert get(waiting) == "passed"


def test_a_call_is_sent_to_another_concurrency_group(tmp_path: Path, gate: Gate) -> None:
    @ray.remote(concurrency_groups={"io": 1})
    class Grouped:
        def wait(self) -> str:
            gate.wait()
            return "passed"

        def ping(self) -> str:
            return "pong"

    grouped = Grouped.remote()
    waiting = grouped.wait.remote()
    assert get(grouped.ping.options(concurrency_group="io").remote()) == "pong"
    gate.open()
    assert get(waiting) == "passed"
