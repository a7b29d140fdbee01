"""``ref.future()``: resolved in a thread of its own, and kept by nobody afterwards."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from beamlet.exceptions import RaySystemError
from beamlet.serialization.values import dump_error, dumps
from support.owner import Owner
from support.waiting import wait_until

WITHIN_S = 10.0


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.futures.close()
    owner.close()


def as_payload(value: Any) -> bytes:
    data = dumps(value)
    assert isinstance(data, bytes)
    return data


def test_a_cancelled_future_leaves_nothing_behind(owner: Owner) -> None:
    ref = owner.promise()
    future = owner.futures.future_of(ref)
    assert owner.record(ref).waiters
    future.cancel()
    assert not owner.record(ref).waiters


def test_futures_hear_of_the_end(owner: Owner) -> None:
    future = owner.futures.future_of(owner.promise())
    owner.objects.lose_promised(RaySystemError(ValueError("over")))
    owner.futures.close()
    with pytest.raises(RaySystemError, match="over"):
        future.result(timeout=30)


def test_a_callback_that_exits_ends_no_other_future(owner: Owner, capfd: pytest.CaptureFixture[str]) -> None:
    refs = owner.promise(), owner.promise()
    first, second = map(owner.futures.future_of, refs)
    first.add_done_callback(lambda _: sys.exit("of a callback"))
    for number, ref in enumerate(refs):
        owner.keep_promise(ref, as_payload(number))
    assert [first.result(WITHIN_S), second.result(WITHIN_S)] == [0, 1]
    assert "of a callback" in capfd.readouterr().err


@pytest.mark.parametrize("outcome", ["value", "error", "cancelled"])
def test_nothing_keeps_a_future_that_is_done(owner: Owner, outcome: str) -> None:
    ref = owner.promise()
    future: Future[Any] = owner.futures.future_of(ref)
    seen = weakref.ref(future)
    gc.disable()  # what is in no circle goes at once
    try:
        if outcome == "cancelled":
            future.cancel()
        else:
            payload = as_payload(1) if outcome == "value" else dump_error(ValueError("failed"))
            owner.keep_promise(ref, payload)
            assert (future.exception(WITHIN_S) is None) == (outcome == "value")
        del future, ref
        wait_until(lambda: seen() is None, WITHIN_S, "the future to go")
        owner.releases.drain()
        assert not owner.refs.objects, "nor does anything keep the value"
    finally:
        gc.enable()


def test_one_that_is_made_while_the_session_ends_does_not_wait_for_ever(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread calls shutdown() between two of our steps: who resolves futures has ended."""
    ref = owner.promise()
    find = owner.objects.record_of

    def found_as_it_ends(ref: Any) -> Any:
        monkeypatch.undo()
        owner.futures.future_of(owner.promise())  # there is a thread for it
        record = find(ref)
        owner.objects.lose_promised(RaySystemError(ValueError("over")))
        owner.futures.close()
        return record

    monkeypatch.setattr(owner.objects, "record_of", found_as_it_ends)
    with pytest.raises(RaySystemError, match="over"):
        owner.futures.future_of(ref).result(timeout=WITHIN_S)


def test_a_coroutine_that_awaits_a_future_hears_of_stop_iteration(owner: Owner) -> None:
    """A future that raises one ends the wait in silence, as if the value were the StopIteration's."""

    async def wait_for(future: Future[Any]) -> Any:
        return await asyncio.wait_for(asyncio.wrap_future(future), WITHIN_S)

    ref = owner.promise()
    future = owner.futures.future_of(ref)
    owner.keep_promise(ref, dump_error(StopIteration("stop")))
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        asyncio.run(wait_for(future))
    assert isinstance(caught.value.__cause__, StopIteration)
