"""Resources are admission tickets: what does not fit waits, what ends gives back, fractions add up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conformance import get, wait_until
from gates import Gate

import beamlet as ray

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def gauge(tmp_path: Path, gate: Gate) -> Callable[[], int]:
    """How many tasks are inside `enter` now; each counts itself by a file."""
    return lambda: len([name for name in os.listdir(tmp_path) if name.startswith("inside-")])


def enter(gate: Gate, folder: str) -> None:
    """Count oneself, and wait at the gate."""
    import uuid

    path = Path(folder) / f"inside-{uuid.uuid4().hex}"
    path.touch()
    gate.wait()
    path.unlink()


def settles_at(gauge: Callable[[], int], count: int) -> None:
    """The gauge reaches the count, and a probe later it still has it: nobody else was let in."""
    wait_until(lambda: gauge() >= count, f"{count} tasks to be inside")
    get(ray.remote(num_cpus=0)(lambda: None).remote())
    get(ray.remote(num_cpus=0)(lambda: None).remote())
    assert gauge() == count


@pytest.mark.parametrize(
    ("options", "inside"),
    [
        ({"num_cpus": 1}, 2),
        ({"num_cpus": 2}, 1),
        ({"num_cpus": 0.5}, 4),
        ({"num_cpus": 0, "resources": {"widget": 1}}, 2),
        ({"num_cpus": 0, "resources": {"widget": 0.5}}, 4),
        ({"num_cpus": 0.1, "resources": {"widget": 2}}, 1),
    ],
    ids=repr,
)
def test_only_as_many_tasks_run_as_fit(
    options: dict[str, Any], inside: int, gauge: Callable[[], int], gate: Gate, tmp_path: Path
) -> None:
    refs = [ray.remote(**options)(enter).remote(gate, str(tmp_path)) for _ in range(inside + 2)]
    settles_at(gauge, inside)
    gate.open()
    get(refs)


def test_tasks_of_no_cpus_are_not_limited(gauge: Callable[[], int], gate: Gate, tmp_path: Path) -> None:
    refs = [ray.remote(num_cpus=0)(enter).remote(gate, str(tmp_path)) for _ in range(6)]
    wait_until(lambda: gauge() == 6, "six tasks without CPUs to run at once")
    gate.open()
    get(refs)


def test_an_actor_holds_its_cpus_while_it_lives() -> None:
    @ray.remote(num_cpus=2)
    class Holds:
        def ping(self) -> str:
            return "pong"

    holder = Holds.remote()
    get(holder.ping.remote())
    waiting = ray.remote(lambda: "ran").remote()
    assert ray.wait([waiting], timeout=0.3)[0] == []
    ray.kill(holder)
    assert get(waiting) == "ran"


def test_an_actor_that_does_not_fit_waits_until_it_does() -> None:
    @ray.remote(num_cpus=2)
    class Holds:
        def ping(self) -> str:
            return "pong"

    first, second = Holds.remote(), Holds.remote()
    answers = [first.ping.remote(), second.ping.remote()]
    ready, rest = ray.wait(answers, timeout=30)
    assert len(ready) == 1
    assert ray.wait(rest, timeout=0.3)[0] == []
    ray.kill(first if ready == answers[:1] else second)
    assert get(rest) == ["pong"]


def test_a_blocked_task_lends_its_cpu_and_not_its_widgets() -> None:
    @ray.remote(num_cpus=1)
    def inner() -> str:
        return "ran"

    @ray.remote(num_cpus=2, resources={"widget": 1})
    def outer() -> str:
        return ray.get(inner.remote())

    assert get(outer.remote()) == "ran"


def test_cpus_of_a_crashed_task_come_back() -> None:
    @ray.remote(num_cpus=2, max_retries=0)
    def crashes() -> None:
        os._exit(1)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        get(crashes.remote())
    assert get(ray.remote(num_cpus=2)(lambda: "ran").remote()) == "ran"


def test_small_tasks_pass_a_large_one_that_does_not_fit(
    gate: Gate, tmp_path: Path, gauge: Callable[[], int]
) -> None:
    holding = ray.remote(enter).remote(gate, str(tmp_path))
    wait_until(lambda: gauge() == 1, "the first task to run")
    large = ray.remote(num_cpus=2)(lambda: "large").remote()
    assert get(ray.remote(lambda: "small").remote()) == "small"
    gate.open()
    get(holding)
    assert get(large) == "large"


def test_everything_is_given_back_at_the_end() -> None:
    get([ray.remote(num_cpus=0.3, resources={"widget": 0.1})(lambda: None).remote() for _ in range(50)])
    wait_until(
        lambda: ray.available_resources().get("CPU") == 2 and ray.available_resources().get("widget") == 2,
        "all CPUs and widgets to be free",
    )


@pytest.mark.parametrize(("cpus", "inside"), [(1, 2), (0.5, 4), (0, 6)])
def test_long_tasks_after_short_ones_do_not_queue_behind_each_other(
    cpus: float, inside: int, gauge: Callable[[], int], gate: Gate, tmp_path: Path
) -> None:
    """Short tasks invite sending several at once to a worker; long ones must spread all the same."""
    get([ray.remote(num_cpus=cpus)(lambda: None).remote() for _ in range(100)])
    refs = [ray.remote(num_cpus=cpus)(enter).remote(gate, str(tmp_path)) for _ in range(inside)]
    wait_until(lambda: gauge() == inside, f"{inside} long tasks to run at once", timeout_s=10)
    gate.open()
    get(refs)
