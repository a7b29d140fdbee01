"""References in other hands: as long as anyone can reach an object it is there, whoever made it."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import time
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from conformance import get, process_is_gone, wait_until
from gates import Gate

import beamlet as ray
from beamlet.exceptions import OwnerDiedError

pytestmark = pytest.mark.usefixtures("cluster")

LARGE = 1_000_000


@ray.remote
class Keeper:
    """Keeps what it is given: a borrower that outlives the call."""

    def __init__(self) -> None:
        self.kept: Any = None

    def keep(self, box: list[Any]) -> None:
        self.kept = box[0]

    def read(self) -> Any:
        return ray.get(self.kept)

    def give(self) -> list[Any]:
        return [self.kept]

    def drop(self) -> None:
        self.kept = None


@pytest.fixture(params=["small", "large"])
def value(request: pytest.FixtureRequest) -> Any:
    """Small values live with their owner, large ones in shared memory: borrowing must not care."""
    return "small" if request.param == "small" else np.arange(LARGE)


def same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b))


def test_an_actor_keeps_an_object_after_the_driver_lets_go(value: Any) -> None:
    keeper = Keeper.remote()
    ref = ray.put(value)
    get(keeper.keep.remote([ref]))
    del ref
    gc.collect()
    fill = [ray.put(np.zeros(LARGE)) for _ in range(4)]
    assert same(get(keeper.read.remote()), value)
    del fill


def test_an_actor_keeps_a_task_result_that_was_not_ready_when_it_got_it(value: Any, gate: Gate) -> None:
    @ray.remote
    def make() -> Any:
        gate.wait()
        return value

    keeper = Keeper.remote()
    ref = make.remote()
    get(keeper.keep.remote([ref]))
    del ref
    gc.collect()
    reading = keeper.read.remote()
    gate.open()
    assert same(get(reading), value)


def test_a_ref_goes_from_actor_to_actor(value: Any) -> None:
    first, second = Keeper.remote(), Keeper.remote()
    ref = ray.put(value)
    get(first.keep.remote([ref]))
    del ref
    get(second.keep.remote(get(first.give.remote())))
    get(first.drop.remote())
    gc.collect()
    assert same(get(second.read.remote()), value)


def test_a_ref_comes_back_to_its_owner(value: Any) -> None:
    keeper = Keeper.remote()
    ref = ray.put(value)
    get(keeper.keep.remote([ref]))
    del ref
    gc.collect()
    (back,) = get(keeper.give.remote())
    get(keeper.drop.remote())
    assert same(get(back), value)


def test_an_object_that_a_task_put_lives_while_the_driver_holds_it(value: Any) -> None:
    @ray.remote
    class Maker:
        def make(self) -> list[Any]:
            return [ray.put(value)]

    maker = Maker.remote()
    (ref,) = get(maker.make.remote())
    assert same(get(ref), value)


def test_an_object_inside_an_object_lives_while_the_outer_does(value: Any) -> None:
    inner = ray.put(value)
    outer = ray.put([inner])
    del inner
    gc.collect()
    assert same(get(get(outer)[0]), value)


def test_an_object_three_levels_down(value: Any) -> None:
    ref = ray.put(value)
    for _ in range(3):
        ref = ray.put([ref])
    gc.collect()
    for _ in range(3):
        (ref,) = get(ref)
    assert same(get(ref), value)


def test_a_task_passes_a_nested_ref_on(value: Any) -> None:
    @ray.remote
    def read(box: list[Any]) -> Any:
        return ray.get(box[0])

    @ray.remote
    def pass_on(box: list[Any]) -> Any:
        return ray.get(read.remote(box))

    assert same(get(pass_on.remote([ray.put(value)])), value)


def test_a_task_returns_a_ref_it_was_given(value: Any) -> None:
    @ray.remote
    def give_back(box: list[Any]) -> list[Any]:
        return box

    (ref,) = get(give_back.remote([ray.put(value)]))
    gc.collect()
    assert same(get(ref), value)


def test_an_argument_lives_until_its_task_has_run(value: Any, gate: Gate) -> None:
    @ray.remote
    def read_later(x: Any, box: list[Any]) -> tuple[Any, Any]:
        gate.wait()
        return x, ray.get(box[0])

    ref = read_later.remote(ray.put(value), [ray.put(value)])
    gc.collect()
    gate.open()
    direct, nested = get(ref)
    assert same(direct, value)
    assert same(nested, value)


def test_dropping_the_result_of_a_running_task_does_no_harm(gate: Gate) -> None:
    @ray.remote
    def make() -> np.ndarray:
        gate.wait()
        return np.zeros(LARGE)

    ref = make.remote()
    del ref
    gate.open()
    assert get(ray.put(1)) == 1


def test_a_chain_of_results_nobody_holds_in_between(value: Any) -> None:
    @ray.remote
    def wrap(x: Any) -> Any:
        return x

    ref = ray.put(value)
    for _ in range(10):
        ref = wrap.remote(ref)
    assert same(get(ref), value)


class Holding(Exception):
    """An error with references in it: as ``ref``, and anywhere else."""

    def __init__(self, ref: Any) -> None:
        super().__init__("holding")
        self.ref = ref


def caught(ref: Any) -> Holding:
    with pytest.raises(Holding) as raised:
        get(ref)
    return raised.value.cause  # type: ignore[attr-defined,no-any-return]


@ray.remote
class Failing:
    """Raises errors with references in them; ``touch`` makes it count down what it has dropped."""

    def fail_with(self, box: list[Any]) -> None:
        raise Holding(box[0])

    def fail_with_own(self, value: Any) -> None:
        raise Holding(ray.put(value))

    def generate(self, value: Any) -> Any:
        yield 1
        raise Holding(ray.put(value))

    def touch(self, box: list[Any]) -> None:
        gc.collect()


def let_go(failing: Any) -> None:
    """Until ``failing`` has dropped what its last call left, and the driver knows."""
    gc.collect()
    get(failing.touch.remote([ray.put(0)]))
    get(failing.touch.remote([ray.put(0)]))


@ray.remote
def idle(_: Any = None) -> None: ...


def test_an_error_that_nobody_asked_for_lets_go_of_its_references_once(
    value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing.remote()
    ref = ray.put(value)
    failed = failing.fail_with.remote([ref])
    ray.wait([failed])
    del failed
    wait_until(lambda: "nobody asked" in caplog.text, "the error to be told")
    caplog.clear()  # its records would keep the error
    let_go(failing)
    assert same(get(ref), value)


class NeverBegun:
    def __init__(self, box: list[Any]) -> None:
        raise Holding(box[0])

    def call(self) -> None: ...


class Texts(logging.Handler):
    """What was logged, as text: pytest's handlers would keep the error."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.seen += record.getMessage()


