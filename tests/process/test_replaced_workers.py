"""Workers that others still need: replaced by `max_calls`, or leased by a process that leaves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conformance import get, process_is_gone, wait_until
from gates import Gate

import beamlet as ray
from beamlet.exceptions import RayActorError

SIZE = 50_000
MANY = 500


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False)
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
class Counter:
    def one(self) -> int:
        return 1


@ray.remote
def five(gate: Gate) -> int:
    gate.wait()
    return 5


def put() -> Any:
    return ray.put(np.ones(SIZE))


def put_in_list() -> list[Any]:
    return [ray.put(np.ones(SIZE)), ray.put("small")]


def yields() -> Iterator[Any]:
    for i in range(3):
        yield np.full(SIZE, i)


def create() -> Any:
    return Counter.remote()


def launch(gate: Gate) -> list[Any]:
    return [five.remote(gate)]


def the_ref(result: Any, _: Gate) -> None:
    assert get(get(result)).sum() == SIZE


def the_refs(result: Any, _: Gate) -> None:
    large, small = get(result)
    assert get(large).sum() == SIZE
    assert get(small) == "small"


def the_items(result: Any, _: Gate) -> None:
    assert [get(ref)[0] for ref in get(result)] == [0, 1, 2]


def the_actor(result: Any, _: Gate) -> None:
    assert get(get(result).one.remote()) == 1


def the_child(result: Any, gate: Gate) -> None:
    (child,) = get(result)
    gate.open()
    assert get(child) == 5


@pytest.mark.parametrize("options", [{"max_calls": 1}, {"num_gpus": 1}], ids=["max_calls", "gpu"])
@pytest.mark.parametrize(
    ("make", "use"),
    [(put, the_ref), (put_in_list, the_refs), (yields, the_items), (create, the_actor), (launch, the_child)],
    ids=["put", "puts", "items", "actor", "child"],
)
def test_what_a_replaced_worker_made_can_be_used(
    options: dict[str, Any], make: Callable[..., Any], use: Callable[[Any, Gate], None], gate: Gate
) -> None:
    if make is yields:
        options = {**options, "num_returns": "dynamic"}
    args = (gate,) if make is launch else ()
    for _ in range(3):  # the first of them may be early enough
        use(ray.remote(**options)(make).remote(*args), gate)


def own() -> tuple[int, list[Any]]:
    """By all CPUs: whoever comes next gets the same worker."""
    return os.getpid(), [ray.put("owned")]


def test_a_strangers_object_outlives_that_its_worker_is_replaced() -> None:
    pid, (ref,) = get(ray.remote(num_cpus=2)(own).remote())
    assert get(ray.remote(max_calls=1)(os.getpid).remote()) == pid
    assert get(ray.remote(max_calls=1)(os.getpid).remote()) != pid
    assert get(ref) == "owned"


@ray.remote(num_cpus=0)
class Leaves:
    def use_a_worker(self) -> tuple[int, int]:
        return os.getpid(), get(ray.remote(os.getpid).remote())

    def leave(self) -> None:
        ray.actor.exit_actor()


def test_a_strangers_object_outlives_an_actor_that_leaves_just_after_it_used_the_worker() -> None:
    pid, (ref,) = get(ray.remote(num_cpus=2)(own).remote())
    actor = Leaves.remote()
    own_pid, used = get(actor.use_a_worker.remote())
    assert used == pid
    with pytest.raises(RayActorError):
        get(actor.leave.remote())
    wait_until(lambda: process_is_gone(own_pid), "the actor to leave")
    get(ray.remote(num_cpus=2)(own).remote())
    assert get(ref) == "owned"


def test_replaced_workers_do_not_pile_up() -> None:
    @ray.remote(max_calls=1)
    def every_other_puts(i: int) -> tuple[int, list[Any]]:
        return os.getpid(), [ray.put(i)] if i % 2 else []

    pids: set[int] = set()
    living: list[int] = []
    for start in range(0, MANY, 20):
        given = get([every_other_puts.remote(i) for i in range(start, start + 20)])
        assert sum(get(ref) for _, refs in given for ref in refs) == 10 * (start + 10)
        pids |= {pid for pid, _ in given}
        living.append(sum(not process_is_gone(pid) for pid in pids))
        del given
    assert len(pids) > MANY // 2, "pids are rarely used again"
    assert max(living) < MANY // 4, living
    wait_until(lambda: all(process_is_gone(pid) for pid in pids), "all of them to end", timeout_s=20)
