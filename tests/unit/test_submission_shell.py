"""Tasks of one process, from ``.remote()`` to their outcome, on a wire that is a list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from beamlet.base.class_names import class_names
from beamlet.base.ids import FunctionKey
from beamlet.core_worker.node_link import Unsent
from beamlet.core_worker.owning.streams import STREAMING
from beamlet.core_worker.submitting import arguments, submission
from beamlet.core_worker.submitting.task_submitter import ASK_AGAIN_S
from beamlet.exceptions import InfeasibleError, RaySystemError, WorkerCrashedError
from beamlet.protocol.node import (
    CancelLeaseRequest,
    DeleteObjects,
    LeaseCancelled,
    LeaseInfeasible,
    RequestLease,
    ReturnLease,
)
from beamlet.protocol.peer import InlineDep, InRoom, PushTask, Results, StoreDep
from beamlet.serialization.arguments import Slot, dumps_plain, serialize_arguments
from beamlet.serialization.refs import note_contained
from beamlet.serialization.values import dumps
from support.owner import NODE, FakePeer
from support.submitting import Caller, certificate, told, warmed


@pytest.fixture
def caller() -> Iterator[Caller]:
    caller = Caller()
    yield caller
    caller.check()
    caller.close()


def test_a_task_asks_for_a_worker_runs_there_and_gives_its_value(caller: Caller) -> None:
    ref = caller.task(1, 2)
    (request,) = caller.raylet.asked(RequestLease)
    assert (request.name, request.resources) == ("f", {"CPU": 10_000})
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    assert (push.name, push.num_returns, push.attempt, push.resources) == ("f", 1, 0, {"CPU": 10_000})
    assert caller.is_pending(ref)
    caller.answer(worker, push, 3)
    assert caller.outcome(ref) == 3
    assert not caller.submission.tasks
    caller.pass_time(1.0)
    assert caller.raylet.took(ReturnLease), "an idle lease goes back"


def test_what_nobody_keeps_is_let_go_and_its_late_answer_changes_nothing(caller: Caller) -> None:
    ref = caller.task()
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    del ref
    caller.owner.releases.drain()
    caller.answer(worker, push, 3)
    assert not caller.owner.refs.objects


# -- arguments -----------------------------------------------------------------------------------


def test_a_task_waits_for_its_arguments_and_takes_them_along(caller: Caller) -> None:
    first = caller.task()
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    second = caller.task(first, first)
    assert caller.pushed(worker) == []
    caller.answer(worker, push, "value")
    (push,) = caller.pushed(worker)
    assert push.deps == [InlineDep(dumps("value"))] * 2
    del first
    caller.owner.releases.drain()
    assert len(caller.owner.refs.objects) == 2, "the argument is held until the answer"
    caller.answer(worker, push, 1)
    assert caller.outcome(second) == 1
    assert len(caller.owner.refs.objects) == 1


def test_an_argument_that_is_an_error_already_fails_the_task_at_once(caller: Caller) -> None:
    failed = caller.task()
    worker = caller.grant()
    caller.answer_error(worker, caller.pushed(worker)[0], ValueError("first"))
    ref = caller.task(1, failed)
    assert not caller.is_pending(ref), "nobody has to come by for that"
    assert str(caller.outcome(ref)) == "first"
    assert caller.pushed(worker) == []
    assert not caller.submission.tasks


def test_an_error_goes_down_a_long_chain_without_a_deep_stack(caller: Caller) -> None:
    chain = [caller.task()]
    for _ in range(5000):
        chain.append(caller.task(chain[-1]))
    worker = caller.grant()
    caller.answer_error(worker, caller.pushed(worker)[0], ValueError("first"))
    assert str(caller.outcome(chain[-1])) == "first"
    assert not caller.submission.tasks


def test_one_failed_argument_of_several_is_enough(caller: Caller) -> None:
    good, bad = caller.task(), caller.task()
    worker = caller.grant()
    other = caller.grant(b"v")
    ref = caller.task(good, bad)
    caller.answer_error(other, caller.pushed(other)[0], ValueError("bad"))
    assert str(caller.outcome(ref)) == "bad"
    caller.answer(worker, caller.pushed(worker)[0], 1)
    assert caller.pushed(worker) == [], "the other argument comes too late to change that"


def test_a_lost_argument_says_so(caller: Caller) -> None:
    borrowed = caller.owner.borrow(FakePeer(b"o" * 32))
    ref = caller.task(borrowed)
    caller.owner.objects.loss_came(borrowed._id, "its node is gone")
    assert "its node is gone" in "".join(caller.outcome(ref).__notes__)


def test_a_reference_of_an_earlier_session_is_refused_before_anything_is_counted(caller: Caller) -> None:
    old = caller.task()
    caller.owner.refs.objects.clear()
    caller.submission.tasks.clear()
    known = caller.promise()
    with pytest.raises(RaySystemError, match="earlier session"):
        caller.task(known, old)
    assert caller.owner.record(known).submitted == 0
    assert not caller.submission.tasks
    for state in caller.leases.submitter.keys.values():
        state.queue.clear()


class PutsItself:
    """Pickled as a reference to a value that it puts: it alone knew of that, and only for a moment."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    def __reduce__(self) -> Any:
        ref = self.caller.promise()
        assert note_contained(ref._id, ref._owner, ref)
        return bytes, (ref._id,)