def test_a_failed_constructors_error_that_nobody_asked_for_lets_go_of_its_references_once(
    value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, logger = Texts(), logging.getLogger("beamlet")
    monkeypatch.setattr(logger, "handlers", [told])
    monkeypatch.setattr(logger, "propagate", False)
    ref = ray.put(value)
    actor = ray.remote(NeverBegun).remote([ref])
    call = actor.call.remote()
    failed = idle.remote(call)  # its error is the call's, which is around the constructor's
    ray.wait([failed])
    del failed, call
    wait_until(lambda: "Holding" in told.seen, "the error to be told")
    for _ in range(2):
        gc.collect()
        get(idle.remote())
    assert same(get(ref), value)


def test_an_object_that_only_an_error_refers_to_is_there_when_the_error_is_asked_for(value: Any) -> None:
    failing = Failing.remote()
    failed = failing.fail_with_own.remote(value)
    ray.wait([failed])
    let_go(failing)
    error = caught(failed)
    del failed
    let_go(failing)
    assert same(get(error.ref), value)


def test_an_error_passed_on_by_tasks_that_got_it_as_argument_holds_what_it_refers_to(value: Any) -> None:
    failing = Failing.remote()
    failed = failing.fail_with_own.remote(value)
    passed_on = idle.remote(idle.remote(failed))
    ray.wait([passed_on])
    del failed
    let_go(failing)
    assert same(get(caught(passed_on).ref), value)


def test_the_error_that_ends_a_generator_holds_what_it_refers_to(value: Any) -> None:
    failing = Failing.remote()
    items = list(failing.generate.options(num_returns="streaming").remote(value))
    let_go(failing)
    assert same(get(caught(items[1]).ref), value)


def test_an_attempt_that_is_retried_lets_go_of_what_its_error_held(tmp_path: Path) -> None:
    marker = tmp_path / "first"

    @ray.remote
    class Made:
        def ping(self) -> int:
            return os.getpid()

    @ray.remote(max_retries=1, retry_exceptions=[Holding])
    def fail_once() -> str:
        if marker.exists():
            return "second"
        made = Made.remote()
        marker.write_text(str(get(made.ping.remote())))
        raise Holding([made])

    assert get(fail_once.remote()) == "second"
    pid = int(marker.read_text())
    wait_until(lambda: process_is_gone(pid), "the actor that only the first error referred to to end")


def test_kept_actor_handles_work_from_borrowed_values() -> None:
    keeper = Keeper.remote()
    target = Keeper.remote()
    get(target.keep.remote([ray.put("held")]))
    get(keeper.keep.remote([ray.put([target])]))
    del target
    gc.collect()
    (again,) = get(keeper.read.remote())
    assert get(again.read.remote()) == "held"


def test_an_object_whose_owner_died_is_there_or_an_owner_died_error(value: Any) -> None:
    @ray.remote
    class Maker:
        def make(self) -> list[Any]:
            return [ray.put(value)]

        def pid(self) -> int:
            return os.getpid()

    maker = Maker.remote()
    pid = get(maker.pid.remote())
    (ref,) = get(maker.make.remote())
    ray.kill(maker)
    wait_until(lambda: process_is_gone(pid), "the owner to end")
    # Which of the two is a matter of where the value happened to be; hanging is neither.
    with contextlib.suppress(OwnerDiedError):
        assert same(get(ref), value)


class PickledOnce:
    """Keeps the pickle of what it holds: references in it are met once, and made whenever it is loaded."""

    def __init__(self, held: Any) -> None:
        self.held = held
        self.data = b""

    def __reduce__(self) -> Any:
        self.data = self.data or cloudpickle.dumps(self.held)
        return pickle.loads, (self.data,)


class OpenedLater:
    def __init__(self, held: Any) -> None:
        self.held = held

    def __getstate__(self) -> bytes:
        return bytes(cloudpickle.dumps(self.held))

    def __setstate__(self, data: bytes) -> None:
        self.data = data

    def open(self) -> Any:
        return pickle.loads(self.data)


def test_a_pickle_that_is_made_once_and_loaded_often_lets_nothing_go_that_is_held(value: Any) -> None:
    @ray.remote
    def read(held: list[Any]) -> Any:
        return ray.get(held[0])

    ref = ray.put(value)
    once = PickledOnce([ref])
    for _ in range(3):
        assert same(get(read.remote(once)), value)
        assert same(get(get(ray.put(once))[0]), value)
    gc.collect()
    assert same(get(ref), value)


def test_a_reference_in_bytes_that_are_loaded_later_is_there_each_time(value: Any) -> None:
    later = get(ray.put(OpenedLater([ray.put(value)])))
    for _ in range(3):
        gc.collect()
        assert same(get(later.open()[0]), value)


def test_a_function_first_called_while_a_value_is_pickled_works_again(value: Any) -> None:
    ref = ray.put(value)

    @ray.remote
    def read() -> Any:
        return ray.get(ref)

    class Calls:
        def __reduce__(self) -> Any:
            return list, ([read.remote()],)

    assert same(get(get(ray.put(Calls()))[0]), value)
    for _ in range(2):
        assert same(get(read.remote()), value)


def test_an_idle_worker_is_not_reaped_while_others_use_what_it_owns() -> None:
    @ray.remote(num_cpus=0)
    def put(x: int) -> list[Any]:
        return [ray.put(x)]

    # More workers than are kept warm, so that all of them would be reaped.
    refs = [inner for (inner,) in get([put.remote(x) for x in range(8)])]
    idle_for = time.monotonic() + 8
    wait_until(lambda: time.monotonic() > idle_for, "idle workers to have been reaped", timeout_s=10)
    assert get(refs) == list(range(8))
