"""What owns objects, driven without sockets: wait() and coroutines, and what they leave behind."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from beamlet.base.ids import ObjectId, TaskId
from beamlet.core_worker.owning.streams import Stream
from beamlet.exceptions import GetTimeoutError
from support.owner import Owner
from support.waiting import wait_until

ONE, TWO = pickle.dumps(1, 5), pickle.dumps(2, 5)
TASK = TaskId(b"g" * 24)


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.close()


# -- wait --------------------------------------------------------------------------------------------


class CountedTable(dict[ObjectId, Any]):
    looks = 0

    def get(self, key: ObjectId, default: Any = None) -> Any:
        self.looks += 1
        return super().get(key, default)


def looks_of_a_loop(owner: Owner, count: int, order: list[int]) -> int:
    """How often ``wait`` looks at a reference until all of ``count`` were returned, as they get ready."""
    refs = [owner.promise(number) for number in range(count)]
    table = owner.selecting._table = CountedTable(owner.refs.objects)
    by_number = list(refs)
    owner.blocking.script = [lambda i=i: owner.keep_promise(by_number[i], ONE) for i in order]  # type: ignore[misc]
    returned = []
    while refs:
        ready, refs = owner.selecting.wait(refs, 1, None)
        returned += [by_number.index(ref) for ref in ready]
    assert returned == order
    return table.looks


@pytest.mark.parametrize("spread", [1, 7], ids=["in order", "mixed"])
def test_waiting_for_all_one_at_a_time_looks_at_each_a_few_times(owner: Owner, spread: int) -> None:
    def order(count: int) -> list[int]:
        return [at for start in range(0, count, spread) for at in reversed(range(start, start + spread))]

    few, many = looks_of_a_loop(owner, 210, order(210)), looks_of_a_loop(owner, 840, order(840))
    assert many <= 4.5 * few


def test_wait_returns_in_the_order_of_the_list_and_never_more_than_asked_for(owner: Owner) -> None:
    refs = [owner.promise(number) for number in range(100)]
    for number in (70, 3, 50):
        owner.keep_promise(refs[number], ONE)
    ready, rest = owner.selecting.wait(refs, 2, None)
    assert ready == [refs[3], refs[50]]
    assert rest == [ref for ref in refs if ref not in ready]
    assert owner.selecting.wait(rest, 2, 0)[0] == [refs[70]]


def test_a_wait_that_ends_early_leaves_nothing_behind(owner: Owner) -> None:
    refs = [owner.promise(number) for number in range(3)]
    assert owner.selecting.wait(refs, 2, 1.0) == ([], refs)
    assert not any(owner.record(ref).waiters for ref in refs)


def test_a_list_given_up_leaves_at_most_the_last_ones_registrations(owner: Owner) -> None:
    refs = [owner.promise(number) for number in range(200)]
    for _ in range(5):
        owner.selecting.wait(list(refs), 1, 1.0)
    assert all(len(owner.record(ref).waiters or ()) <= 1 for ref in refs)
    owner.selecting.wait(refs[:2], 1, 1.0)
    assert not any(owner.record(ref).waiters for ref in refs)


def test_a_returned_list_that_was_changed_in_place_is_seen_as_it_is(owner: Owner) -> None:
    refs = [owner.promise(number) for number in range(100)]
    owner.keep_promise(refs[0], ONE)
    _, rest = owner.selecting.wait(refs, 1, None)
    owner.selecting.wait(rest, 1, 1.0)  # registers all
    _, rest = owner.selecting.wait(rest, 1, 1.0)
    new = rest[40] = owner.promise(500)
    owner.keep_promise(new, ONE)
    assert owner.selecting.wait(rest, 1, None)[0] == [new]


def test_what_was_taken_out_of_a_returned_list_ends_no_wait_for_it(owner: Owner) -> None:
    """A loop that replaces a straggler: rest[i] = f.remote()."""
    refs = [owner.promise(number) for number in range(100)]
    _, rest = owner.selecting.wait(refs, 1, 1.0)
    straggler, rest[40] = rest[40], owner.promise(500)
    expected = rest[70]
    owner.blocking.script = [
        lambda: owner.keep_promise(straggler, ONE),
        lambda: owner.keep_promise(expected, ONE),
    ]
    assert owner.selecting.wait(rest, 1, None)[0] == [expected]
    assert not owner.blocking.script


def test_two_threads_may_wait_for_the_same_list(owner: Owner) -> None:
    """The second one comes while the first is in its wait: a nested call stands for it."""
    refs = [owner.promise(number) for number in range(100)]
    _, rest = owner.selecting.wait(refs, 1, 1.0)
    inner: list[Any] = []

    def second() -> None:
        owner.blocking.script.insert(0, lambda: owner.keep_promise(refs[9], ONE))
        inner.extend(owner.selecting.wait(rest, 1, None)[0])

    owner.blocking.script = [second]
    ready, _ = owner.selecting.wait(rest, 1, None)
    assert inner == ready == [refs[9]]


# -- coroutines --------------------------------------------------------------------------------------


def test_a_cancelled_await_leaves_nothing_behind(owner: Owner) -> None:
    ref = owner.promise()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(owner.futures.await_ref(ref), 0.001)

    asyncio.run(give_up())
    assert not owner.record(ref).waiters


def test_a_value_for_a_loop_that_is_closed_harms_nobody(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    ref = owner.promise()
    loop = asyncio.new_event_loop()
    task = loop.create_task(owner.futures.await_ref(ref))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    owner.keep_promise(ref, ONE)
    assert not caplog.text
    with pytest.raises(RuntimeError, match="closed"):
        task.cancel()


def test_a_loop_that_misbehaves_is_reported_and_harms_nobody(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    ref = owner.promise()
    loop = asyncio.new_event_loop()

    def refuse(*_: Any) -> None:
        raise ZeroDivisionError

    loop.call_soon_threadsafe = refuse  # type: ignore[assignment]
    task = loop.create_task(owner.futures.await_ref(ref))
    loop.run_until_complete(asyncio.sleep(0))
    owner.keep_promise(ref, ONE)
    wait_until(lambda: caplog.text, 10.0, "the log")  # in a thread of its own
    assert "ZeroDivisionError" in caplog.text
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()


def test_an_awaited_value_comes_back_through_the_loop(owner: Owner) -> None:
    ref = owner.promise()

    async def await_it() -> Any:
        task = asyncio.create_task(owner.futures.await_ref(ref))
        await asyncio.sleep(0)
        owner.keep_promise(ref, ONE)
        return await task

    assert asyncio.run(await_it()) == 1


def test_a_step_of_a_stream_that_is_given_up_leaves_nothing_behind(owner: Owner) -> None:
    stream = Stream(TASK, limit=-1)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(owner.streams.next_async(stream), 0.001)

    asyncio.run(give_up())
    with pytest.raises(GetTimeoutError):
        owner.streams.next(stream, 1.0)
    assert not stream.waiters