def test_a_reference_that_pickling_made_lives_until_it_is_counted(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "_RELEASE_BATCH", 0)
    result = caller.task(PutsItself(caller))
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    ((object_id, _),) = push.nested
    caller.owner.releases.drain()
    record = caller.owner.refs.objects[object_id]
    assert (record.submitted, record.local) == (1, 0)
    caller.answer(worker, push, 3)
    assert object_id not in caller.owner.refs.objects
    assert caller.outcome(result) == 3


@pytest.mark.parametrize(
    "large", [b"x" * 200_000, "x" * 200_000, bytearray(200_000)], ids=lambda x: type(x).__name__
)
def test_a_large_argument_is_not_pickled_to_find_out_how_large_it_is(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, large: Any
) -> None:
    pickled: list[Any] = []

    def note(args: Any, kwargs: Any) -> Any:
        pickled.append(args)
        return serialize_arguments(args, kwargs)

    caller.owner.own.came(0, 8 << 20, 0)
    monkeypatch.setattr(arguments, "serialize_arguments", note)
    assert dumps_plain((large,), {}) is None
    caller.task(large, [1])
    assert [args[0] for args in pickled] == [Slot(0)], "it is in our slab"


def test_a_stored_argument_travels_as_its_place(caller: Caller) -> None:
    ref = caller.promise()
    caller.task(ref)
    caller.owner.refs.set_stored(caller.owner.record(ref), (b"m" * 16,), 1000)
    caller.owner.objects.notify(caller.owner.record(ref))
    (push,) = caller.pushed(caller.grant())
    assert isinstance(push.deps[0], StoreDep)
    assert push.deps[0].nodes == [b"m" * 16]


# -- errors and retries --------------------------------------------------------------------------


class Flaky(ConnectionError):
    pass


@pytest.mark.parametrize(
    ("rule", "again"),
    [(False, False), (True, True), (["builtins.OSError"], True), (["builtins.ValueError"], False)],
)
def test_retries_are_decided_by_the_names_of_the_errors_classes(
    caller: Caller, rule: Any, again: bool
) -> None:
    ref = caller.task(retries=1, retry=frozenset(rule) if isinstance(rule, list) else rule)
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    caller.results.take_results(  # unpickling this would raise
        worker, Results(push.seq, [b"\xc1no error payload"], failed=True, error_types=class_names(Flaky))
    ) if again else caller.answer_error(worker, push, Flaky("x"), *class_names(Flaky))
    if not again:
        assert isinstance(caller.outcome(ref), Flaky)
        return
    caller.leases.after_results(worker.leased)
    (push,) = caller.pushed(worker)
    assert push.attempt == 1
    caller.answer_error(worker, push, Flaky("last"), *class_names(Flaky))
    assert str(caller.outcome(ref)) == "last", "its one retry is used up"


def test_an_error_is_that_of_all_results_and_travels_once(caller: Caller) -> None:
    refs = caller.task(num_returns=3)
    worker = caller.grant()
    caller.answer_error(worker, caller.pushed(worker)[0], RaySystemError("of all"))
    for ref in refs:
        assert "of all" in str(caller.outcome(ref))


def test_an_error_that_no_code_of_the_users_raised_is_not_retried(caller: Caller) -> None:
    """A call that cannot be encoded, say: with retries without end it would be sent for ever."""
    ref = caller.task(retries=-1, retry=True)
    worker = caller.grant()
    caller.answer_error(worker, caller.pushed(worker)[0], RaySystemError("f could not be sent"))
    assert "could not be sent" in str(caller.outcome(ref))
    assert not caller.pushed(worker)


def test_a_dead_workers_first_task_spends_a_retry_and_the_others_none(caller: Caller) -> None:
    worker = warmed(caller)
    refs = [caller.task(retries=1) for _ in range(3)]
    assert len(caller.pushed(worker)) == 3
    caller.die(worker, certificate(signal=9))
    assert [task.retries_left for task in caller.submission.tasks.values()] == [0, 1, 1]
    second = caller.grant(b"second")
    pushes = caller.pushed(second)
    while len(pushes) < 3:
        caller.answer(second, pushes[-1], 1)
        pushes += caller.pushed(second)
    assert [push.attempt for push in pushes] == [1, 1, 1], "any of them may have run, and made something"
    assert caller.is_pending(refs[2])


