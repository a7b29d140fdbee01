"""Generator tasks and methods: items come as they are yielded, each an object of its own."""

from __future__ import annotations

import asyncio
import os
import pickle
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance import get, wait_until
from gates import Gate

import beamlet as ray
from beamlet.exceptions import TaskCancelledError, WorkerCrashedError

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
def count(n: int) -> Iterator[int]:
    yield from range(n)


def test_a_generator_task_yields_refs_in_order() -> None:
    generator = count.remote(5)
    assert isinstance(generator, ray.ObjectRefGenerator)
    assert [get(ref) for ref in generator] == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration):
        next(generator)
    assert generator.is_finished()


def test_items_come_before_the_task_has_ended(gate: Gate) -> None:
    @ray.remote
    def two() -> Iterator[str]:
        yield "first"
        gate.wait()
        yield "second"

    generator = two.remote()
    assert get(next(generator)) == "first"
    assert not generator.next_ready()
    gate.open()
    assert get(next(generator)) == "second"


def test_get_returns_the_generator_itself() -> None:
    generator = count.remote(1)
    assert ray.get(generator) is generator


def test_an_error_is_the_last_item_and_the_completion() -> None:
    @ray.remote
    def fails() -> Iterator[int]:
        yield 1
        raise KeyError("two")

    generator = fails.remote()
    assert get(next(generator)) == 1
    with pytest.raises(KeyError):
        get(next(generator))
    assert list(generator) == []
    with pytest.raises(KeyError):
        get(generator.completed())


def test_a_generators_error_that_was_got_is_not_told_again(caplog: pytest.LogCaptureFixture) -> None:
    @ray.remote
    def fail(text: str) -> Any:
        yield 1
        raise ValueError(text)

    items = list(fail.remote("mulled"))
    with pytest.raises(ValueError, match="mulled"):
        get(items[1])
    del items
    list(fail.remote("dropped"))
    wait_until(lambda: "dropped" in caplog.text, "the error that nobody looked at to be told")
    assert "mulled" not in caplog.text


def test_completed_is_ready_at_the_end() -> None:
    generator = count.remote(3)
    assert get(generator.completed()) is None
    assert generator.next_ready()
    assert len(list(generator)) == 3


def test_large_items_and_items_with_refs() -> None:
    @ray.remote
    def yields() -> Iterator[Any]:
        yield np.ones(300_000)
        yield [ray.put("inside")]

    large, inner = list(yields.remote())
    assert get(large).sum() == 300_000
    assert get(get(inner)[0]) == "inside"


def test_an_item_that_cannot_be_pickled_is_a_type_error() -> None:
    @ray.remote
    def yields() -> Iterator[Any]:
        yield 1
        yield {"lock": __import__("threading").Lock()}

    one, error = list(yields.remote())
    assert get(one) == 1
    with pytest.raises(TypeError, match=r"result\['lock'\]"):
        get(error)


@ray.remote
class Counter:
    def up_to(self, n: int) -> Iterator[int]:
        yield from range(n)


def test_a_generator_method() -> None:
    counter = Counter.remote()
    assert [get(ref) for ref in counter.up_to.remote(3)] == [0, 1, 2]


def test_an_async_generator_method_read_with_async_for() -> None:
    @ray.remote
    class Ticker:
        async def ticks(self, n: int) -> AsyncIterator[int]:
            for i in range(n):
                await asyncio.sleep(0)
                yield i

    ticker = Ticker.remote()

    async def read() -> list[int]:
        return [await ref async for ref in ticker.ticks.remote(4)]

    assert asyncio.run(asyncio.wait_for(read(), 20)) == [0, 1, 2, 3]


def test_wait_takes_generators(gate: Gate) -> None:
    @ray.remote
    def later() -> Iterator[int]:
        gate.wait()
        yield 1

    generator, ref = later.remote(), ray.put(0)
    assert ray.wait([generator], timeout=0.05) == ([], [generator])
    assert ray.wait([generator, ref], timeout=20) == ([ref], [generator])
    gate.open()
    assert ray.wait([generator], timeout=20) == ([generator], [])
    assert get(next(generator)) == 1


def test_a_limit_on_items_not_consumed_holds_the_task_back(tmp_path: Path) -> None:
    @ray.remote(_generator_backpressure_num_objects=2)
    def yields(folder: str) -> Iterator[int]:
        for i in range(6):
            Path(folder, str(i)).touch()
            yield i

    generator = yields.remote(str(tmp_path))
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "two items to be made")
    assert get(next(generator)) == 0
    wait_until(lambda: len(list(tmp_path.iterdir())) == 3, "one more to be made")
    assert [get(ref) for ref in generator] == [1, 2, 3, 4, 5]


def test_a_generator_that_is_dropped_gives_its_worker_back(tmp_path: Path) -> None:
    """Both kinds: one that waits to be read, and one that would go on for ever."""
    closed = tmp_path / "closed"

    @ray.remote
    def endless() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed.touch()

    waiting = endless.options(_generator_backpressure_num_objects=2).remote()
    get(next(waiting))
    del waiting
    wait_until(closed.exists, "the generator that waited to be read to be closed")
    closed.unlink()
    running = endless.remote()
    get(next(running))
    del running
    wait_until(closed.exists, "the endless generator to be closed")


def test_cancel_ends_a_generator() -> None:
    @ray.remote
    def endless() -> Iterator[int]:
        i = 0
        while True:
            yield (i := i + 1)

    generator = endless.remote()
    assert get(next(generator)) == 1
    ray.cancel(generator)
    with pytest.raises(TaskCancelledError):
        get(generator.completed())


def test_a_crashed_generator_runs_again_and_no_item_comes_twice(tmp_path: Path) -> None:
    @ray.remote(max_retries=1)
    def yields(mark: str) -> Iterator[int]:
        yield 1
        yield 2
        if not os.path.exists(mark):
            Path(mark).touch()
            os._exit(1)
        yield 3

    assert [get(ref) for ref in yields.remote(str(tmp_path / "mark"))] == [1, 2, 3]


def test_a_generator_that_crashes_for_good_ends_with_the_error() -> None:
    @ray.remote(max_retries=0)
    def yields() -> Iterator[int]:
        yield 1
        os._exit(1)

    generator = yields.remote()
    with pytest.raises(WorkerCrashedError):
        get(generator.completed())
    with pytest.raises(WorkerCrashedError):
        for ref in generator:
            get(ref)


def test_dynamic_gives_one_ref_to_a_sequence_of_refs() -> None:
    refs = get(count.options(num_returns="dynamic").remote(4))
    assert len(refs) == 4
    assert [get(ref) for ref in refs] == [0, 1, 2, 3]


def test_a_generator_handle_cannot_be_sent_into_or_pickled() -> None:
    generator = count.remote(1)
    for method in (generator.send, generator.throw, generator.asend):
        with pytest.raises(NotImplementedError):
            method(None)
    with pytest.raises(NotImplementedError):
        generator.close()
    with pytest.raises(TypeError):
        pickle.dumps(generator)
