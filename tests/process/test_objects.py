"""Objects: what `put` takes and `get` gives, arrays without copies, and room given back."""

from __future__ import annotations

import gc
import os
from typing import Any

import numpy as np
import pytest
from conformance import DEADLINE_S, beamlet_only, get

import beamlet as ray
from beamlet.exceptions import GetTimeoutError, ObjectStoreFullError, WorkerCrashedError

pytestmark = pytest.mark.usefixtures("cluster")

MB = 1_000_000


@pytest.mark.parametrize("value", [None, 0, "text", b"", [1, {"a": (2,)}], {"k": object}], ids=repr)
def test_put_and_get(value: Any) -> None:
    assert get(ray.put(value)) == value


@pytest.mark.parametrize("size", [1, 99_000, 101_000, 5 * MB, 50 * MB])
def test_put_and_get_bytes_of_any_size(size: int) -> None:
    value = b"\x07" * size
    assert get(ray.put(value)) == value


def test_put_of_equal_values_gives_different_refs() -> None:
    assert ray.put(1) != ray.put(1)


def test_put_of_a_ref_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        ray.put(ray.put(1))


def test_put_takes_the_value_as_it_is_now() -> None:
    values = [1]
    ref = ray.put(values)
    values.append(2)
    assert get(ref) == [1]


def test_each_get_of_a_small_object_gives_a_value_of_its_own() -> None:
    ref = ray.put([1, 2])
    get(ref).append(3)
    assert get(ref) == [1, 2]


def test_get_of_a_list_keeps_its_order() -> None:
    refs = [ray.put(i) for i in range(10)]
    assert get(refs[::-1]) == list(range(10))[::-1]


def test_get_of_an_empty_list_is_an_empty_list() -> None:
    assert get([]) == []


def test_get_of_a_list_with_the_same_ref_twice() -> None:
    ref = ray.put(1)
    assert get([ref, ref]) == [1, 1]


@pytest.mark.parametrize("wrong", [(), {}, "ref", 5, None], ids=repr)
def test_get_of_something_else_is_a_value_error(wrong: Any) -> None:
    with pytest.raises(ValueError):
        get(wrong)


def test_get_of_a_tuple_of_refs_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        get((ray.put(1),))


def test_get_of_a_list_with_something_else_in_it_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        get([ray.put(1), 2])


def test_get_times_out(gate: Any) -> None:
    @ray.remote
    def waits() -> None:
        gate.wait()

    with pytest.raises(GetTimeoutError):
        ray.get(waits.remote(), timeout=0.05)


def test_a_get_timeout_is_a_timeout_error(gate: Any) -> None:
    @ray.remote
    def waits() -> None:
        gate.wait()

    with pytest.raises(TimeoutError):
        ray.get([waits.remote()], timeout=0.05)


def test_get_with_timeout_zero_of_a_ready_object_gives_it() -> None:
    ref = ray.put(1)
    assert ray.get(ref, timeout=0) == 1


def test_get_with_timeout_zero_of_a_pending_object_times_out(gate: Any) -> None:
    @ray.remote
    def waits() -> None:
        gate.wait()

    with pytest.raises(GetTimeoutError):
        ray.get(waits.remote(), timeout=0)


def test_get_after_a_timeout_still_works(gate: Any) -> None:
    @ray.remote
    def waits() -> str:
        gate.wait()
        return "late"

    ref = waits.remote()
    with pytest.raises(GetTimeoutError):
        ray.get(ref, timeout=0.05)
    gate.open()
    assert get(ref) == "late"


def test_a_large_array_is_not_copied_by_get() -> None:
    ref = ray.put(np.zeros(MB))
    first, second = get(ref), get(ref)
    assert not first.flags.owndata
    assert (first == second).all()


@beamlet_only
def test_a_large_array_may_be_written_and_the_object_stays_as_it_was() -> None:
    ref = ray.put(np.zeros(MB))
    array = get(ref)
    array[:] = 1
    assert get(ref).sum() == 0


@beamlet_only
def test_a_task_may_write_its_array_argument() -> None:
    @ray.remote
    def fill(array: np.ndarray) -> float:
        array[:] = 1
        return float(array.sum())

    ref = ray.put(np.zeros(MB))
    assert get(fill.remote(ref)) == MB
    assert get(ref).sum() == 0


def test_an_array_outlives_its_ref() -> None:
    ref = ray.put(np.arange(MB))
    array = get(ref)
    del ref
    others = [ray.put(np.full(MB, 7)) for _ in range(5)]
    assert (array == np.arange(MB)).all()
    del others


def test_a_slice_of_an_array_outlives_the_array_and_its_ref() -> None:
    ref = ray.put(np.arange(MB))
    part = get(ref)[500_000:500_010]
    del ref
    others = [ray.put(np.full(MB, 7)) for _ in range(5)]
    assert part.tolist() == list(range(500_000, 500_010))
    del others


