"""beamlet.util on a running cluster: the pool, the queue, results as they come, names, and the test tools."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conformance import beamlet_only, get, wait_until

import beamlet as ray
from beamlet.exceptions import ActorDiedError
from beamlet.util import ActorPool, as_completed, inspect_serializability, list_named_actors, map_unordered
from beamlet.util.queue import Empty, Full, Queue

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote(num_cpus=0)
class Worker:
    def double(self, value: int) -> int:
        return 2 * value

    def wait_at(self, gate: Any, value: int) -> int:
        gate.wait()
        return value

    def fail(self, value: int) -> None:
        raise ValueError(value)


def double(actor: Any, value: int) -> Any:
    return actor.double.remote(value)


@pytest.fixture
def pool() -> ActorPool[int]:
    return ActorPool([Worker.remote(), Worker.remote()])


# -- ActorPool -----------------------------------------------------------------------------------


def test_map_keeps_the_order(pool: ActorPool[int]) -> None:
    assert list(pool.map(double, range(10))) == [2 * i for i in range(10)]


def test_map_unordered_gives_all(pool: ActorPool[int]) -> None:
    assert sorted(pool.map_unordered(double, range(10))) == [2 * i for i in range(10)]


def test_unordered_gives_first_what_is_there_first(pool: ActorPool[int], gate: Any) -> None:
    pool.submit(lambda actor, value: actor.wait_at.remote(gate, value), 1)
    pool.submit(double, 2)
    assert pool.get_next_unordered(timeout=20) == 4
    gate.open()
    assert pool.get_next_unordered(timeout=20) == 1


def test_a_pool_with_nothing_pending(pool: ActorPool[int]) -> None:
    assert not pool.has_next()
    for ask in (pool.get_next, pool.get_next_unordered):
        with pytest.raises(StopIteration):
            ask()


def test_a_timeout_leaves_the_result_to_be_had(pool: ActorPool[int], gate: Any) -> None:
    pool.submit(lambda actor, value: actor.wait_at.remote(gate, value), 7)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.01)
    gate.open()
    assert pool.get_next(timeout=20) == 7


def test_a_timeout_that_is_ignored_drops_the_submission(pool: ActorPool[int], gate: Any) -> None:
    pool.submit(lambda actor, value: actor.wait_at.remote(gate, value), 7)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.01, ignore_if_timedout=True)
    gate.open()
    assert not pool.has_next()


def test_get_next_after_unordered_overtook_is_a_value_error(pool: ActorPool[int], gate: Any) -> None:
    pool.submit(lambda actor, value: actor.wait_at.remote(gate, value), 1)
    pool.submit(double, 2)
    assert pool.get_next_unordered(timeout=20) == 4
    with pytest.raises(ValueError, match="get_next"):
        pool.get_next()
    gate.open()


@beamlet_only
def test_a_pool_takes_methods_with_several_results_and_refuses_what_is_no_call() -> None:
    @ray.remote
    class Splitter:
        @ray.method(num_returns=2)
        def split(self, value: int) -> tuple[int, int]:
            return divmod(value, 10)

    pool = ActorPool([Splitter.remote()])
    assert list(pool.map(lambda a, v: a.split.remote(v), [12, 34])) == [[1, 2], [3, 4]]
    assert sorted(pool.map_unordered(lambda a, v: a.split.remote(v), [12, 34])) == [[1, 2], [3, 4]]
    for wrong in (5, None, [], [5]):
        with pytest.raises(TypeError, match=r"must return the reference that actor\.method\.remote"):
            pool.submit(lambda _, __, wrong=wrong: wrong, 1)
    assert not pool.has_next()
    assert pool.pop_idle() is not None, "it was asked for nothing"
    pool.submit(lambda a, v: a.split.remote(v), 1)
    with pytest.raises(RuntimeError, match="1 submission is waiting, and the pool has no living actor"):
        pool.get_next()


def test_an_error_comes_out_and_the_actor_stays(pool: ActorPool[int]) -> None:
    pool.submit(lambda actor, value: actor.fail.remote(value), 1)
    with pytest.raises(ValueError, match="1"):
        pool.get_next(timeout=20)
    assert list(pool.map(double, [1, 2, 3])) == [2, 4, 6]


@beamlet_only
def test_a_submission_that_raises_costs_no_actor(pool: ActorPool[int]) -> None:
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda actor, value: 1 // 0, 1)
    assert pool.has_free()
    assert list(pool.map(lambda actor, value: actor.double.remote(value), [1, 2])) == [2, 4]


def test_idle_actors_are_taken_and_given(pool: ActorPool[int]) -> None:
    taken = pool.pop_idle()
    assert taken is not None
    pool.push(taken)
    with pytest.raises(ValueError, match="already"):
        pool.push(taken)
    pool.pop_idle()
    pool.pop_idle()
    assert pool.pop_idle() is None
    assert not pool.has_free()


def test_more_values_than_actors_wait_for_one(pool: ActorPool[int], gate: Any) -> None:
    for value in range(4):
        pool.submit(lambda actor, value: actor.wait_at.remote(gate, value), value)
    assert not pool.has_free()
    gate.open()
    assert [pool.get_next(timeout=20) for _ in range(4)] == [0, 1, 2, 3]


def test_a_dead_actor_leaves_the_pool() -> None:
    dying, living = Worker.remote(), Worker.remote()
    get(dying.double.remote(1))
    ray.kill(dying)
    pool = ActorPool([living, dying])
    pool.submit(double, 1)
    with pytest.raises(ray.exceptions.ActorDiedError):
        pool.get_next(timeout=20)
    assert list(pool.map(double, [1, 2])) == [2, 4]


@beamlet_only
def test_a_pool_of_the_dead_says_so() -> None:
    dying = Worker.remote()
    get(dying.double.remote(1))
    ray.kill(dying)
    pool = ActorPool([dying])
    pool.submit(double, 1)
    pool.submit(double, 2)
    with pytest.raises(ray.exceptions.ActorDiedError):
        pool.get_next(timeout=20)
    with pytest.raises(RuntimeError, match="1 submission is waiting, and the pool has no living actor"):
        pool.get_next(timeout=20)


# -- Queue ---------------------------------------------------------------------------------------


@pytest.fixture
def queue() -> Iterator[Queue]:
    made = Queue(maxsize=2)
    yield made
    made.shutdown(force=True)


def test_first_in_first_out(queue: Queue) -> None:
    queue.put("a")
    queue.put("b")
    assert queue.full()
    assert (queue.get(), queue.get()) == ("a", "b")
    assert queue.empty()


def test_full_and_empty_are_those_of_the_standard_library(queue: Queue) -> None:
    import queue as standard

    with pytest.raises(standard.Empty):
        queue.get_nowait()
    with pytest.raises(Empty):
        queue.get(timeout=0.01)
    queue.put_nowait_batch([1, 2])
    with pytest.raises(standard.Full):
        queue.put_nowait(3)
    with pytest.raises(Full):
        queue.put(3, timeout=0.01)
    assert queue.qsize() == len(queue) == 2


@beamlet_only
def test_after_shutdown_a_queue_says_that_it_is_over_and_where(queue: Queue) -> None:
    elsewhere: Queue = get(ray.put(queue))
    queue.shutdown(force=True)
    uses: list[Any] = [
        lambda: queue.put(1), lambda: queue.get_nowait(), lambda: len(queue), lambda: queue.empty(),
        lambda: queue.get_nowait_batch(1), lambda: asyncio.run(queue.put_async(1)),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(ActorDiedError, match=r"this Queue was shut down at test_util\.py:\d+"):
            use()
    with pytest.raises(ActorDiedError, match=r"_QueueActor .*created at test_util\.py:\d+"):
        elsewhere.put(1)
    elsewhere.shutdown()


def test_a_batch_goes_whole_or_not_at_all(queue: Queue) -> None:
    queue.put(1)
    with pytest.raises(Full):
        queue.put_nowait_batch([2, 3])
    with pytest.raises(Empty):
        queue.get_nowait_batch(2)
    assert queue.get_nowait_batch(1) == [1]


def test_wrong_arguments(queue: Queue) -> None:
    with pytest.raises(ValueError, match="negative"):
        queue.get(timeout=-1)
    with pytest.raises(ValueError, match="negative"):
        queue.put(1, timeout=-1)
    with pytest.raises(TypeError):
        queue.put_nowait_batch(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        queue.get_nowait_batch("2")  # type: ignore[arg-type]
    assert queue.empty()


def test_a_waiting_consumer_gets_what_comes(queue: Queue) -> None:
    got: list[Any] = []
    consumer = threading.Thread(target=lambda: got.append(queue.get(timeout=20)))
    consumer.start()
    queue.put("late")
    consumer.join(20)
    assert got == ["late"]


def test_tasks_share_it(queue: Queue) -> None:
    @ray.remote(num_cpus=0)
    def produce(queue: Queue, count: int) -> None:
        for i in range(count):
            queue.put(i)

    done = produce.remote(queue, 10)
    assert [queue.get(timeout=20) for _ in range(10)] == list(range(10))
    get(done)


def test_coroutines_use_it(queue: Queue) -> None:
    async def both() -> Any:
        await queue.put_async(1)
        return await queue.get_async(timeout=20)

    assert asyncio.run(both()) == 1


def test_no_item_is_lost_when_waits_time_out(queue: Queue) -> None:
    with pytest.raises(Empty):
        queue.get(timeout=0.001)
    queue.put("kept")
    assert queue.get(timeout=20) == "kept"


@pytest.mark.parametrize("force", [False, True])
def test_shutdown_ends_the_actor(force: bool) -> None:
    queue = Queue()
    queue.put(1)
    actor = queue.actor
    queue.shutdown(force=force)

    def is_dead() -> bool:
        try:
            get(actor.qsize.remote())
        except ray.exceptions.RayActorError:
            return True
        return False

    wait_until(is_dead, "the queue's actor to be dead")


@beamlet_only
def test_many_blocked_consumers_do_not_keep_producers_out() -> None:
    queue = Queue()
    consumers = [queue.actor.get.remote(None) for _ in range(1200)]
    for i in range(1200):
        queue.actor.put_nowait.remote(i)
    assert sorted(get(consumers)) == list(range(1200))
    queue.shutdown(force=True)


# -- as they come --------------------------------------------------------------------------------


@ray.remote(num_cpus=0)
def echo(value: int) -> int:
    return value


def test_as_completed_gives_first_what_is_there_first(gate: Any) -> None:
    @ray.remote(num_cpus=0)
    def late(gate: Any) -> str:
        gate.wait()
        return "late"

    results = as_completed([late.remote(gate), echo.remote(1)], chunk_size=1)
    assert next(results) == 1
    gate.open()
    assert list(results) == ["late"]


@beamlet_only
def test_as_completed_waits_for_no_full_chunk(gate: Any) -> None:
    @ray.remote(num_cpus=0)
    def late(gate: Any) -> str:
        gate.wait()
        return "late"

    results = as_completed([late.remote(gate), echo.remote(1)], chunk_size=10)
    assert next(results) == 1
    gate.open()
    assert list(results) == ["late"]


def test_as_completed_of_references() -> None:
    refs = [echo.remote(i) for i in range(25)]
    assert set(as_completed(refs, yield_obj_refs=True)) == set(refs)
    assert sorted(as_completed(refs)) == list(range(25))
    assert list(as_completed([])) == []


def test_as_completed_refuses() -> None:
    with pytest.raises(ValueError, match="chunk_size"):
        list(as_completed([], chunk_size=0))
    with pytest.raises(ValueError, match="num_returns"):
        list(as_completed([], num_returns=2))


def test_map_unordered() -> None:
    assert sorted(map_unordered(echo, range(50), backpressure_size=10)) == list(range(50))


def test_map_unordered_takes_no_more_than_it_may(gate: Any) -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        value = 0
        while True:
            taken.append(value)
            yield value
            value += 1

    results = map_unordered(echo, endless(), backpressure_size=10)
    first = [next(results) for _ in range(100)]
    assert len(set(first)) == 100
    assert len(taken) <= 100 + 10


# -- the rest ------------------------------------------------------------------------------------


def test_names_of_actors() -> None:
    actor = Worker.options(name="in-the-list").remote()
    other = Worker.options(name="elsewhere", namespace="other").remote()
    get([actor.double.remote(1), other.double.remote(1)])
    assert "in-the-list" in list_named_actors()
    assert "elsewhere" not in list_named_actors()
    assert {"name": "elsewhere", "namespace": "other"} in list_named_actors(all_namespaces=True)


def test_what_will_travel_and_what_not() -> None:
    assert inspect_serializability([1], name="numbers", print_file=io.StringIO()) == (True, set())
    lock = threading.Lock()

    def closes_over() -> Any:
        return lock

    said = io.StringIO()
    fits, failures = inspect_serializability(closes_over, name="closes_over", print_file=said)
    assert not fits
    assert any(failure.obj is lock for failure in failures)
    assert "lock" in said.getvalue()


class Celsius:
    """Pickled its own way, below."""

    def __init__(self, degrees: float) -> None:
        self.degrees = degrees


def test_a_serializer_of_ones_own() -> None:
    ray.util.register_serializer(
        Celsius, serializer=lambda c: c.degrees + 1, deserializer=lambda degrees: Celsius(degrees)
    )
    try:
        assert get(ray.put(Celsius(1.0))).degrees == 2.0
    finally:
        ray.util.deregister_serializer(Celsius)
    assert get(ray.put(Celsius(1.0))).degrees == 1.0


@beamlet_only
def test_node_affinity() -> None:
    from beamlet.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    task = echo.options(scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False))
    assert get(task.remote(3)) == 3
    with pytest.raises(ValueError, match="not a node id"):
        NodeAffinitySchedulingStrategy("nonsense", soft=False)


@beamlet_only
def test_placement_groups_say_that_they_are_to_come() -> None:
    with pytest.raises(NotImplementedError, match="placement groups come with clusters"):
        ray.util.placement_group([{"CPU": 1}])
    assert ray.util.placement_group_table() == {}
    assert ray.util.get_current_placement_group() is None


@beamlet_only
def test_free_explains() -> None:
    ref = ray.put(1)
    with pytest.warns(DeprecationWarning, match="nothing refers to it"):
        ray.internal.free([ref])
    assert get(ref) == 1


@beamlet_only
def test_the_key_value_table() -> None:
    from beamlet.experimental.internal_kv import (
        _internal_kv_del,
        _internal_kv_exists,
        _internal_kv_get,
        _internal_kv_initialized,
        _internal_kv_list,
        _internal_kv_put,
    )

    assert _internal_kv_initialized()
    assert _internal_kv_put("k1", "v", namespace="t") is False
    assert _internal_kv_put("k1", "w", overwrite=False, namespace="t") is True
    assert _internal_kv_get("k1", namespace="t") == b"v"
    assert _internal_kv_put("k1", "w", namespace="t") is True
    assert _internal_kv_get("k1", namespace="t") == b"w"
    _internal_kv_put("k2", "x", namespace="t")
    assert sorted(_internal_kv_list("k", namespace="t")) == [b"k1", b"k2"]
    assert _internal_kv_get("k1", namespace="u") is None
    assert _internal_kv_del("k", del_by_prefix=True, namespace="t") == 2
    assert not _internal_kv_exists("k1", namespace="t")


@beamlet_only
def test_a_value_too_large_for_the_key_value_table_is_an_error_that_costs_nothing() -> None:
    """The driver was cut off, and the cluster that it had started ended."""
    from beamlet.experimental.internal_kv import _internal_kv_get, _internal_kv_put

    with pytest.raises(ValueError, match=r"key='large'\): the value has 96.0 MiB; 95 MiB are allowed"):
        _internal_kv_put("large", bytes(96 << 20))
    assert _internal_kv_get("large") is None


@beamlet_only
def test_threads_that_read_and_write_a_large_value_at_once_are_served_in_turn() -> None:
    """Four answers of 95 MiB were more than may lie unread: the driver was cut off, and its cluster ended."""
    from beamlet.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

    value = bytes(95 << 20)
    assert _internal_kv_put("large", value) is False
    try:
        with ThreadPoolExecutor(4) as pool:
            lengths = list(pool.map(lambda _: len(_internal_kv_get("large") or b""), range(4)))
            assert lengths == [95 << 20] * 4
            assert list(pool.map(lambda _: _internal_kv_put("large", value), range(3))) == [True] * 3
        assert ray.cluster_resources()["CPU"]
    finally:
        _internal_kv_del("large")


# -- tools for tests -----------------------------------------------------------------------------


@beamlet_only
def test_a_signal_between_tasks() -> None:
    from beamlet._private.test_utils import SignalActor

    @ray.remote(num_cpus=0)
    def waits(signal: Any) -> str:
        ray.get(signal.wait.remote())
        return "through"

    signal = SignalActor.remote()
    ref = waits.remote(signal)
    wait_until(lambda: get(signal.cur_num_waiters.remote()) == 1, "the task to wait at the signal")
    get(signal.send.remote())
    assert get(ref) == "through"


@beamlet_only
def test_a_semaphore_between_tasks() -> None:
    from beamlet._private.test_utils import Semaphore

    semaphore = Semaphore.remote(value=1)
    get(semaphore.acquire.remote())
    second = semaphore.acquire.remote()
    assert ray.wait([second], timeout=0.05)[0] == []
    get(semaphore.release.remote())
    get(second)


@beamlet_only
def test_waiting_for_a_condition() -> None:
    from beamlet._private.test_utils import wait_for_condition

    started = time.monotonic()
    wait_for_condition(lambda: time.monotonic() - started > 0.02, timeout=20, retry_interval_ms=1)
    with pytest.raises(RuntimeError):
        wait_for_condition(lambda: False, timeout=0.01, retry_interval_ms=1)


@beamlet_only
@pytest.mark.parametrize("module", ["actor_pool", "check_serialize", "completion", "debug", "queue"])
def test_the_examples_in_the_docs(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(f"beamlet.util.{module}"))
    assert tried
    assert not failed
