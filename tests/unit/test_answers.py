"""Tasks of one process and answers that nobody expects: twice, too few, dropped, on a wire that is a list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from beamlet.base.ids import return_id
from beamlet.protocol.peer import PushTask, ReleaseHold, Result, Results, StoredAt, Yielded
from beamlet.serialization.values import dumps
from support.owner import NODE
from support.submitting import Caller, certificate, told


@pytest.fixture
def caller() -> Iterator[Caller]:
    caller = Caller()
    yield caller
    caller.check()
    caller.close()


def test_an_answer_twice_or_from_a_stranger_changes_nothing(caller: Caller) -> None:
    ref = caller.task()
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    assert isinstance(push, PushTask)
    stranger = caller.peers.get(b"stranger".ljust(32))
    caller.results.take_result(stranger, Result(push.seq, dumps("wrong")))
    caller.results.take_results(stranger, Results(push.seq, [dumps("wrong")]))
    caller.answer(worker, push, "right")
    caller.answer(worker, push, "again")
    assert caller.outcome(ref) == "right"


def test_several_results_one_of_them_dropped(caller: Caller) -> None:
    refs = caller.task(num_returns=3)
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    del refs[1]
    caller.owner.releases.drain()
    caller.results.take_results(worker, Results(push.seq, [dumps(i) for i in range(3)]))
    assert [caller.outcome(ref) for ref in refs] == [0, 2]


def test_a_task_without_results_that_fails_is_told_of(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert caller.task(num_returns=0) is None
    worker = caller.grant()
    caller.answer_error(worker, caller.pushed(worker)[0], ValueError("nobody can ask"))
    assert told(caller, monkeypatch) == ["f"]
    caller.task(num_returns=0)
    (push,) = caller.pushed(worker)
    caller.answer_with(worker, Results(push.seq, []))
    assert not caller.submission.tasks


@pytest.mark.parametrize("how", ["fails", "crashes"])
@pytest.mark.parametrize("is_dropped", [False, True])
def test_a_generator_that_was_dropped_is_not_run_again(caller: Caller, is_dropped: bool, how: str) -> None:
    """Retries without end, for one whose clean-up fails each time, were endless work for nobody."""
    _, stream, over = caller.task(num_returns=-1, retries=-1, retry=True)
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    caller.results.take_yield(worker, Yielded(push.seq, 1, dumps(1)))
    caller.owner.streams.next(stream, None)
    if is_dropped:
        caller.owner.streams.abandon(stream)
        caller.owner.releases.drain()
    if how == "fails":
        caller.answer_error(worker, push, ValueError("clean-up"), "builtins.ValueError")
    else:
        caller.die(worker, certificate(signal=9))
        if not is_dropped:
            worker = caller.grant(b"x")
    assert bool(caller.pushed(worker)) is not is_dropped
    assert caller.is_pending(over) is not is_dropped


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_answer_with_a_wrong_number_of_values_is_an_error_of_all_results(
    caller: Caller, count: int
) -> None:
    refs = caller.task(num_returns=2)
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    with pytest.raises(ValueError, match=f"{count} values came for 2 results"):  # contained by who called
        caller.answer_with(worker, Results(push.seq, [dumps(1)] * count))
    for ref in refs:
        assert "could not be taken" in str(caller.outcome(ref))
    assert not caller.submission.tasks


def test_what_was_stored_for_an_answer_that_cannot_be_taken_is_deleted(caller: Caller) -> None:
    caller.task(num_returns=2)
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    with pytest.raises(ValueError, match="3 values came for 2 results"):
        caller.answer_with(worker, Results(push.seq, [StoredAt(NODE, 9) for _ in range(3)], hold=4))
    caller.owner.releases.perform()
    deleted = {i for order in caller.owner.raylet.sent for i in order.object_ids}
    assert deleted == {return_id(push.task_id, index) for index in (1, 2, 3)}
    assert caller.owner.peers.get(worker.address).sent == [ReleaseHold(4)]


def test_of_an_answer_that_is_taken_in_part_the_rest_is_deleted(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = caller.task(num_returns=2)
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    set_stored = caller.owner.refs.set_stored

    def fails_at_the_second(record: Any, *facts: Any) -> None:
        if record is caller.owner.refs.objects[refs[1]._id]:
            raise ZeroDivisionError("a mistake of ours")
        set_stored(record, *facts)

    monkeypatch.setattr(caller.owner.refs, "set_stored", fails_at_the_second)
    with pytest.raises(ZeroDivisionError):
        caller.answer_with(worker, Results(push.seq, [StoredAt(NODE, 9), StoredAt(NODE, 9)]))
    caller.owner.releases.perform()
    assert [order.object_ids for order in caller.owner.raylet.sent] == [[refs[1]._id]]
    assert "a mistake of ours" in str(caller.outcome(refs[1]))
    assert caller.owner.record(refs[0]).nodes == (NODE,)


def test_errors_that_no_task_raised_are_told_of_as_well(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = caller.task(), None
    last = caller.task(caller.task(first))
    worker = caller.grant()
    caller.answer_error(worker, caller.pushed(worker)[0], ValueError("first"))
    assert told(caller, monkeypatch) == ["f"], "the last of the chain, not each of it"
    crashed = caller.task()
    caller.die(worker, certificate(signal=9))
    assert told(caller, monkeypatch) == ["f"]
    caller.cancelling.cancel(unwanted := caller.task(), False, True)
    assert told(caller, monkeypatch) == []
    assert not any(caller.is_pending(ref) for ref in (last, crashed, unwanted))