def test_what_a_dead_worker_stored_for_its_tasks_is_deleted_before_they_run_again(caller: Caller) -> None:
    refs = caller.task(retries=1, num_returns=2)
    _, _, *_ = caller.task(retries=1, num_returns=STREAMING)
    first, second = caller.grant(b"first"), caller.grant(b"second")
    caller.pushed(first), caller.pushed(second)
    caller.die(first, certificate(signal=9))
    assert caller.raylet.took(DeleteObjects) == [
        DeleteObjects(NODE, [ref._id for ref in refs], first.address)
    ]
    caller.die(second, certificate(signal=9))
    assert not caller.raylet.took(DeleteObjects), "its user may have items of it"


def test_a_task_without_retries_dies_with_its_worker_and_those_behind_it_do_not(caller: Caller) -> None:
    worker = warmed(caller)
    refs = [caller.task() for _ in range(3)]
    caller.die(worker, certificate(signal=9))
    assert isinstance(caller.outcome(refs[0]), WorkerCrashedError)
    assert all(caller.is_pending(ref) for ref in refs[1:])


def test_a_crash_that_ended_a_generator_is_seen_by_whoever_takes_its_last_item(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stream, *_ = caller.task(num_returns=STREAMING)
    worker = caller.grant()
    caller.die(worker, certificate(signal=9))
    last = caller.owner.streams.next(stream, 0)
    assert isinstance(caller.outcome(last), WorkerCrashedError)
    assert told(caller, monkeypatch) == []


def test_what_fails_because_the_cluster_is_gone_is_not_told_one_by_one(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller.task(caller.promise())
    caller.owner.unseen.tell_no_more()
    caller.owner.objects.lose_promised(RaySystemError("the cluster is gone"))
    assert told(caller, monkeypatch) == []


def test_a_crash_is_told_with_its_certificate(caller: Caller) -> None:
    ref = caller.task()
    worker = caller.grant()
    caller.die(worker, certificate(signal=11))
    assert "SIGSEGV" in str(caller.outcome(ref))


def test_a_worker_that_was_given_up_is_told_as_a_crash_that_nobody_saw_and_its_lease_goes_back(
    caller: Caller,
) -> None:
    ref = caller.task()
    worker = caller.grant()
    assert worker.leased is not None
    lease = worker.leased.lease
    caller.die(worker)
    assert "nobody saw how" in str(caller.outcome(ref))
    assert caller.raylet.took(ReturnLease) == [ReturnLease(lease, dispose=True)]
    caller.task()
    worker = caller.grant(b"second")
    caller.die(worker, certificate(signal=9))
    assert not caller.raylet.took(ReturnLease), "the raylet buried it, and its lease with it"


def test_the_room_of_a_worker_that_was_given_up_is_nobodys_until_the_raylet_says_that_it_is_dead(
    caller: Caller,
) -> None:
    own = caller.owner.own
    own.came(1 << 20, 1 << 20, 1 << 20)
    caller.outcomes.result_sizes[FunctionKey(b"f")] = 200_000  # so the next one is given room
    ref = caller.task(retries=1)
    given_up = caller.grant()
    (first,) = caller.pushed(given_up)
    assert isinstance(first, PushTask)
    assert first.room is not None
    caller.die(given_up)
    second = caller.grant(b"second")
    (again,) = caller.pushed(second)
    assert isinstance(again, PushTask)
    assert again.room is None, "the first may still write there"
    caller.answer(second, again, 7)
    assert caller.outcome(ref) == 7
    others = [own.take(200_000) for _ in range(8)]
    assert first.room.offset not in {place.offset for place in others if place is not None}
    for place in filter(None, others):
        own.let_go(place)
    assert len(own) == 1
    own.died(given_up.address)
    assert len(own) == 0
    own.check_invariants()


@pytest.mark.parametrize("size", [-1, 0, 1 << 40])
def test_a_result_that_does_not_fit_its_room_is_refused(caller: Caller, size: int) -> None:
    own = caller.owner.own
    own.came(1 << 20, 1 << 20, 1 << 20)
    caller.outcomes.result_sizes[FunctionKey(b"f")] = 200_000
    ref = caller.task()
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    with pytest.raises(ValueError, match=f"{size} bytes in a room of"):
        caller.results.take_results(worker, Results(push.seq, [InRoom(size)]))
    assert "could not be taken" in str(caller.outcome(ref))
    assert len(own) == 0, "the room is free again"


def test_what_no_node_can_run_is_told_to_those_who_wait_for_it(caller: Caller) -> None:
    ref, dependent = caller.task(), None
    dependent = caller.task(ref)
    (request,) = caller.raylet.asked(RequestLease)
    caller.raylet.answer(LeaseInfeasible(request.req, "needs 9 CPUs"))
    assert isinstance(caller.outcome(ref), InfeasibleError)
    assert isinstance(caller.outcome(dependent), InfeasibleError)


def test_a_request_that_ends_for_a_reason_fails_and_one_that_just_ends_is_made_again(caller: Caller) -> None:
    ref = caller.task()
    (request,) = caller.raylet.asked(RequestLease)
    caller.raylet.answer(LeaseCancelled(request.req))
    (request,) = caller.raylet.asked(RequestLease)
    caller.raylet.answer(LeaseCancelled(request.req, "no more processes"))
    assert "no more processes" in str(caller.outcome(ref))


def test_a_task_that_crashed_and_has_retries_left_outlives_a_full_node(caller: Caller) -> None:
    ref = caller.task(retries=1)
    caller.die(caller.grant())
    for _ in range(2):
        (request,) = caller.raylet.asked(RequestLease)
        caller.raylet.answer(LeaseCancelled(request.req, "no process for 5 s", for_now=True))
        assert caller.is_pending(ref)
    (request,) = caller.raylet.asked(RequestLease)
    caller.raylet.answer(LeaseCancelled(request.req, "workers die before they are ready"))
    assert "workers die" in str(caller.outcome(ref))


@pytest.mark.parametrize("how", ["for now", "workers die", "infeasible", "unsent"])
def test_a_worker_that_was_refused_beside_a_busy_one_is_asked_for_again(caller: Caller, how: str) -> None:
    busy, waiting = caller.task(), caller.task()
    worker = caller.grant(b"busy")
    (push,) = caller.pushed(worker)
    (request,) = caller.raylet.asked(RequestLease)
    refusal: Any = LeaseCancelled(request.req, "no process", for_now=how == "for now")
    if how == "infeasible":
        refusal = LeaseInfeasible(request.req, "needs 9 CPUs")
    elif how == "unsent":
        refusal = Unsent(request.req, MemoryError())
    caller.raylet.answer(refusal)
    assert caller.raylet.asked(RequestLease) == [], "not at once: it would be refused again"
    caller.pass_time(ASK_AGAIN_S + 0.1)
    (again,) = caller.raylet.asked(RequestLease)
    assert again.req != request.req
    other = caller.grant(b"other")
    (its_push,) = caller.pushed(other)
    caller.answer(other, its_push, "ran")
    assert caller.outcome(waiting) == "ran"
    assert caller.is_pending(busy)
    caller.answer(worker, push, "late")
    assert caller.outcome(busy) == "late"


def test_a_request_that_could_not_be_encoded_fails_its_tasks(caller: Caller) -> None:
    refs = [caller.task() for _ in range(3)]
    requests = caller.raylet.asked(RequestLease)
    for request in requests:
        error = UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        caller.raylet.answer(Unsent(request.req, error))
    for ref in refs:
        assert "surrogates not allowed" in str(caller.outcome(ref))
    assert not caller.leases.submitter.keys
    caller.task()
    assert len(caller.raylet.asked(RequestLease)) == 1, "the next one is asked for as ever"


@pytest.mark.parametrize("how", ["infeasible", "cancelled", "died"])
def test_a_combination_of_options_that_nothing_uses_any_more_is_forgotten(caller: Caller, how: str) -> None:
    ref = caller.task()
    (request,) = caller.raylet.asked(RequestLease)
    if how == "infeasible":
        caller.raylet.answer(LeaseInfeasible(request.req, "needs 9 CPUs"))
    elif how == "cancelled":
        caller.cancelling.cancel(ref, False, True)
        caller.raylet.answer(LeaseCancelled(request.req))
    else:
        caller.die(caller.grant(), certificate(signal=9))
    assert not caller.leases.submitter.keys


def test_a_lease_that_comes_too_late_goes_back(caller: Caller) -> None:
    ref = caller.task()
    (request,) = caller.raylet.asked(RequestLease)
    caller.cancelling.cancel(ref, False, True)
    assert [m.req for m in caller.raylet.took(CancelLeaseRequest)] == [request.req]
    worker = caller.grant()
    assert caller.raylet.took(ReturnLease)
    assert worker.leased is None


@pytest.mark.parametrize("calls", [False, True], ids=["tasks", "calls"])
def test_a_loop_that_only_submits_is_told_once(
    caller: Caller, caplog: pytest.LogCaptureFixture, calls: bool
) -> None:
    caller.submission._told_at = 100
    actor = caller.actor()
    submit = (lambda: caller.call(actor)) if calls else caller.task
    refs = [submit() for _ in range(99)]
    assert not caplog.text
    refs += [submit() for _ in range(300)]
    assert caplog.text.count("were submitted and are not done") == 1
    assert ("100 calls of actor A" if calls else "100 tasks") in caplog.text
    assert len(refs) == 399
