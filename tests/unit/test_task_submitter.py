"""The task submitter, one rule a test: leases asked for and given back, work pushed ahead, stolen, lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pytest

from beamlet.core_worker.submitting.key_state import PIPELINE_MAX, LeasedWorker
from beamlet.core_worker.submitting.pending import PendingTask
from beamlet.core_worker.submitting.task_spec import SchedulingKey
from beamlet.core_worker.submitting.task_submitter import (
    ASK_AGAIN_S,
    IDLE_LEASE_S,
    MAX_LEASE_REQUESTS,
    TURN_S,
    TaskSubmitter,
)
from beamlet.protocol.peer import PushTask, StealTasks
from support.tasks import ONE_CPU, LeaseDesk, SentMessages, a_task

SHORT_US = 10
LONG_US = 1_000_000


@pytest.fixture
def desk() -> LeaseDesk:
    return LeaseDesk()


@pytest.fixture
def submitter(desk: LeaseDesk) -> TaskSubmitter:
    return TaskSubmitter(desk)


def submit(submitter: TaskSubmitter, *names: str, key: SchedulingKey = ONE_CPU) -> list[PendingTask]:
    tasks = [a_task(name, key) for name in names]
    for task in tasks:
        submitter.submit(task)
    return tasks


def grant(
    submitter: TaskSubmitter, desk: LeaseDesk, now: float = 1.0, devices: dict[str, list[int]] | None = None
) -> tuple[LeasedWorker, SentMessages]:
    """Answer the oldest open request with a new worker; its lease id is the request's number."""
    req = desk.open_requests()[0]
    del desk.asked[req]
    link = SentMessages()
    worker = submitter.granted(req, req, b"w%d" % req, 100 + req, link, now, devices)
    assert worker is not None
    return worker, link


def finish(
    submitter: TaskSubmitter, worker: LeasedWorker, us: int = SHORT_US, now: float = 2.0
) -> PendingTask:
    """The worker answers its oldest task."""
    task = submitter.take_result(worker, next(iter(worker.in_flight)), us)
    assert task is not None
    submitter.refill(worker, now)
    submitter.check_invariants()
    return task


def test_what_must_not_run_twice_is_sent_one_at_a_time(submitter: TaskSubmitter, desk: LeaseDesk) -> None:
    """Of several at a worker that died nobody knows which had run: answers may have been lost with it."""
    once = SchedulingKey(ONE_CPU.resources, once=True)
    submit(submitter, "warm", key=once)
    worker, _ = grant(submitter, desk)
    finish(submitter, worker)
    submit(submitter, *"abc", key=once)
    assert names(worker) == ["a"]
    finish(submitter, worker)
    assert names(worker) == ["b"]
    assert [task.spec.name for task in submitter.lost(worker)] == ["b"]


def names(worker: LeasedWorker) -> list[str]:
    return [task.spec.name for task in worker.in_flight.values()]


def warmed(
    submitter: TaskSubmitter, desk: LeaseDesk, us: int = SHORT_US
) -> tuple[LeasedWorker, SentMessages]:
    """A leased worker whose key is known to have tasks that take ``us``."""
    submit(submitter, "warm")
    worker, link = grant(submitter, desk)
    finish(submitter, worker, us)
    link.take()
    return worker, link


# -- leases --------------------------------------------------------------------------------------


