"""The reference counter, one rule a test: counts, containment, each carrier's guard, and deaths."""

from __future__ import annotations

from itertools import pairwise

import pytest

from beamlet.base.ids import Address, NodeId, ObjectId
from beamlet.core_worker.owning.borrowing import (
    ArgumentsGuard,
    DeleteStored,
    Freed,
    ReplyMayGo,
    ResultsGuard,
    SendAddBorrower,
    SendReleaseHold,
    SendRemoveBorrower,
)
from beamlet.core_worker.owning.object_record import FREED, INLINE, LOST, STORED
from beamlet.core_worker.owning.reference_counter import ReferenceCounter

ME, OWNER, PEER = Address(b"me"), Address(b"owner"), Address(b"peer")
NODE, OTHER_NODE = NodeId(b"node"), NodeId(b"other")
A, B, C = ObjectId(b"a"), ObjectId(b"b"), ObjectId(b"c")


@pytest.fixture
def counter() -> ReferenceCounter:
    return ReferenceCounter(ME)


def put(counter: ReferenceCounter, object_id: ObjectId, *contained: tuple[bytes, bytes]) -> None:
    counter.set_inline(counter.new_owned(object_id), b"v", contained)


def borrow(counter: ReferenceCounter, object_id: ObjectId) -> None:
    """A registered reference to an object of OWNER."""
    counter.found_in_value(None, [(object_id, OWNER)])
    (sent,) = counter.take_effects()
    assert isinstance(sent, SendAddBorrower)
    counter.registered(sent.token)


def test_an_inline_object_is_forgotten_without_any_effect(counter: ReferenceCounter) -> None:
    record = counter.new_owned(A)
    counter.set_inline(record, b"v")
    assert (record.state, record.payload) == (INLINE, b"v")
    counter.release_many([A])
    assert (record.state, counter.objects, counter.outbox) == (FREED, {}, [])


def test_every_reference_and_every_task_must_go_first(counter: ReferenceCounter) -> None:
    put(counter, A)
    counter.found_in_value(None, [(A, ME)])
    counter.add_submitted([A, A])
    counter.release_many([A, A])
    counter.remove_submitted([A])
    assert A in counter.objects
    counter.remove_submitted([A])
    assert A not in counter.objects


def test_a_stored_object_is_deleted_where_it_lies_in_one_effect_per_node(counter: ReferenceCounter) -> None:
    for object_id in (A, B):
        counter.set_stored(counter.new_owned(object_id), (NODE,), 10)
    assert counter.objects[A].state == STORED
    counter.release_many([A, B])
    assert counter.take_effects() == [DeleteStored(NODE, [A, B])]


def test_the_end_of_a_watched_object_is_reported(counter: ReferenceCounter) -> None:
    counter.new_owned(A).watched = True
    counter.release_many([A])
    assert counter.take_effects() == [Freed(A, b"")]


def test_a_long_chain_of_containers_dies_without_recursion(counter: ReferenceCounter) -> None:
    ids = [ObjectId(b"%d" % number) for number in range(5000)]
    put(counter, ids[0])
    for inner, outer in pairwise(ids):
        put(counter, outer, (inner, ME))
    counter.release_many(ids[:-1])
    assert len(counter.objects) == len(ids)
    counter.release_many(ids[-1:])
    assert counter.objects == {}


def test_a_value_set_again_after_a_rerun_drops_what_the_first_contained(counter: ReferenceCounter) -> None:
    put(counter, A)
    put(counter, B)
    put(counter, C, (A, ME))
    counter.set_inline(counter.objects[C], b"v", [(B, ME)])
    counter.release_many([A, B])
    assert counter.objects.keys() == {B, C}
    counter.set_lost(counter.objects[C], "its node died")
    assert counter.objects.keys() == {C}
    counter.check_invariants()


