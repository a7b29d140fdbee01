"""Tasks of one process, from ``.remote()`` to their outcome, on a wire that is a list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from beamlet.base.class_names import class_names
from beamlet.base.ids import Address, FunctionKey, NodeId, return_id
from beamlet.core_worker.node_link import Unsent
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.submitting import submission
from beamlet.exceptions import (
    InfeasibleError,
    RaySystemError,
    TaskCancelledError,
    WorkerCrashedError,
)
from beamlet.protocol.node import (
    CancelLeaseRequest,
    ForceCancel,
    LeaseCancelled,
    LeaseGranted,
    LeaseInfeasible,
    LeaseName,
    LeaseSpillback,
    RequestLease,
    ReturnLease,
)
from beamlet.protocol.peer import (
    CancelTask,
    HandedBack,
    InlineDep,
    InRoom,
    PushTask,
    ReleaseHold,
    Result,
    Results,
    StoredAt,
    StoreDep,
)
from beamlet.serialization.refs import note_contained
from beamlet.serialization.values import dumps
from support.owner import NODE, FakePeer
from support.submitting import Caller, FakeRaylet, certificate, told


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


def test_an_error_that_no_code_of_the_users_raised_is_not_retried(caller: Caller) -> None:
    """A call that cannot be encoded, say: with retries without end it would be sent for ever."""
    ref = caller.task(retries=-1, retry=True)
    worker = caller.grant()
    caller.answer_error(worker, caller.pushed(worker)[0], RaySystemError("f could not be sent"))
    assert "could not be sent" in str(caller.outcome(ref))
    assert not caller.pushed(worker)


def warmed(caller: Caller) -> Peer:
    """A worker whose tasks are short: several are pushed ahead."""
    caller.task()
    worker = caller.grant()
    caller.answer(worker, caller.pushed(worker)[0], 1)
    return worker


def test_a_dead_workers_first_task_spends_a_retry_and_the_others_none(caller: Caller) -> None:
    worker = warmed(caller)
    refs = [caller.task(retries=1) for _ in range(3)]
    assert len(caller.pushed(worker)) == 3
    caller.die(worker, certificate(signal=9))
    second = caller.grant(b"second")
    pushes = caller.pushed(second)
    while len(pushes) < 3:
        caller.answer(second, pushes[-1], 1)
        pushes += caller.pushed(second)
    assert [push.attempt for push in pushes] == [1, 0, 0]
    assert caller.is_pending(refs[2])


def test_a_task_without_retries_dies_with_its_worker_and_those_behind_it_do_not(caller: Caller) -> None:
    worker = warmed(caller)
    refs = [caller.task() for _ in range(3)]
    caller.die(worker, certificate(signal=9))
    assert isinstance(caller.outcome(refs[0]), WorkerCrashedError)
    assert all(caller.is_pending(ref) for ref in refs[1:])


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


# -- several nodes -------------------------------------------------------------------------------

ELSEWHERE = NodeId(b"e" * 28)


def spill(caller: Caller, raylet: FakeRaylet, node: NodeId = ELSEWHERE) -> None:
    (request,) = raylet.asked(RequestLease)
    raylet.answer(LeaseSpillback(request.req, node, "elsewhere:1"))


@pytest.fixture
def other(caller: Caller) -> FakeRaylet:
    raylet = FakeRaylet(1001)
    caller.raylets.add(ELSEWHERE, raylet)
    return raylet


def test_a_request_sent_on_is_granted_there_and_its_lease_returned_there(
    caller: Caller, other: FakeRaylet
) -> None:
    ref = caller.task()
    spill(caller, caller.raylet)
    (request,) = other.asked(RequestLease)
    address = Address(b"far".ljust(32))
    other.answer(LeaseGranted(request.req, LeaseName(ELSEWHERE, 1), address, 5))
    worker = caller.peers.get(address)
    caller.answer(worker, caller.pushed(worker)[0], 1)
    assert caller.outcome(ref) == 1
    caller.pass_time(1.0)
    assert [m.lease for m in other.took(ReturnLease)] == [LeaseName(ELSEWHERE, 1)]
    assert not caller.raylet.took(ReturnLease)


def test_a_request_sent_on_is_cancelled_where_it_is(caller: Caller, other: FakeRaylet) -> None:
    ref = caller.task()
    spill(caller, caller.raylet)
    caller.cancelling.cancel(ref, False, True)
    (order,) = other.took(CancelLeaseRequest)
    other.answer(LeaseCancelled(order.req))
    assert not caller.raylet.took(CancelLeaseRequest)


def test_a_request_that_nobody_wants_any_more_is_not_sent_on(caller: Caller, other: FakeRaylet) -> None:
    ref = caller.task()
    caller.cancelling.cancel(ref, False, True)
    spill(caller, caller.raylet)
    assert not other.asked(RequestLease)


def test_a_request_is_not_sent_in_circles(caller: Caller, other: FakeRaylet) -> None:
    ref = caller.task()
    spill(caller, caller.raylet)
    spill(caller, other, NODE)
    assert "which was asked before" in str(caller.outcome(ref))


def test_a_request_sent_on_to_a_node_that_is_not_known_fails_its_tasks(caller: Caller) -> None:
    ref = caller.task()
    spill(caller, caller.raylet)
    assert "elsewhere:1" in str(caller.outcome(ref))


# -- cancelling ----------------------------------------------------------------------------------


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


# -- answers nobody expects ----------------------------------------------------------------------


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