def test_the_first_task_asks_for_a_worker_and_is_pushed_when_it_comes(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    submit(submitter, "a")
    assert (len(desk.asked), submitter.queued_count()) == (1, 1)
    worker, link = grant(submitter, desk, devices={"GPU": [1]})
    (message,) = link.sent
    assert isinstance(message, PushTask)
    assert (message.name, message.seq, message.accelerators) == ("a", 1, {"GPU": [1]})
    assert finish(submitter, worker).spec.name == "a"


def test_requests_grow_with_the_queue_up_to_a_bound(submitter: TaskSubmitter, desk: LeaseDesk) -> None:
    for n in range(MAX_LEASE_REQUESTS + 7):
        submit(submitter, f"t{n}")
        assert len(desk.asked) == min(n + 1, MAX_LEASE_REQUESTS)


def test_each_key_has_workers_of_its_own(submitter: TaskSubmitter, desk: LeaseDesk) -> None:
    other = SchedulingKey((("CPU", 20_000),))
    submit(submitter, "a")
    submit(submitter, "b", key=other)
    assert set(desk.asked.values()) == {ONE_CPU, other}
    worker, _ = grant(submitter, desk)
    assert names(worker) == ["a"]
    assert submitter.queued_count() == 1


def test_requests_nobody_needs_any_more_are_taken_back(submitter: TaskSubmitter, desk: LeaseDesk) -> None:
    submit(submitter, "a", "b")
    worker, _ = grant(submitter, desk)
    finish(submitter, worker)
    finish(submitter, worker)
    assert desk.open_requests() == []
    # The cancellation crosses a grant: the worker goes straight back.
    (late,) = desk.cancelled
    assert submitter.granted(late, 77, b"w", 1, SentMessages(), 3.0) is None
    assert desk.returned == [(77, False)]


def test_an_idle_lease_is_kept_a_moment_for_what_comes_next(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    worker, link = warmed(submitter, desk)
    assert submitter.tick(2.0) == pytest.approx(2.0 + IDLE_LEASE_S)
    submit(submitter, "next")
    assert (link.names(), desk.open_requests()) == (["next"], [])
    assert submitter.tick(9.0) is None, "a worker with work is not idle"
    finish(submitter, worker, now=10.0)
    assert submitter.tick(10.0 + IDLE_LEASE_S) is None
    assert desk.returned == [(worker.lease, False)]
    assert submitter.keys == {}, "a key without tasks, workers or requests is forgotten"


def test_the_raylet_may_ask_for_idle_leases_at_once(submitter: TaskSubmitter, desk: LeaseDesk) -> None:
    worker, _ = warmed(submitter, desk)
    submitter.return_idle(0.0)
    assert desk.returned == [(worker.lease, False)]
    submit(submitter, "a")
    assert len(desk.open_requests()) == 1, "the next task asks anew"


def test_a_worker_that_leaves_is_disposed_of_after_its_last_answer(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    submit(submitter, "a", "b")
    worker, _ = grant(submitter, desk)
    worker.leaving = True
    finish(submitter, worker)
    assert desk.returned == [(worker.lease, True)]
    assert submitter.queued_count() == 1
    assert len(desk.open_requests()) == 1, "b still has its request"


def test_a_worker_that_leaves_is_disposed_of_though_the_last_it_had_was_stolen(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    """It had answered when it was asked, and not yet begun the next: it ran once more for somebody."""
    worker, _ = loaded(submitter, desk)
    worker.leaving = True
    finish(submitter, worker)
    submitter.handed_back(worker, list(worker.in_flight), False, 3.0)
    assert desk.returned == []
    submitter.tick(3.0 + IDLE_LEASE_S)
    assert desk.returned == [(worker.lease, True)]


def test_a_refused_key_gives_up_all_its_tasks(submitter: TaskSubmitter, desk: LeaseDesk) -> None:
    tasks = submit(submitter, "a", "b", "c")
    first = min(desk.asked)
    assert submitter.refused(first, 1.0) == tasks
    assert sorted(desk.cancelled) == [req for req in desk.asked if req != first]
    assert submitter.refused(first, 1.0) == [], "an answer to a request that is over changes nothing"


def test_a_task_that_is_tried_again_waits_on_while_a_node_is_full(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    """5 s without a process for it ended a task with max_retries=-1."""
    (begun,) = submit(submitter, "a")
    worker, _ = grant(submitter, desk)
    assert submitter.lost(worker) == [begun]
    begun.attempt += 1
    submitter.requeue([begun])
    fresh = submit(submitter, "b", "c")
    for told in (fresh, []):
        req = desk.open_requests()[0]
        del desk.asked[req]
        assert submitter.refused(req, 1.0, for_now=True) == told
        submitter.check_invariants()
        assert len(desk.open_requests()) == 1, "it is asked for again"
    worker, _ = grant(submitter, desk)
    assert list(worker.in_flight.values()) == [begun]


@pytest.mark.parametrize("for_now", [True, False])
def test_what_is_refused_beside_a_busy_worker_is_asked_for_again(
    submitter: TaskSubmitter, desk: LeaseDesk, for_now: bool
) -> None:
    """Nine tasks waited for the end of one that ran, however long, on a node that had room again."""
    submit(submitter, *"abcd")
    worker, _ = grant(submitter, desk, now=1.0)
    for req in desk.open_requests():
        del desk.asked[req]
        assert submitter.refused(req, 1.0, for_now) == [], "they may get their turn at the worker"
        submitter.check_invariants()
    assert desk.open_requests() == [], "processes that die at once are not asked for without a pause"
    due = submitter.tick(1.5)
    assert due == 1.5 + IDLE_LEASE_S, "no later than a lease that idles meanwhile is given back"
    assert desk.open_requests() == []
    assert submitter.tick(1.0 + ASK_AGAIN_S) is None
    assert len(desk.open_requests()) == 3
    grant(submitter, desk)
    assert names(worker) == ["a"]


def test_what_was_refused_is_asked_for_at_once_when_its_last_worker_goes(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    submit(submitter, "a", "b")
    worker, _ = grant(submitter, desk)
    submitter.refused(desk.open_requests()[0], 1.0)
    desk.asked.clear()
    assert [task.spec.name for task in submitter.lost(worker)] == ["a"]
    assert len(desk.open_requests()) == 1
    assert submitter.tick(1.1) is None


def test_a_request_that_ended_without_a_lease_is_made_again(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    submit(submitter, "a")
    submitter.cancelled(1)
    assert sorted(desk.asked) == [1, 2]


def test_a_request_for_what_waits_behind_a_task_is_made_again_too(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    worker, _ = warmed(submitter, desk)
    submit(submitter, "a", "b")
    assert (names(worker), submitter.queued_count()) == (["a", "b"], 0)
    (req,) = desk.open_requests()
    submitter.cancelled(req)
    assert len(desk.open_requests()) == 2  # the answered one is still written down


# -- pushing ahead -------------------------------------------------------------------------------


def test_nothing_is_pushed_ahead_until_it_is_known_how_long_tasks_take(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    submit(submitter, "a", "b", "c")
    worker, _ = grant(submitter, desk)
    assert names(worker) == ["a"]
    finish(submitter, worker, SHORT_US)
    assert names(worker) == ["b", "c"]


@pytest.mark.parametrize(("us", "depth"), [(0, 250), (92, 20), (992, 2), (1993, 1), (LONG_US, 1)])
def test_about_two_milliseconds_of_work_are_pushed_ahead(
    submitter: TaskSubmitter, desk: LeaseDesk, us: int, depth: int
) -> None:
    assert depth <= PIPELINE_MAX
    worker, _ = warmed(submitter, desk, us)
    submit(submitter, *(f"t{n}" for n in range(300)))
    assert len(worker.in_flight) == depth
    assert submitter.queued_count() == 300 - depth


def test_nothing_is_pushed_ahead_to_a_worker_whose_calls_are_counted(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    counted = SchedulingKey((("CPU", 10_000),), alone=b"function")
    submit(submitter, "a", "b", "c", key=counted)
    worker, _ = grant(submitter, desk)
    for name in "abc":
        assert names(worker) == [name], "its answer may be its last"
        finish(submitter, worker, SHORT_US)


def test_what_waits_is_shared_out_evenly(submitter: TaskSubmitter, desk: LeaseDesk) -> None:
    first, _ = warmed(submitter, desk)
    submit(submitter, "a", "b")
    second, _ = grant(submitter, desk)
    submit(submitter, *"cdefgh")
    assert len(first.in_flight) + len(second.in_flight) == 8
    assert abs(len(first.in_flight) - len(second.in_flight)) <= 2


def test_an_answer_that_is_no_longer_expected_is_nobodys(submitter: TaskSubmitter, desk: LeaseDesk) -> None:
    worker, _ = warmed(submitter, desk)
    assert submitter.take_result(worker, 99, SHORT_US) is None


class Unscanned(deque[PendingTask]):
    """A queue that may be added to and taken from at its ends only."""

    def __iter__(self) -> object:  # type: ignore[override]
        raise AssertionError("the whole queue was walked through")

    def __contains__(self, item: object) -> bool:
        raise AssertionError("the whole queue was searched")


def test_submitting_and_answering_never_walk_through_the_queue(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    submit(submitter, "a")
    submitter.keys[ONE_CPU].queue = Unscanned(submitter.keys[ONE_CPU].queue)
    submit(submitter, *(f"t{n}" for n in range(50)))
    worker, _ = grant(submitter, desk)
    for _ in range(20):
        task = submitter.take_result(worker, next(iter(worker.in_flight)), 500)
        assert task is not None
        submitter.refill(worker, 2.0)
    submitter.handed_back(worker, list(worker.in_flight)[1:], False, 3.0)


# -- stealing and handing back -------------------------------------------------------------------


def loaded(submitter: TaskSubmitter, desk: LeaseDesk) -> tuple[LeasedWorker, SentMessages]:
    """A worker with a..e in flight: short tasks were expected, and a turns out to be long."""
    worker, link = warmed(submitter, desk)
    submit(submitter, *"abcde")
    assert names(worker) == list("abcde")
    link.take()
    return worker, link


def test_a_new_worker_takes_half_of_what_waits_behind_another(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    victim, to_victim = loaded(submitter, desk)
    thief, to_thief = grant(submitter, desk)
    (steal,) = to_victim.take()
    assert isinstance(steal, StealTasks)
    assert steal.most == 2
    submitter.handed_back(victim, [5, 6], False, 3.0)
    assert (to_thief.names(), names(victim)) == (["d", "e"], ["a", "b", "c"])
    assert thief.idle_since == 0.0
    submitter.check_invariants()


def test_a_worker_is_asked_once_at_a_time(submitter: TaskSubmitter, desk: LeaseDesk) -> None:
    _, to_victim = loaded(submitter, desk)
    grant(submitter, desk)
    grant(submitter, desk)
    assert len(to_victim.take()) == 1


def test_the_second_idle_worker_gets_its_share_when_the_first_theft_is_done(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    victim, to_victim = warmed(submitter, desk)
    submit(submitter, *"abc")
    first, _ = grant(submitter, desk)
    second, _ = grant(submitter, desk)
    (steal,) = [message for message in to_victim.take() if isinstance(message, StealTasks)]
    assert steal.most == 1
    submitter.handed_back(victim, [4], False, 3.0)
    assert names(first) == ["c"]
    assert [type(message) for message in to_victim.take()] == [StealTasks], "b waits behind a, second idles"
    submitter.handed_back(victim, [3], False, 3.1)
    assert (names(victim), names(first), names(second)) == (["a"], ["c"], ["b"])


def test_who_has_nothing_to_give_is_not_asked_again_at_once(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    victim, to_victim = loaded(submitter, desk)
    thief, _ = grant(submitter, desk)
    to_victim.take()
    submitter.handed_back(victim, [], False, 3.0)
    assert to_victim.take() == []
    assert thief.idle_since


def test_what_comes_back_after_the_thief_left_goes_to_whoever_is_free(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    """The victim had begun nothing of it, then finished all else: it is the only worker there is."""
    victim, to_victim = loaded(submitter, desk)
    thief, _ = grant(submitter, desk)
    to_victim.take()
    assert submitter.lost(thief) == []
    for seq in (2, 3, 4):
        submitter.take_result(victim, seq, SHORT_US)
    submitter.handed_back(victim, [5, 6], False, 3.0)
    assert (to_victim.names(), submitter.queued_count()) == (["d", "e"], 0)


def test_a_blocked_worker_gets_nothing_until_it_answers(submitter: TaskSubmitter, desk: LeaseDesk) -> None:
    worker, link = loaded(submitter, desk)
    submitter.handed_back(worker, [3, 4, 5, 6], True, 3.0)
    assert (names(worker), submitter.queued_count()) == (["a"], 4)
    assert len(desk.open_requests()) >= 4, "others are asked for to run what it handed back"
    submit(submitter, "f")
    assert link.names() == []
    finish(submitter, worker)
    assert link.names() == list("bcdef"), "in their old order, before what came later"


def test_tasks_come_back_in_order_whatever_the_message_says(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    worker, _ = loaded(submitter, desk)
    submitter.handed_back(worker, [6, 4, 5, 99], True, 3.0)
    queue = submitter.keys[ONE_CPU].queue
    assert [task.spec.name for task in queue] == ["c", "d", "e"]


def test_a_task_cancelled_while_it_came_back_is_not_run_again(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    worker, _ = loaded(submitter, desk)
    cancelled = worker.in_flight[5]
    cancelled.unwanted = True
    assert submitter.handed_back(worker, [4, 5], True, 3.0) == [cancelled]
    assert [task.spec.name for task in submitter.keys[ONE_CPU].queue] == ["c"]


def test_every_push_has_a_message_of_its_own(submitter: TaskSubmitter, desk: LeaseDesk) -> None:
    """What the first worker was sent says what it was sent, whatever becomes of the task."""
    (task,) = submit(submitter, "a")
    worker, link = grant(submitter, desk)
    (lost,) = submitter.lost(worker)
    lost.attempt += 1
    submitter.requeue([lost])
    _, other = grant(submitter, desk, devices={"GPU": [3]})
    (first,), (second,) = link.sent, other.sent
    assert isinstance(first, PushTask)
    assert isinstance(second, PushTask)
    assert (first.attempt, first.accelerators) == (0, None)
    assert (second.attempt, second.accelerators) == (1, {"GPU": [3]})
    assert first.task_id == second.task_id == task.spec.task_id


# -- losing, cancelling --------------------------------------------------------------------------


def test_a_lost_worker_leaves_its_tasks_oldest_first(submitter: TaskSubmitter, desk: LeaseDesk) -> None:
    worker, _ = loaded(submitter, desk)
    tasks = submitter.lost(worker)
    assert [task.spec.name for task in tasks] == list("abcde")
    assert submitter.lost(worker) == []
    assert desk.returned == [], "the raylet has taken the lease back already"
    submit(submitter, "z")
    submitter.requeue(tasks)
    queue = submitter.keys[ONE_CPU].queue
    assert [task.spec.name for task in queue] == list("abcdez")
    assert len(desk.open_requests()) == 6


def test_lost_tasks_of_two_keys_go_back_to_their_own(submitter: TaskSubmitter, desk: LeaseDesk) -> None:
    other = SchedulingKey((("CPU", 20_000),))
    tasks = [a_task("a"), a_task("b", other), a_task("c")]
    submitter.requeue(tasks)
    assert [len(state.queue) for state in submitter.keys.values()] == [2, 1]
    assert sorted(key.resources[0][1] for key in desk.asked.values()) == [10_000, 10_000, 20_000]


def test_a_queued_task_can_be_taken_back_and_a_pushed_one_cannot(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    first, second = submit(submitter, "a", "b")
    grant(submitter, desk)
    assert submitter.worker_of(first) is not None
    submitter.remove(second)
    assert second.settled
    assert desk.open_requests() == []


@pytest.mark.parametrize("order", [1, -1])
def test_taking_back_what_is_queued_costs_the_same_wherever_it_stands(
    submitter: TaskSubmitter, desk: LeaseDesk, order: int
) -> None:
    tasks = submit(submitter, *(f"t{i:05}" for i in range(20_000)))
    walked = 0

    class Counting(deque[PendingTask]):
        def __iter__(self) -> Iterator[PendingTask]:
            nonlocal walked
            walked += len(self)
            return super().__iter__()

    state = submitter.keys[ONE_CPU]
    state.queue = Counting(state.queue)
    for task in tasks[1:][::order]:
        submitter.remove(task)
    assert walked < 3 * len(tasks)
    submitter.check_invariants()
    assert submitter.queued_count() == 1
    worker, _ = grant(submitter, desk)
    assert names(worker) == ["t00000"]


def test_what_was_taken_back_in_the_middle_is_passed_over(submitter: TaskSubmitter, desk: LeaseDesk) -> None:
    tasks = submit(submitter, *"abcdefg")
    for task in (tasks[3], tasks[1]):
        submitter.remove(task)
        submitter.check_invariants()
    assert [task.spec.name for task in submitter.refused(desk.open_requests()[0], 1.0)] == list("acefg")


def test_taking_back_the_last_queued_task_keeps_the_requests_for_those_behind_others(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    worker, _ = warmed(submitter, desk, us=992)
    *_, queued = submit(submitter, "a", "b", "c")
    assert names(worker) == ["a", "b"]
    submitter.remove(queued)
    assert desk.open_requests(), "b waits behind a, which may take long"


def test_explain_says_what_waits_for_what(submitter: TaskSubmitter, desk: LeaseDesk) -> None:
    submit(submitter, "a", "b")
    grant(submitter, desk)
    assert submitter.explain() == [{"name": "b", "queued": 1, "in_flight": 1, "workers": 1, "requests": [2]}]


def test_a_busy_lease_that_was_asked_for_is_given_back_when_it_runs_dry(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    worker, _ = warmed(submitter, desk)
    submit(submitter, "a")
    submitter.return_idle(5.0)
    assert desk.returned == []
    finish(submitter, worker, now=5.1)
    assert desk.returned == [(worker.lease, False)]


def test_a_lease_that_was_asked_for_is_passed_on_after_its_turn_though_there_is_work(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    worker, _ = warmed(submitter, desk)
    for name in "abc":
        submit(submitter, name)
    submitter.return_idle(5.0)
    while worker.in_flight:
        finish(submitter, worker, now=5.0 + 2 * TURN_S)
    assert desk.returned == [(worker.lease, False)]
    if submitter.queued_count():
        assert desk.open_requests(), "what is left is asked for anew, behind the others"


def test_an_empty_answer_from_before_the_latest_push_does_not_spare_a_worker_from_stealing(
    submitter: TaskSubmitter, desk: LeaseDesk
) -> None:
    worker, _ = warmed(submitter, desk)
    submit(submitter, "a")
    worker.stealing, worker.asked_at_seq = True, worker.next_seq
    submit(submitter, "b", "c")
    submitter.handed_back(worker, [], False, 3.0)
    assert not worker.barren
    worker.stealing, worker.asked_at_seq = True, worker.next_seq
    submitter.handed_back(worker, [], False, 3.0)
    assert worker.barren
