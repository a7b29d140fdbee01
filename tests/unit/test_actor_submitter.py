"""Calls of one actor on their way: order, incarnations, what is sent again, and what a death fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pytest

from beamlet.base.ids import ActorId, Address
from beamlet.core_worker.submitting.actor_submitter import ActorLink, LinkState
from beamlet.core_worker.submitting.pending import PendingCall
from beamlet.protocol.gcs import ActorUpdate
from support.tasks import SentMessages, a_call

ACTOR = ActorId(b"a" * 16)


@pytest.fixture
def link() -> ActorLink:
    return ActorLink(ACTOR, "Counter")


def update(link: ActorLink, state: str, incarnation: int = 0) -> tuple[Address | None, list[PendingCall]]:
    address = Address(b"w%d" % incarnation) if state == "ALIVE" else Address(b"")
    told = link.update(ActorUpdate(ACTOR, state, address, incarnation, cause="a test"))
    link.check_invariants()
    return told


def start(link: ActorLink, incarnation: int = 0) -> SentMessages:
    """The GCS says it lives, and the connection is there."""
    address, _ = update(link, "ALIVE", incarnation)
    assert address == b"w%d" % incarnation
    wire = SentMessages()
    link.connected(wire)
    link.check_invariants()
    return wire


def submit(link: ActorLink, *calls: PendingCall) -> None:
    for call in calls:
        assert link.submit(call)
        link.check_invariants()


def test_calls_wait_for_the_actor_and_leave_in_order(link: ActorLink) -> None:
    submit(link, a_call("a"), a_call("b"))
    assert link.pending_count == 2
    wire = start(link)
    submit(link, a_call("c"))
    assert wire.names() == ["a", "b", "c"]
    assert [message.seq for message in wire.sent] == [1, 2, 3]  # type: ignore[attr-defined]
    assert link.pending_count == 3


def test_an_answer_ends_one_call_once(link: ActorLink) -> None:
    wire = start(link)
    submit(link, call := a_call("a"))
    assert wire.names() == ["a"]
    assert link.answered(1) is call
    assert link.answered(1) is None
    assert link.pending_count == 0


def test_a_call_whose_argument_is_not_ready_holds_back_those_behind_it(link: ActorLink) -> None:
    wire = start(link)
    waits = a_call("waits", unresolved=1)
    submit(link, a_call("a"), waits, a_call("b"))
    assert wire.names() == ["a"]
    waits.unresolved = 0
    link.drain()
    assert wire.names() == ["a", "waits", "b"]


def test_where_order_does_not_matter_calls_pass_the_one_that_waits(link: ActorLink) -> None:
    link.ordered = False
    waits = a_call("waits", unresolved=1)
    submit(link, waits, a_call("a"))
    wire = start(link)
    submit(link, a_call("b"))
    assert wire.names() == ["a", "b"]
    waits.unresolved = 0
    link.drain()
    assert wire.names() == ["a", "b", "waits"]
    assert link.queue == type(link.queue)()


def test_a_retried_call_goes_before_what_is_queued(link: ActorLink) -> None:
    submit(link, a_call("later"))
    again = a_call("again")
    link.send_again(again)
    assert start(link).names() == ["again", "later"]
    assert again.attempt == 1


def test_a_cancelled_call_leaves_the_queue_and_lets_the_next_go(link: ActorLink) -> None:
    wire = start(link)
    waits = a_call("waits", unresolved=1)
    submit(link, waits, a_call("b"))
    assert link.find(waits.spec.task_id) is waits
    link.drop(waits)
    assert wire.names() == ["b"]
    assert link.find(waits.spec.task_id) is None


def test_a_restart_sends_again_what_may_be_and_fails_the_rest(link: ActorLink) -> None:
    start(link)
    once, twice, forever = a_call("once"), a_call("twice", retries=1), a_call("forever", retries=-1)
    submit(link, once, twice, forever)
    address, failed = update(link, "RESTARTING", 1)
    assert (address, failed) == (None, [once])
    submit(link, a_call("new", retries=1))
    second = start(link, 1)
    assert second.names() == ["twice", "forever", "new"]
    assert (twice.retries_left, forever.retries_left) == (0, -1)
    assert (twice.attempt, forever.attempt) == (1, 1)
    _, failed = update(link, "RESTARTING", 2)
    assert [call.spec.name for call in failed] == ["twice"]
    assert start(link, 2).names() == ["forever", "new"]


def test_while_it_restarts_only_calls_that_may_be_retried_wait(link: ActorLink) -> None:
    start(link)
    link.lost()
    early = a_call("early")
    submit(link, early, a_call("patient", retries=-1))
    _, failed = update(link, "RESTARTING", 1)
    assert failed == [early], "nobody knows yet whether it comes back"
    assert not link.submit(a_call("late"))
    link.check_invariants()
    assert start(link, 1).names() == ["patient"]


def test_calls_of_an_actor_that_dies_while_it_starts_wait_for_its_next_start(link: ActorLink) -> None:
    submit(link, a_call("early"))
    assert update(link, "RESTARTING", 1) == (None, [])
    submit(link, a_call("late"))
    link.check_invariants()
    assert start(link, 1).names() == ["early", "late"]


def test_calls_of_an_actor_that_never_starts_fail_with_it(link: ActorLink) -> None:
    submit(link, a_call("early"))
    update(link, "RESTARTING", 1)
    _, failed = update(link, "DEAD", 1)
    assert [call.spec.name for call in failed] == ["early"]


@pytest.mark.parametrize("order", [1, -1])
def test_sending_calls_as_their_arguments_come_walks_through_the_others_a_few_times(
    link: ActorLink, order: int
) -> None:
    link.ordered = False
    wire = start(link)
    calls = [a_call(f"c{i:05}", unresolved=1) for i in range(10_000)]
    assert all(link.submit(call) for call in calls)
    walked = 0

    class Counting(deque[PendingCall]):
        def __iter__(self) -> Iterator[PendingCall]:
            nonlocal walked
            walked += len(self)
            return super().__iter__()

    link.queue = Counting(link.queue)
    for call in calls[::order]:
        call.unresolved = 0
        link.resolved(call)
    assert walked < 3 * len(calls)
    assert wire.names() == [call.spec.name for call in calls[::order]]
    link.check_invariants()


def test_a_call_sent_out_of_order_is_sent_again_once(link: ActorLink) -> None:
    link.ordered = False
    start(link)
    waits, late, other = (a_call(name, retries=-1, unresolved=1) for name in ("waits", "late", "other"))
    submit(link, waits, late, other)
    late.unresolved = 0
    link.resolved(late)
    link.check_invariants()
    update(link, "RESTARTING", 1)
    assert start(link, 1).names() == ["late"]
    assert link.waiting() == [waits, other]


def test_finding_calls_walks_through_them_once(link: ActorLink) -> None:
    calls = [a_call(f"c{i:05}") for i in range(10_000)]
    submit_all = [link.submit(call) for call in calls]
    assert all(submit_all)
    walks = 0

    class Counting(deque[PendingCall]):
        def __iter__(self) -> Iterator[PendingCall]:
            nonlocal walks
            walks += len(self)
            return super().__iter__()

        def __reversed__(self) -> Iterator[PendingCall]:
            nonlocal walks
            for call in super().__reversed__():
                walks += 1
                yield call

    link.queue = Counting(link.queue)
    for call in calls[1::2] + calls[2::2]:
        assert link.find(call.spec.task_id) is call
        link.drop(call)
    assert walks < 4 * len(calls)
    late = a_call("late")
    link.submit(late)
    assert link.find(late.spec.task_id) is late
    link.check_invariants()
    assert start(link).names() == ["c00000", "late"]


def test_a_broken_connection_fails_nothing_before_the_cause_is_known(link: ActorLink) -> None:
    start(link)
    call = a_call("a")
    submit(link, call)
    link.lost()
    link.check_invariants()
    assert link.state is LinkState.LOST
    submit(link, later := a_call("later"))
    _, failed = update(link, "DEAD")
    assert failed == [call, later]
    assert link.death is not None
    assert link.death.cause == "a test"


def test_news_of_the_next_start_fails_what_the_last_one_took_along(link: ActorLink) -> None:
    """RESTARTING may be missed: states are sent, not transitions."""
    start(link)
    call = a_call("a")
    submit(link, call)
    address, failed = update(link, "ALIVE", 1)
    assert (address, failed) == (b"w1", [call])


def test_a_cancelled_call_is_not_sent_again(link: ActorLink) -> None:
    start(link)
    call = a_call("a", retries=-1)
    submit(link, call)
    call.unwanted = True
    _, failed = update(link, "RESTARTING", 1)
    assert failed == [call]


def test_a_dead_actor_takes_no_calls(link: ActorLink) -> None:
    submit(link, call := a_call("a"))
    assert update(link, "DEAD") == (None, [call])
    assert not link.submit(a_call("b"))
    assert update(link, "ALIVE", 5) == (None, [])
    assert update(link, "DEAD", 5) == (None, [])


@pytest.mark.parametrize("state", ["ALIVE", "RESTARTING", "DEAD"])
def test_old_news_changes_nothing(link: ActorLink, state: str) -> None:
    start(link, 3)
    submit(link, a_call("a"))
    assert update(link, state, 2) == (None, [])
    assert (link.state, len(link.in_flight)) == (LinkState.READY, 1)


def test_hearing_twice_that_it_lives_keeps_the_connection(link: ActorLink) -> None:
    wire = start(link)
    submit(link, a_call("a"))
    assert update(link, "ALIVE") == (None, [])
    submit(link, a_call("b"))
    assert wire.names() == ["a", "b"]


def test_a_connection_that_comes_too_late_is_not_used(link: ActorLink) -> None:
    update(link, "ALIVE")
    update(link, "DEAD")
    link.connected(SentMessages())
    link.check_invariants()
    link.lost()
    assert link.state is LinkState.DEAD
