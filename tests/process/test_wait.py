"""`wait`: what is ready, in which order, after how long, and which calls are mistakes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from conformance import DEADLINE_S, get
from gates import Gate

import beamlet as ray

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def pending(gate: Gate) -> Any:
    """A ref that is not ready until the gate opens."""

    @ray.remote
    def waits() -> str:
        gate.wait()
        return "opened"

    return waits.remote()


def test_one_ready_ref() -> None:
    ref = ray.put(1)
    assert ray.wait([ref], timeout=DEADLINE_S) == ([ref], [])


def test_a_ref_that_is_not_ready_is_returned_as_such(pending: Any) -> None:
    assert ray.wait([pending], timeout=0.05) == ([], [pending])


def test_timeout_zero_only_looks(pending: Any) -> None:
    ready = ray.put(1)
    assert ray.wait([pending, ready], num_returns=2, timeout=0) == ([ready], [pending])


def test_wait_returns_as_soon_as_enough_are_ready(pending: Any) -> None:
    ready = ray.put(1)
    assert ray.wait([pending, ready], timeout=DEADLINE_S) == ([ready], [pending])


def test_wait_never_returns_more_than_asked_for() -> None:
    refs = [ray.put(i) for i in range(5)]
    ready, rest = ray.wait(refs, num_returns=2, timeout=DEADLINE_S)
    assert len(ready) == 2
    assert ready == [ref for ref in refs if ref in ready]
    assert rest == [ref for ref in refs if ref not in ready]


def test_both_lists_keep_the_order_of_the_call(pending: Any) -> None:
    refs = [ray.put(i) for i in range(4)]
    mixed = [refs[3], pending, refs[0], refs[2], refs[1]]
    ready, rest = ray.wait(mixed, num_returns=4, timeout=DEADLINE_S)
    assert ready == [refs[3], refs[0], refs[2], refs[1]]
    assert rest == [pending]


def test_wait_for_all() -> None:
    @ray.remote
    def f(x: int) -> int:
        return x

    refs = [f.remote(x) for x in range(100)]
    ready, rest = ray.wait(refs, num_returns=100, timeout=DEADLINE_S)
    assert (ready, rest) == (refs, [])


def test_wait_waits_until_the_task_ends(gate: Gate, pending: Any) -> None:
    gate.open()
    assert ray.wait([pending], timeout=DEADLINE_S) == ([pending], [])


def test_the_timeout_is_kept(pending: Any) -> None:
    started = time.monotonic()
    ray.wait([pending], timeout=0.2)
    assert 0.15 <= time.monotonic() - started < 5


def test_a_failed_task_is_ready() -> None:
    @ray.remote
    def fails() -> None:
        raise ValueError

    ref = fails.remote()
    assert ray.wait([ref], timeout=DEADLINE_S) == ([ref], [])


def test_an_empty_list() -> None:
    assert ray.wait([], timeout=0) == ([], [])


def test_taking_results_one_by_one_gives_each_once() -> None:
    @ray.remote
    def f(x: int) -> int:
        return x

    waiting = [f.remote(x) for x in range(50)]
    taken = []
    while waiting:
        (done,), waiting = ray.wait(waiting, timeout=DEADLINE_S)
        taken.append(get(done))
    assert sorted(taken) == list(range(50))


def test_a_thousand_refs() -> None:
    @ray.remote
    def f() -> None:
        pass

    refs = [f.remote() for _ in range(1000)]
    assert len(ray.wait(refs, num_returns=1000, timeout=DEADLINE_S)[0]) == 1000


def test_waiting_again_for_what_is_ready() -> None:
    ref = ray.put(1)
    for _ in range(3):
        assert ray.wait([ref], timeout=DEADLINE_S)[0] == [ref]


def test_fetch_local_false() -> None:
    ref = ray.put(1)
    assert ray.wait([ref], fetch_local=False, timeout=DEADLINE_S)[0] == [ref]


def test_wait_inside_a_task() -> None:
    @ray.remote
    def inner(x: int) -> int:
        return x

    @ray.remote
    def outer() -> int:
        ready, rest = ray.wait([inner.remote(x) for x in range(4)], num_returns=3)
        return len(ready) * 10 + len(rest)

    assert get(outer.remote()) == 31


def test_a_large_result_is_ready() -> None:
    @ray.remote
    def make() -> bytes:
        return b"x" * 5_000_000

    ref = make.remote()
    assert ray.wait([ref], timeout=DEADLINE_S) == ([ref], [])


@pytest.mark.parametrize("wrong", [None, 5, "refs", (1,)], ids=repr)
def test_something_other_than_a_list_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError):
        ray.wait(wrong)


def test_a_single_ref_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        ray.wait(ray.put(1))


def test_a_list_with_something_else_in_it_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        ray.wait([ray.put(1), 2])


def test_the_same_ref_twice_is_a_value_error() -> None:
    ref = ray.put(1)
    with pytest.raises(ValueError):
        ray.wait([ref, ref])


@pytest.mark.parametrize("count", [0, -1, 3])
def test_a_count_outside_the_list_is_a_value_error(count: int) -> None:
    with pytest.raises(ValueError):
        ray.wait([ray.put(1), ray.put(2)], num_returns=count)


def test_a_negative_timeout_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        ray.wait([ray.put(1)], timeout=-1)
