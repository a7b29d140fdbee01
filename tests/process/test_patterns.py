"""Patterns and anti-patterns of programs written for Ray: each small program must simply work.

The list follows the topics of Ray's public Core documentation; the programs are ours.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance import DEADLINE_S, get, process_is_gone, wait_until
from gates import Gate

import beamlet as ray

pytestmark = pytest.mark.usefixtures("cluster")


# --- patterns ------------------------------------------------------------------------------------


def test_nested_tasks_for_nested_parallelism() -> None:
    def quicksort(values: list[int]) -> list[int]:
        if len(values) < 50:
            return sorted(values)
        pivot = values[0]
        smaller = quicksort_remote.remote([v for v in values[1:] if v < pivot])
        larger = quicksort_remote.remote([v for v in values[1:] if v >= pivot])
        return [*ray.get(smaller), pivot, *ray.get(larger)]

    quicksort_remote = ray.remote(quicksort)
    values = np.random.default_rng(0).integers(0, 10_000, 600).tolist()
    assert get(quicksort_remote.remote(values)) == sorted(values)


def test_a_generator_made_into_parts_by_num_returns() -> None:
    @ray.remote(num_returns=4)
    def blocks() -> Iterator[np.ndarray]:
        for i in range(4):
            yield np.full(200_000, i)

    assert [int(block[0]) for block in get(blocks.remote())] == [0, 1, 2, 3]


def test_wait_limits_pending_tasks() -> None:
    @ray.remote
    def work(i: int) -> int:
        return i

    pending: list[Any] = []
    results: list[int] = []
    for i in range(100):
        if len(pending) >= 10:
            done, pending = ray.wait(pending, num_returns=1, timeout=DEADLINE_S)
            results += get(done)
        assert len(pending) < 10
        pending.append(work.remote(i))
    assert sorted(results + get(pending)) == list(range(100))


def test_resources_limit_running_tasks(tmp_path: Path) -> None:
    @ray.remote(num_cpus=0, resources={"widget": 2})
    def alone(folder: str) -> bool:
        path = Path(folder) / "busy"
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            return False
        time.sleep(0.01)  # the work
        path.unlink()
        return True

    assert all(get([alone.remote(str(tmp_path)) for _ in range(10)]))


def test_an_actor_synchronises_tasks() -> None:
    @ray.remote(num_cpus=0)
    class Barrier:
        def __init__(self, parties: int) -> None:
            self.parties, self.event = parties, asyncio.Event()

        async def arrive(self) -> None:
            self.parties -= 1
            if self.parties == 0:
                self.event.set()
            await self.event.wait()

    @ray.remote(num_cpus=0.25)
    def meet(barrier: Any, i: int) -> int:
        ray.get(barrier.arrive.remote())
        return i

    barrier = Barrier.remote(4)
    assert get([meet.remote(barrier, i) for i in range(4)]) == [0, 1, 2, 3]


def test_a_supervisor_with_a_tree_of_actors() -> None:
    @ray.remote
    class Worker:
        def __init__(self, number: int) -> None:
            self.number = number

        def work(self, x: int) -> int:
            return self.number * x

        def pid(self) -> int:
            return os.getpid()

    @ray.remote
    class Supervisor:
        def __init__(self) -> None:
            self.workers = [Worker.remote(i) for i in range(1, 4)]

        def work(self, x: int) -> list[int]:
            return ray.get([worker.work.remote(x) for worker in self.workers])

        def pids(self) -> list[int]:
            return ray.get([worker.pid.remote() for worker in self.workers])

    supervisors = [Supervisor.remote(), Supervisor.remote()]
    assert get([s.work.remote(10) for s in supervisors]) == [[10, 20, 30]] * 2
    pids = get(supervisors[0].pids.remote())
    ray.kill(supervisors[0])
    wait_until(lambda: all(map(process_is_gone, pids)), "the workers of a killed supervisor to end")
    assert get(supervisors[1].work.remote(1)) == [1, 2, 3]


def test_pipelining_with_a_slow_queue_and_an_overlapping_fetch() -> None:
    @ray.remote(num_cpus=0)
    class Queue:
        def __init__(self, items: int) -> None:
            self.items = list(range(items))

        def next(self) -> int | None:
            return self.items.pop(0) if self.items else None

    @ray.remote(num_cpus=0)
    class Consumer:
        def __init__(self, queue: Any) -> None:
            self.queue = queue

        def run(self) -> list[int]:
            taken = []
            coming = self.queue.next.remote()
            while (item := ray.get(coming)) is not None:
                coming = self.queue.next.remote()  # fetched while this one is worked on
                taken.append(item)
            return taken

    queue = Queue.remote(30)
    consumers = [Consumer.remote(queue) for _ in range(2)]
    assert sorted(itertools.chain(*get([c.run.remote() for c in consumers]))) == list(range(30))


def test_concurrent_operations_with_an_async_actor() -> None:
    @ray.remote
    def slow(x: int) -> int:
        return x

    @ray.remote(num_cpus=0)
    class Fetcher:
        def __init__(self) -> None:
            self.running = True
            self.seen = 0

        async def run(self) -> None:
            while self.running:
                self.seen += await slow.remote(1)

        async def stop(self) -> int:
            self.running = False
            return self.seen

        async def progress(self) -> int:
            return self.seen

    fetcher = Fetcher.remote()
    running = fetcher.run.remote()
    wait_until(
        lambda: get(fetcher.progress.remote()) > 3, "the loop to go round while other calls are answered"
    )
    assert get(fetcher.stop.remote()) > 3
    get(running)


def test_overriding_methods_of_an_undecorated_class() -> None:
    class Base:
        def name(self) -> str:
            return "base"

    class Child(Base):
        def name(self) -> str:
            return "child"

    actors = [ray.remote(kind).remote() for kind in (Base, Child)]
    assert get([actor.name.remote() for actor in actors]) == ["base", "child"]


def test_a_pool_of_actors() -> None:
    from beamlet.util import ActorPool

    @ray.remote
    class Doubler:
        def double(self, x: int) -> int:
            return 2 * x

    pool = ActorPool([Doubler.remote() for _ in range(2)])
    assert list(pool.map(lambda actor, x: actor.double.remote(x), range(10))) == [2 * x for x in range(10)]
    assert sorted(pool.map_unordered(lambda actor, x: actor.double.remote(x), range(10))) == [
        2 * x for x in range(10)
    ]


def test_fault_tolerant_work_on_actors_that_die(tmp_path: Path) -> None:
    @ray.remote
    class Fragile:
        def work(self, i: int) -> int:
            marker = tmp_path / f"died-{i}"
            if i % 5 == 0 and not marker.exists():
                marker.touch()
                os._exit(1)
            return i

    worker = Fragile.remote()
    results = []
    for i in range(10):
        while True:
            try:
                results.append(get(worker.work.remote(i)))
                break
            except ray.exceptions.RayActorError:
                worker = Fragile.remote()
    assert results == list(range(10))


def test_checkpointed_actor_state_survives_a_restart(tmp_path: Path) -> None:
    @ray.remote(max_restarts=-1, max_task_retries=-1)
    class Saves:
        def __init__(self, path: str) -> None:
            self.path = Path(path)
            self.n = int(self.path.read_text()) if self.path.exists() else 0

        def add(self) -> int:
            self.n += 1
            self.path.write_text(str(self.n))
            return self.n

        def crash(self, marker: str) -> str:
            if not os.path.exists(marker):
                Path(marker).touch()
                os._exit(1)
            return "back"

    saves = Saves.remote(str(tmp_path / "state"))
    assert get([saves.add.remote() for _ in range(3)]) == [1, 2, 3]
    assert get(saves.crash.remote(str(tmp_path / "crashed"))) == "back"
    assert get(saves.add.remote()) == 4


def test_dynamic_remote_parameters() -> None:
    @ray.remote
    def cpus() -> float:
        return ray.get_runtime_context().get_assigned_resources().get("CPU", 0)

    assert get([cpus.options(num_cpus=n).remote() for n in (0.5, 1, 2)]) == [0.5, 1, 2]


def test_futures_of_futures() -> None:
    @ray.remote
    def leaf(i: int) -> int:
        return i * i

    @ray.remote
    def start(n: int) -> list[Any]:
        return [leaf.remote(i) for i in range(n)]

    @ray.remote
    def start_all(n: int) -> list[Any]:
        return [start.remote(i) for i in range(n)]

    assert get([ref for inner in get(get(start_all.remote(4))) for ref in inner]) == [0, 0, 1, 0, 1, 4]


# --- anti-patterns: slow or surprising, never wrong ----------------------------------------------


def test_get_in_a_loop_is_slow_but_right() -> None:
    @ray.remote
    def f(i: int) -> int:
        return i

    assert [get(f.remote(i)) for i in range(10)] == list(range(10))


def test_results_taken_in_submission_order_do_not_block_the_others(gate: Gate) -> None:
    @ray.remote
    def slow() -> str:
        gate.wait()
        return "slow"

    first, second = slow.remote(), ray.remote(lambda: "quick").remote()
    done, _ = ray.wait([first, second], timeout=DEADLINE_S)
    assert get(done) == ["quick"]
    gate.open()
    assert get(first) == "slow"


def test_tasks_that_are_too_small() -> None:
    @ray.remote
    def increment(x: int) -> int:
        return x + 1

    assert sum(get([increment.remote(i) for i in range(2000)])) == 2000 * 2001 // 2


def test_a_large_closure_is_carried_along() -> None:
    large = np.ones(500_000)

    @ray.remote
    def total() -> float:
        return float(large.sum())

    assert get([total.remote() for _ in range(3)]) == [500_000.0] * 3


def test_the_same_large_argument_by_value_again_and_again() -> None:
    large = np.ones(500_000)

    @ray.remote
    def total(array: np.ndarray) -> float:
        return float(array.sum())

    assert get([total.remote(large) for _ in range(20)]) == [500_000.0] * 20


def test_a_large_object_put_once_and_passed_by_reference() -> None:
    @ray.remote
    def total(array: np.ndarray) -> float:
        return float(array.sum())

    ref = ray.put(np.ones(500_000))
    assert get([total.remote(ref) for _ in range(20)]) == [500_000.0] * 20


def test_redefining_a_remote_function_in_a_loop() -> None:
    results = []
    for i in range(10):

        @ray.remote
        def f(x: int = i) -> int:
            return x

        results.append(f.remote())
    assert get(results) == list(range(10))


def test_a_module_global_changed_in_a_task_is_not_shared() -> None:
    state = {"value": 0}

    @ray.remote
    def change() -> int:
        state["value"] += 1
        return state["value"]

    assert get(change.remote()) >= 1
    assert state["value"] == 0


def test_a_global_kept_in_an_actor_is_shared() -> None:
    @ray.remote
    class Global:
        def __init__(self) -> None:
            self.value = 3

        def set(self, value: int) -> None:
            self.value = value

        def read(self) -> int:
            return self.value

    @ray.remote
    def read(holder: Any) -> int:
        return ray.get(holder.read.remote())

    holder = Global.remote()
    get(holder.set.remote(4))
    assert get([read.remote(holder) for _ in range(3)]) == [4] * 3


def test_put_in_a_task_and_returned_as_ref() -> None:
    @ray.remote
    def make() -> Any:
        return ray.put(np.ones(500_000))

    assert get(get(make.remote())).sum() == 500_000


def test_processes_forked_by_a_task() -> None:
    @ray.remote
    def forks() -> str:
        import subprocess

        return subprocess.run(["echo", "child"], capture_output=True, text=True, check=True).stdout.strip()

    assert get(forks.remote()) == "child"


def test_out_of_band_refs_by_cloudpickle() -> None:
    from beamlet import cloudpickle

    ref = ray.put("out of band")
    assert get(cloudpickle.loads(cloudpickle.dumps(ref))) == "out of band"


def test_getting_too_many_objects_at_once_in_batches() -> None:
    @ray.remote
    def make(i: int) -> np.ndarray:
        return np.full(100_000, i)

    refs = [make.remote(i) for i in range(30)]
    total = 0
    for start in range(0, 30, 10):
        total += sum(int(array[0]) for array in get(refs[start : start + 10]))
    assert total == sum(range(30))