def test_a_reference_kept_from_arguments_is_registered_before_the_reply(counter: ReferenceCounter) -> None:
    arguments = ArgumentsGuard(reply=7, nested=[A, B])
    counter.found_in_arguments(arguments, [(A, OWNER), (B, OWNER)])
    assert counter.outbox == []
    counter.release_many([B])
    assert counter.outbox == [], "a reference dropped before the answer needs no message at all"
    assert not counter.task_finished(arguments)
    (sent,) = counter.take_effects()
    assert isinstance(sent, SendAddBorrower)
    assert (sent.owner, sent.object_ids) == (OWNER, [A])
    counter.registered(sent.token)
    assert counter.take_effects() == [ReplyMayGo(7)]


def test_a_task_that_keeps_nothing_answers_at_once(counter: ReferenceCounter) -> None:
    arguments = ArgumentsGuard(reply=7)
    counter.found_in_arguments(arguments, [(A, OWNER)])
    counter.release_many([A])
    assert counter.task_finished(arguments)
    assert (counter.outbox, counter.objects) == ([], {})


def test_an_outer_object_is_kept_until_what_was_found_in_it_is_registered(counter: ReferenceCounter) -> None:
    borrow(counter, A)
    counter.found_in_value(A, [(B, PEER), (C, OWNER)])
    one, two = counter.take_effects()
    counter.release_many([A])
    counter.registered(one.token)  # type: ignore[union-attr]
    assert A in counter.objects
    counter.registered(two.token)  # type: ignore[union-attr]
    assert A not in counter.objects
    assert counter.take_effects() == [SendRemoveBorrower(OWNER, [A])]


def test_getting_our_own_list_of_references_again_sends_nothing(counter: ReferenceCounter) -> None:
    borrow(counter, B)
    put(counter, A, (B, OWNER))
    counter.found_in_value(A, [(B, OWNER)])
    counter.release_many([B, B])
    assert counter.outbox == []
    assert B in counter.objects


def test_results_are_taken_over_before_their_hold_is_released(counter: ReferenceCounter) -> None:
    guard = ResultsGuard(PEER, hold=3)
    counter.set_inline(counter.new_owned(A), b"v", [(B, OWNER)], guard)
    counter.settle(guard)
    (sent,) = counter.take_effects()
    counter.registered(sent.token)  # type: ignore[union-attr]
    assert counter.take_effects() == [SendReleaseHold(PEER, 3)]


def test_results_nobody_wants_release_their_hold_at_once(counter: ReferenceCounter) -> None:
    counter.settle(ResultsGuard(PEER, hold=3))
    assert counter.take_effects() == [SendReleaseHold(PEER, 3)]


def test_the_executor_holds_results_except_what_the_receiver_passed(counter: ReferenceCounter) -> None:
    arguments = ArgumentsGuard(reply=1, nested=[B])
    counter.found_in_arguments(arguments, [(B, PEER)])
    put(counter, A)
    assert counter.hold_results(PEER, [(B, PEER)], arguments) == 0
    hold = counter.hold_results(PEER, [(A, ME), (B, PEER)], arguments)
    counter.release_many([A, B])
    assert counter.objects.keys() == {A}
    counter.release_hold(hold)
    assert counter.objects == {}


def test_a_reference_dropped_and_met_again_is_registered_afresh(counter: ReferenceCounter) -> None:
    counter.found_in_value(None, [(A, OWNER)])
    counter.release_many([A])
    counter.found_in_value(None, [(A, OWNER)])
    first, removed, second = counter.take_effects()
    assert removed == SendRemoveBorrower(OWNER, [A])
    counter.registered(first.token)  # type: ignore[union-attr]
    assert counter.objects[A].borrow == second.token  # type: ignore[union-attr]


def test_the_owner_keeps_what_is_borrowed_and_names_what_it_lacks(counter: ReferenceCounter) -> None:
    put(counter, A)
    assert counter.add_borrower(PEER, [A, B]) == [B]
    counter.release_many([A])
    counter.check_invariants()
    counter.remove_borrower(PEER, [A, B])
    assert counter.objects == {}


