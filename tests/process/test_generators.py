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
from conformance import beamlet_only, get, wait_until
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


def note_run(folder: str) -> int:
    run = len(os.listdir(folder)) + 1
    Path(folder, str(run)).touch()
    return run


class Flaky:
    """Fails twice, each time one item later. ``folder``: has a file for each run."""

    def items(self, folder: str) -> Iterator[int]:
        run = note_run(folder)
        for i in range(6):
            if i == run + 1 < 4:
                raise ValueError(f"run {run}")
            yield i

    async def items_in_a_loop(self, folder: str) -> AsyncIterator[int]:
        for i in self.items(folder):
            yield i

    def endless(self, folder: str) -> Iterator[int]:
        note_run(folder)
        try:
            yield from range(10**9)
        finally:
            raise ValueError("the clean-up failed")

    async def endless_in_a_loop(self, folder: str) -> AsyncIterator[int]:
        note_run(folder)
        try:
            while True:
                yield 0
        finally:
            await asyncio.sleep(0)
            raise ValueError("the clean-up failed")

    def ping(self) -> str:
        return "pong"


@ray.remote(num_returns="streaming")
def of_a_task(method: str, folder: str) -> Iterator[int]:
    yield from getattr(Flaky(), method)(folder)


def flaky(kind: str, method: str, folder: Path, limit: int, retries: int) -> tuple[Any, Any]:
    """A generator that is retried for its own errors, and the actor that runs it."""
    if kind == "task":
        options = {"max_retries": retries, "retry_exceptions": True}
        return of_a_task.options(_generator_backpressure_num_objects=limit, **options).remote(
            method, str(folder)
        ), None
    cls: Any = Flaky
    if kind == "actor":  # without coroutines
        names = ("items", "endless", "ping")
        cls = type("Plain", (), {name: getattr(Flaky, name) for name in names})
    else:
        method += "_in_a_loop"
    actor = ray.remote(cls).options(max_task_retries=retries).remote()
    streamed = getattr(actor, method).options(
        num_returns="streaming", retry_exceptions=True, _generator_backpressure_num_objects=limit
    )
    return streamed.remote(str(folder)), actor


@beamlet_only
@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("kind", ["task", "actor", "async actor"])
def test_a_limited_generator_that_is_retried_for_its_error_goes_on(
    kind: str, limit: int, tmp_path: Path
) -> None:
    """In the process where it failed: it waited for ever to be read."""
    items, actor = flaky(kind, "items", tmp_path, limit, 3)
    assert [get(ref) for ref in items] == list(range(6))
    assert len(os.listdir(tmp_path)) == 3
    assert actor is None or get(actor.ping.remote()) == "pong"


@beamlet_only
@pytest.mark.parametrize("kind", ["task", "actor", "async actor"])
def test_a_dropped_generator_whose_clean_up_fails_is_not_run_again(kind: str, tmp_path: Path) -> None:
    items, actor = flaky(kind, "endless", tmp_path, 1, -1)
    assert get(next(items)) == 0
    ended = items.completed()
    del items
    with pytest.raises(ValueError, match="the clean-up failed"):
        get(ended)
    assert os.listdir(tmp_path) == ["1"]
    assert actor is None or get(actor.ping.remote()) == "pong"


@beamlet_only
@pytest.mark.parametrize("kind", ["task", "actor", "async actor"])
def test_cancel_ends_a_generator_that_was_retried(kind: str, tmp_path: Path) -> None:
    items, actor = flaky(kind, "items", tmp_path, 1, -1)
    assert [get(next(items)) for _ in range(4)] == [0, 1, 2, 3]
    assert len(os.listdir(tmp_path)) == 3
    ray.cancel(items)
    with pytest.raises(TaskCancelledError):
        get(items.completed())
    assert actor is None or get(actor.ping.remote()) == "pong"


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
