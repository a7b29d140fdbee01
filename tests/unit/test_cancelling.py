"""Tasks of one process, cancelled before, while and after they run, on a wire that is a list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from beamlet.exceptions import TaskCancelledError
from beamlet.protocol.node import ForceCancel
from beamlet.protocol.peer import CancelTask, HandedBack
from beamlet.serialization.values import dumps
from support.owner import FakePeer
from support.submitting import Caller, certificate, warmed


@pytest.fixture
def caller() -> Iterator[Caller]:
    caller = Caller()
    yield caller
    caller.check()
    caller.close()


def cancelled(caller: Caller, ref: Any) -> bool:
    return isinstance(caller.outcome(ref), TaskCancelledError)


def test_cancelling_what_is_queued_ends_it_here(caller: Caller) -> None:
    refs = [caller.task() for _ in range(5)]
    for ref in (refs[3], refs[1]):
        caller.cancelling.cancel(ref, False, True)
        caller.check()
    assert [caller.is_pending(ref) for ref in refs] == [True, False, True, False, True]
    assert cancelled(caller, refs[1])
    caller.cancelling.cancel(refs[1], False, True)
    worker = caller.grant()
    assert [push.task_id for push in caller.pushed(worker)] == [refs[0]._id[:24]]


def test_cancelling_what_waits_for_an_argument_ends_it_here(caller: Caller) -> None:
    argument = caller.promise()
    ref = caller.task(argument)
    caller.cancelling.cancel(ref, False, True)
    assert cancelled(caller, ref)
    caller.owner.keep_promise(argument, dumps(1))
    assert not caller.leases.submitter.keys


def test_cancelling_what_runs_asks_its_worker_and_allows_no_retry(caller: Caller) -> None:
    ref = caller.task(retries=3, retry=True)
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    caller.cancelling.cancel(ref, False, True)
    (order,) = caller.sent(worker)
    assert isinstance(order, CancelTask)
    assert (order.task_id, order.force, order.recursive) == (push.task_id, False, True)
    caller.answer_error(worker, push, TaskCancelledError("x"))
    assert cancelled(caller, ref)


def test_cancelling_what_is_not_known_or_over_does_nothing(caller: Caller) -> None:
    ref = caller.task()
    worker = caller.grant()
    caller.answer(worker, caller.pushed(worker)[0], 1)
    caller.cancelling.cancel(ref, True, True)
    caller.cancelling.cancel_task(b"?" * 24, True, True)
    assert caller.outcome(ref) == 1
    assert caller.sent(worker) == []


def test_cancelling_anothers_task_asks_its_owner(caller: Caller) -> None:
    owner = FakePeer(b"o" * 32)
    ref = caller.owner.borrow(owner)
    caller.cancelling.cancel(ref, False, False)
    (order,) = [m for m in caller.sent(caller.peers.get(b"o" * 32)) if isinstance(m, CancelTask)]
    assert (order.force, order.recursive) == (False, False)


def test_force_goes_to_the_raylet_when_the_worker_hears_nothing(caller: Caller) -> None:
    ref = caller.task(retries=3)
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    caller.cancelling.cancel(ref, True, True)
    assert not caller.raylet.took(ForceCancel)
    caller.pass_time(0.5)
    (order,) = caller.raylet.took(ForceCancel)
    assert (order.task, order.name, order.lease) == (push.task_id, "f", worker.leased.lease)
    caller.die(worker, certificate(signal=9))
    assert cancelled(caller, ref), "not a crash, and no retry"


def test_force_spares_the_worker_while_another_task_runs_there(caller: Caller) -> None:
    worker = warmed(caller)
    caller.task()
    kept, doomed = caller.task(), caller.task()
    assert len(worker.leased.in_flight) == 3
    before, running, last = caller.pushed(worker)
    caller.cancelling.cancel(doomed, True, True)
    caller.pass_time(0.5)
    assert not caller.raylet.took(ForceCancel)
    caller.answer(worker, before, 1)
    caller.answer(worker, running, 2)
    caller.pass_time(0.5)
    assert caller.raylet.took(ForceCancel), "now it is the one that runs"
    assert caller.outcome(kept) == 2
    caller.answer_error(worker, last, TaskCancelledError("x"))


def test_a_task_that_answered_is_not_killed_for(caller: Caller) -> None:
    ref = caller.task()
    worker = caller.grant()
    caller.cancelling.cancel(ref, True, True)
    caller.answer(worker, caller.pushed(worker)[0], 1)
    caller.pass_time(0.5)
    assert not caller.raylet.took(ForceCancel)
    assert caller.outcome(ref) == 1


def test_a_task_cancelled_on_its_way_back_is_not_run_again(caller: Caller) -> None:
    ref = caller.task()
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    caller.cancelling.cancel(ref, False, True)
    caller.leases.handed_back(worker, HandedBack([push.seq], True))
    assert cancelled(caller, ref)


def test_children_are_cancelled_with_their_parent(caller: Caller) -> None:
    ref = caller.task()
    (task,) = caller.submission.tasks.values()
    caller.cancelling.cancel_children(b"another".ljust(24), False)
    assert caller.is_pending(ref)
    caller.cancelling.cancel_children(task.spec.parent, False)
    assert cancelled(caller, ref)