def test_arrays_inside_values_arrive() -> None:
    value = {"a": np.ones(MB), "b": [np.zeros(10), "text"], "c": np.arange(MB)}
    returned = get(ray.put(value))
    assert (returned["a"] == 1).all()
    assert (returned["c"] == np.arange(MB)).all()
    assert returned["b"][1] == "text"


def test_a_large_result_of_a_task() -> None:
    @ray.remote
    def make(n: int) -> np.ndarray:
        return np.arange(n)

    assert (get(make.remote(5 * MB)) == np.arange(5 * MB)).all()


def test_several_large_results_of_one_task() -> None:
    @ray.remote(num_returns=3)
    def make() -> list[np.ndarray]:
        return [np.full(MB, i) for i in range(3)]

    assert [int(array[-1]) for array in get(make.remote())] == [0, 1, 2]


def test_one_large_object_is_read_by_many_tasks() -> None:
    @ray.remote
    def total(array: np.ndarray, start: int) -> int:
        return int(array[start : start + 10].sum())

    ref = ray.put(np.ones(MB, dtype=int))
    assert get([total.remote(ref, i) for i in range(20)]) == [10] * 20


def test_get_of_a_thousand_small_objects() -> None:
    assert get([ray.put(i) for i in range(1000)]) == list(range(1000))


def test_an_object_that_holds_many_refs() -> None:
    refs = [ray.put(i) for i in range(500)]
    held = get(ray.put(refs))
    assert get(held) == list(range(500))


def test_put_of_something_that_cannot_be_pickled_is_a_type_error() -> None:
    import threading

    with pytest.raises(TypeError):
        ray.put(threading.Lock())


@pytest.fixture(scope="module")
def small_store(cluster: None) -> None:
    """A cluster with room for 80 MB of objects, in place of the module's."""
    ray.shutdown()
    ray.init(num_cpus=2, object_store_memory=80 * MB, include_dashboard=False)


@pytest.mark.usefixtures("small_store")
class TestStoreOf80MB:
    """These run last: they replace the cluster by one whose store is small."""

    def test_room_is_given_back_when_refs_go(self) -> None:
        for i in range(30):
            assert get(ray.put(np.full(20 * MB // 8, i)))[0] == i

    def test_room_of_task_results_is_given_back(self) -> None:
        @ray.remote
        def make(i: int) -> np.ndarray:
            return np.full(20 * MB // 8, i)

        for i in range(30):
            assert get(make.remote(i))[0] == i

    def test_room_of_task_arguments_is_given_back(self) -> None:
        @ray.remote
        def first(array: np.ndarray) -> int:
            return int(array[0])

        for i in range(30):
            assert get(first.remote(np.full(20 * MB // 8, i))) == i

    def test_room_of_borrowed_objects_is_given_back(self) -> None:
        @ray.remote
        class Keeper:
            def keep(self, box: list[Any]) -> float:
                self.kept = box[0]
                return float(ray.get(self.kept)[0])

        keeper = Keeper.remote()
        for i in range(30):
            assert get(keeper.keep.remote([ray.put(np.full(20 * MB // 8, i))])) == i

    def test_room_of_objects_inside_objects_is_given_back(self) -> None:
        for i in range(30):
            outer = ray.put([ray.put(np.full(20 * MB // 8, i))])
            assert get(get(outer)[0])[0] == i

    def test_room_of_results_nobody_looks_at_is_given_back(self) -> None:
        @ray.remote
        def make(i: int) -> np.ndarray:
            return np.full(20 * MB // 8, i)

        for i in range(30):
            ray.wait([make.remote(i)], timeout=DEADLINE_S)

    def test_room_of_a_crashed_tasks_argument_is_given_back(self) -> None:
        @ray.remote(max_retries=0)
        def crash(array: np.ndarray) -> None:
            os._exit(1)

        for i in range(10):
            with pytest.raises(WorkerCrashedError):
                get(crash.remote(np.full(20 * MB // 8, i)))

    @beamlet_only  # Ray spills instead
    def test_views_that_only_garbage_holds_give_way(self) -> None:
        class Box:
            pass

        gc.disable()
        try:
            for i in range(6):
                box: Any = Box()
                box.itself, box.array = box, get(ray.put(np.full(20 * MB // 8, i)))
                assert get(ray.put(np.full(20 * MB // 8, -i)))[0] == -i
        finally:
            gc.enable()

    @beamlet_only  # Ray 2.60 spills to disk; ours comes with the next issue
    def test_a_full_store_is_an_error_that_says_what_fills_it(self) -> None:
        held = [ray.put(np.zeros(20 * MB // 8)) for _ in range(3)]
        with pytest.raises(ObjectStoreFullError) as caught:
            ray.put(np.zeros(30 * MB // 8))
        assert len(held) == 3
        assert "19.1 MiB" in str(caught.value)
        assert "test_objects.py" in str(caught.value)

    @beamlet_only  # Ray falls back to a file on disk
    def test_an_object_larger_than_the_store_is_an_error(self) -> None:
        with pytest.raises(ObjectStoreFullError):
            ray.put(np.zeros(200 * MB // 8))
        assert get(ray.put(1)) == 1