def test_a_borrowed_object_the_owner_lacks_is_lost(counter: ReferenceCounter) -> None:
    counter.found_in_value(None, [(A, OWNER)])
    (sent,) = counter.take_effects()
    assert counter.registered(sent.token, [A]) == [A]  # type: ignore[union-attr]
    assert counter.objects[A].state == LOST
    counter.release_many([A])
    assert counter.outbox == [], "who does not have it need not hear that we dropped it"


def test_a_dead_borrower_no_longer_counts(counter: ReferenceCounter) -> None:
    put(counter, A)
    put(counter, B)
    counter.add_borrower(PEER, [A])
    counter.hold_results(PEER, [(B, ME)])
    counter.release_many([A, B])
    assert counter.peer_gone(PEER) == []
    assert counter.objects == {}
    counter.check_invariants()


def test_with_its_owner_an_object_is_lost_but_a_value_already_here_stays(counter: ReferenceCounter) -> None:
    borrow(counter, A)
    borrow(counter, B)
    counter.set_inline(counter.objects[B], b"v")
    assert counter.peer_gone(OWNER, "killed by signal 9") == [A]
    assert "killed by signal 9" in counter.objects[A].reason
    assert counter.objects[B].state == INLINE
    assert counter.peer_gone(OWNER) == []
    counter.check_invariants()
    counter.release_many([A, B])
    assert (counter.objects, counter.outbox) == ({}, [])


def test_a_reply_does_not_wait_for_a_dead_owner(counter: ReferenceCounter) -> None:
    arguments = ArgumentsGuard(reply=7)
    counter.found_in_arguments(arguments, [(A, OWNER)])
    assert not counter.task_finished(arguments)
    counter.take_effects()
    assert counter.peer_gone(OWNER) == [A]
    assert counter.take_effects() == [ReplyMayGo(7)]


def test_our_own_reference_that_comes_back_too_late_is_lost_with_a_reason(counter: ReferenceCounter) -> None:
    counter.found_in_value(None, [(A, ME)])
    assert counter.objects[A].state == LOST
    assert "already freed" in counter.objects[A].reason
    assert counter.outbox == []


def test_what_a_dead_process_stored_for_an_object_that_is_over_is_deleted(counter: ReferenceCounter) -> None:
    put(counter, A)
    for object_id in (A, B):
        counter.stored_by_dead(object_id, NODE)
    assert counter.take_effects() == [DeleteStored(NODE, [A]), DeleteStored(NODE, [B])]


def test_what_a_dead_process_stored_and_announced_is_kept(counter: ReferenceCounter) -> None:
    counter.set_stored(counter.new_owned(A), (NODE,), 10)
    counter.stored_by_dead(A, NODE)
    counter.stored_by_dead(A, OTHER_NODE)
    assert counter.take_effects() == [DeleteStored(OTHER_NODE, [A])]


def test_what_a_dead_process_stored_for_a_promised_object_goes_with_it(counter: ReferenceCounter) -> None:
    """Whatever becomes of it: a small value, an error set on the short way, another place, nothing."""
    small, short_cut, elsewhere, dropped = (ObjectId(name) for name in (b"s", b"c", b"e", b"d"))
    for object_id in (small, short_cut, elsewhere, dropped):
        counter.new_owned(object_id)
        counter.stored_by_dead(object_id, NODE)
        counter.stored_by_dead(object_id, NODE)
    counter.set_inline(counter.objects[small], b"v")
    counter.objects[short_cut].state = INLINE  # as ResultTaker.take_result does
    counter.set_stored(counter.objects[elsewhere], (OTHER_NODE,), 10)
    assert not counter.outbox, "another attempt may find it there"
    assert counter.objects[elsewhere].nodes == (OTHER_NODE, NODE)
    for object_id in (small, short_cut, elsewhere, dropped):
        counter.release_many([object_id])
    here = [id for effect in counter.take_effects() if effect.node == NODE for id in effect.object_ids]
    assert here == [small, short_cut, elsewhere, dropped]
