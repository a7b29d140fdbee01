"""Actors as their callers see them, from creation to the last call, on a wire that is a list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from beamlet.base.ids import ObjectId
from beamlet.core_worker.node_link import Unsent
from beamlet.core_worker.submitting.actor_submitter import LinkState
from beamlet.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorUnavailableError,
    RayError,
    TaskCancelledError,
)
from beamlet.protocol.gcs import (
    ActorAccepted,
    ActorNameTaken,
    ActorOutOfScope,
    ActorReady,
    ActorRefused,
    CreateActor,
    SubscribeActor,
)
from beamlet.protocol.peer import CancelTask, InlineDep
from beamlet.serialization.values import dump_error, dumps
from support.owner import NODE
from support.submitting import Caller, certificate, told


@pytest.fixture
def caller() -> Iterator[Caller]:
    caller = Caller()
    yield caller
    caller.check()
    caller.close()


def test_calls_wait_for_the_actor_and_come_back(caller: Caller) -> None:
    actor = caller.actor()
    (request,) = caller.raylet.asked(CreateActor)
    assert request.ready
    assert [m.actor_id for m in caller.raylet.took(SubscribeActor)] == [actor.actor_id]
    refs = [caller.call(actor, i) for i in range(3)]
    peer = caller.tell(actor, "ALIVE")
    calls = caller.pushed(peer)
    assert [call.seq for call in calls] == [1, 2, 3]
    for number, call in enumerate(calls):
        caller.answer(peer, call, number)
    assert [caller.outcome(ref) for ref in refs] == [0, 1, 2]


def test_calls_of_an_actor_that_was_given_up_fail_and_do_not_wait_for_news_that_never_comes(
    caller: Caller,
) -> None:
    actor = caller.actor()
    first = caller.call(actor, retries=-1)
    peer = caller.tell(actor, "ALIVE")
    caller.die(peer, given_up="protocol violation: noise")
    for ref in (first, caller.call(actor)):
        error = caller.outcome(ref)
        assert isinstance(error, ActorDiedError)
        assert "protocol violation: noise" in str(error)


def test_the_actor_lives_as_long_as_a_handle_or_an_unanswered_call(caller: Caller) -> None:
    actor = caller.actor()
    peer = caller.tell(actor, "ALIVE")
    ref = caller.call(actor, retries=1, retry=True)
    actor.handle_ref = None
    caller.owner.releases.drain()
    (call,) = caller.pushed(peer)
    caller.answer_error(peer, call, ValueError("once"), "builtins.ValueError")
    assert not caller.raylet.took(ActorOutOfScope), "the call is made again, so the actor is needed"
    (call,) = caller.pushed(peer)
    assert call.attempt == 1
    caller.answer_error(peer, call, ValueError("twice"), "builtins.ValueError")
    assert str(caller.outcome(ref)) == "twice"
    assert caller.raylet.took(ActorOutOfScope)
    caller.tell(actor, "DEAD", cause="out of scope")
    assert not caller.actors.links, "nobody can call it any more"


@pytest.mark.parametrize("how", ["cancel", "argument"])
def test_a_call_that_is_never_sent_lets_go_of_the_actor_too(caller: Caller, how: str) -> None:
    actor = caller.actor()
    caller.tell(actor, "ALIVE")
    argument = caller.promise()
    ref = caller.call(actor, argument)
    actor.handle_ref = None
    caller.owner.releases.drain()
    assert not caller.raylet.took(ActorOutOfScope)
    if how == "cancel":
        caller.cancelling.cancel(ref, False, True)
        assert isinstance(caller.outcome(ref), TaskCancelledError)
    else:
        caller.owner.keep_promise(argument, dump_error(ValueError("argument")))
        caller.owner.releases.perform()
        assert str(caller.outcome(ref)) == "argument"
    assert caller.raylet.took(ActorOutOfScope)


def test_an_error_that_is_an_argument_already_keeps_nothing(caller: Caller) -> None:
    actor = caller.actor()
    peer = caller.tell(actor, "ALIVE")
    bad = caller.promise()
    caller.owner.keep_promise(bad, dump_error(ValueError("argument")))
    ref = caller.call(actor, bad)
    assert str(caller.outcome(ref)) == "argument"
    behind = caller.call(actor)
    (call,) = caller.pushed(peer)
    caller.answer(peer, call, "behind")
    assert caller.outcome(behind) == "behind"


def test_a_failed_argument_lets_the_calls_behind_it_go(caller: Caller) -> None:
    actor = caller.actor()
    peer = caller.tell(actor, "ALIVE")
    argument = caller.promise()
    caller.call(actor, argument)
    caller.call(actor)
    assert caller.pushed(peer) == []
    caller.owner.keep_promise(argument, dump_error(ValueError("argument")))
    (call,) = caller.pushed(peer)
    caller.answer(peer, call, 1)


def test_calls_behind_a_failed_argument_fail_of_it_and_are_never_sent(caller: Caller) -> None:
    actor = caller.actor()
    peer = caller.tell(actor, "ALIVE")
    argument = caller.promise()
    first = caller.call(actor, argument)
    behind = [caller.call(actor, first) for _ in range(3)]
    caller.owner.keep_promise(argument, dump_error(ValueError("argument")))
    assert caller.pushed(peer) == [], "their argument has no value"
    assert [str(caller.outcome(ref)) for ref in (first, *behind)] == ["argument"] * 4
    assert not caller.owner.reactor.containment.count


def test_two_failed_arguments_fail_an_actor_once(caller: Caller) -> None:
    argument = caller.promise()
    both = caller.task(argument, num_returns=2)
    caller.actor(*both)
    caller.owner.keep_promise(argument, dump_error(ValueError("argument")))
    (ready,) = caller.raylet.took(ActorReady)
    assert ready.error
    assert str(caller.outcome(both[0])) == "argument"


# -- creation ------------------------------------------------------------------------------------


def test_an_actor_waits_for_the_arguments_of_its_constructor(caller: Caller) -> None:
    argument = caller.promise()
    actor = caller.actor(argument)
    assert not caller.raylet.asked(CreateActor)[0].ready
    caller.owner.keep_promise(argument, dumps("value"))
    (ready,) = caller.raylet.took(ActorReady)
    assert ready.spec.deps == [InlineDep(dumps("value"))]
    del argument
    caller.owner.releases.drain()
    caller.tell(actor, "RESTARTING")
    assert len(caller.owner.refs.objects) == 2, "it is needed for the next start"
    caller.tell(actor, "DEAD", 1)
    assert len(caller.owner.refs.objects) == 1


@pytest.mark.parametrize(
    ("is_detached", "size", "is_inside"),
    [(True, 300_000, True), (True, 4 << 20, False), (False, 300_000, False), (False, 1000, True)],
)
@pytest.mark.parametrize("as_array", [False, True])
def test_what_a_detached_actor_starts_with_is_in_its_spec_unless_it_is_very_large(
    caller: Caller,
    monkeypatch: pytest.MonkeyPatch,
    is_detached: bool,
    size: int,
    is_inside: bool,
    as_array: bool,
) -> None:
    stored: list[ObjectId] = []

    def put_data(data: Any) -> ObjectId:
        ref = caller.promise()
        caller.owner.refs.set_stored(caller.owner.refs.objects[ref._id], (NODE,), data.total_bytes)
        stored.append(ref._id)
        caller.owner.refs.objects[ref._id].local += 1
        return ref._id

    monkeypatch.setattr(caller.owner.objects, "put_data", put_data)
    value = np.zeros(size, np.uint8) if as_array else bytes(size)
    actor = caller.actor(value, "small", detached=is_detached, restarts=1)
    (request,) = caller.raylet.asked(CreateActor)
    assert request.ready
    assert (len(request.spec.args) > size) is is_inside
    assert len(request.spec.deps) == len(stored) == (not is_inside)
    caller.tell(actor, "ALIVE")
    if is_detached:
        assert caller.obligations.any_left() is not is_inside, "its creator may go if it owns nothing of it"
    caller.tell(actor, "DEAD")


def test_a_failed_argument_of_its_constructor_is_the_actors_death(caller: Caller) -> None:
    argument = caller.promise()
    actor = caller.actor(argument)
    caller.owner.keep_promise(argument, dump_error(ValueError("argument")))
    (ready,) = caller.raylet.took(ActorReady)
    ref = caller.call(actor)
    caller.tell(actor, "DEAD", init_error=ready.error)
    error = caller.outcome(ref)
    assert isinstance(error, ActorDiedError)
    assert "argument" in str(error)


def test_a_large_error_that_is_its_argument_goes_to_the_head_in_few_words(caller: Caller) -> None:
    argument = caller.promise()
    caller.actor(argument)
    caller.owner.keep_promise(argument, dump_error(RayError("e" * (8 << 20))))
    (ready,) = caller.raylet.took(ActorReady)
    assert len(ready.error) < 4 << 20


def test_an_actor_of_which_not_even_an_error_can_be_sent_is_dead_to_its_callers(caller: Caller) -> None:
    argument = caller.promise()
    actor = caller.actor(argument)
    caller.owner.keep_promise(argument, dumps("value"))
    ref = caller.call(actor)
    (ready,) = caller.raylet.took(ActorReady)
    caller.actors.unsent(ready, ValueError("too large"))
    (ready,) = caller.raylet.took(ActorReady)
    assert not ready.spec.deps
    assert caller.is_pending(ref), "the head's word is awaited"
    caller.actors.unsent(ready, ValueError("too large"))
    assert not caller.raylet.took(ActorReady)
    assert "its arguments could not be sent to the cluster: ValueError: too large" in str(caller.outcome(ref))


def named(caller: Caller, answer: Any) -> Any:
    """Create an actor with a name; the GCS says ``answer`` meanwhile."""

    def wait(reply: Any, deadline: float) -> bool:
        (request,) = caller.raylet.asked(CreateActor)
        answer.req = request.req
        caller.raylet.answer(answer)
        return reply.remaining <= 0

    caller.reactor.wait = wait  # type: ignore[method-assign,assignment]
    return caller.actor(name="n")


def test_a_name_that_is_taken_leaves_nothing_behind(caller: Caller) -> None:
    with pytest.raises(ActorAlreadyExistsError):
        named(caller, ActorNameTaken(0, b"h" * 16))
    caller.owner.releases.drain()
    assert not caller.actors.links
    assert not caller.owner.refs.objects
    assert not caller.raylet.took(SubscribeActor), "nothing will ever be told of it"


def test_a_refused_actor_is_dead_to_its_callers(caller: Caller) -> None:
    with pytest.raises(ValueError, match="no such node"):
        named(caller, ActorRefused(0, "no such node"))
    actor = caller.actor()
    ref = caller.call(actor)
    (request,) = caller.raylet.asked(CreateActor)
    caller.raylet.answer(ActorRefused(request.req, "no such node"))
    assert "no such node" in str(caller.outcome(ref))


def test_an_actor_that_could_not_be_asked_for_is_dead_to_its_callers(caller: Caller) -> None:
    error = TypeError("nothing that can travel")
    with pytest.raises(TypeError, match="nothing that can travel"):
        named(caller, Unsent(0, error))
    actor = caller.actor()
    ref = caller.call(actor)
    (request,) = caller.raylet.asked(CreateActor)
    caller.raylet.answer(Unsent(request.req, error))
    assert isinstance(caller.outcome(ref), ActorDiedError)
    assert "nothing that can travel" in str(caller.outcome(ref))


def test_an_accepted_name_gives_a_handle(caller: Caller) -> None:
    actor = named(caller, ActorAccepted(0, b"?" * 16))
    assert actor.handle_ref is not None
    assert [m.actor_id for m in caller.raylet.took(SubscribeActor)] == [actor.actor_id]


# -- deaths --------------------------------------------------------------------------------------


def test_a_restart_repeats_what_may_be_and_fails_the_rest(caller: Caller) -> None:
    actor = caller.actor(restarts=1)
    first = caller.tell(actor, "ALIVE")
    once, again = caller.call(actor), caller.call(actor, retries=1)
    assert len(caller.pushed(first)) == 2
    caller.die(first)
    assert caller.is_pending(once), "the cause is not known yet"
    late, patient = caller.call(actor), caller.call(actor, retries=-1)
    caller.tell(actor, "RESTARTING", 1, cause="signal 9")
    error = caller.outcome(once)
    assert isinstance(error, ActorUnavailableError)
    assert "on its way" in str(error)
    assert "signal 9" in str(error)
    assert "may have run or not" in str(error)
    assert "calls wait for that only with max_task_retries" in str(caller.outcome(late))
    assert "never sent: it has not run" in str(caller.outcome(late))
    refused = caller.call(actor)
    assert isinstance(caller.outcome(refused), ActorUnavailableError)
    assert "never sent: it has not run" in str(caller.outcome(refused))
    second = caller.tell(actor, "ALIVE", 1)
    calls = caller.pushed(second)
    assert [call.attempt for call in calls] == [1, 0]
    for call in calls:
        caller.answer(second, call, "done")
    assert [caller.outcome(ref) for ref in (again, patient)] == ["done", "done"]


def test_a_death_fails_all_calls_with_its_cause(caller: Caller) -> None:
    actor = caller.actor()
    peer = caller.tell(actor, "ALIVE")
    sent, waits = caller.call(actor), caller.call(actor, caller.promise())
    caller.die(peer)
    caller.tell(actor, "DEAD", cause="its process died", certificate=certificate(signal=11))
    for ref in (sent, waits, caller.call(actor)):
        error = caller.outcome(ref)
        assert isinstance(error, ActorDiedError)
        assert "SIGSEGV" in str(error)
    assert caller.actors.link(actor.actor_id, "A").state is LinkState.DEAD


def test_the_old_process_says_nothing_about_the_new_one(caller: Caller) -> None:
    actor = caller.actor(restarts=1)
    first = caller.tell(actor, "ALIVE")
    second = caller.tell(actor, "ALIVE", 1)
    caller.die(first)
    ref = caller.call(actor)
    (call,) = caller.pushed(second)
    caller.answer(second, call, 1)
    assert caller.outcome(ref) == 1


BORN_DEAD = dump_error(ValueError("in __init__"))


def test_an_actor_that_never_lived_is_told_of_if_nobody_calls_it(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = caller.actor()
    caller.tell(actor, "DEAD", init_error=BORN_DEAD)
    assert told(caller, monkeypatch) == ["A.__init__"]
    assert told(caller, monkeypatch) == [], "once"


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_actor_that_never_lived_is_not_told_of_to_who_called_it(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    actor = caller.actor()
    ref = caller.call(actor) if when == "before" else None
    caller.tell(actor, "DEAD", init_error=BORN_DEAD)
    ref = ref or caller.call(actor)
    assert isinstance(caller.outcome(ref), ActorDiedError)
    assert told(caller, monkeypatch) == []


def test_an_actor_that_lived_or_was_killed_is_not_told_of(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = caller.actor()
    caller.tell(actor, "DEAD", cause="kill() was called")
    assert told(caller, monkeypatch) == []


# -- cancelling ----------------------------------------------------------------------------------


def test_cancelling_a_call_that_was_sent_asks_the_actor_and_allows_no_retry(caller: Caller) -> None:
    actor = caller.actor()
    peer = caller.tell(actor, "ALIVE")
    ref = caller.call(actor, retries=5, retry=True)
    (call,) = caller.pushed(peer)
    with pytest.raises(ValueError, match="force"):
        caller.cancelling.cancel(ref, True, True)
    caller.cancelling.cancel(ref, False, True)
    (order,) = caller.sent(peer)
    assert isinstance(order, CancelTask)
    assert order.task_id == call.task_id
    caller.answer_error(peer, call, TaskCancelledError("x"), "beamlet.exceptions.tasks.TaskCancelledError")
    assert isinstance(caller.outcome(ref), TaskCancelledError)
    assert caller.pushed(peer) == []


def test_cancelling_queued_calls_leaves_the_others_in_order(caller: Caller) -> None:
    actor = caller.actor()
    refs = [caller.call(actor, i) for i in range(10)]
    for ref in refs[::-2]:
        caller.cancelling.cancel(ref, False, True)
        caller.check()
    peer = caller.tell(actor, "ALIVE")
    calls = caller.pushed(peer)
    assert [call.task_id for call in calls] == [ref._id[:24] for ref in refs[::2]]
    for call in calls:
        caller.answer(peer, call, 1)
    assert [isinstance(caller.outcome(ref), TaskCancelledError) for ref in refs] == [False, True] * 5


def test_calls_that_were_answered_are_not_kept_by_a_search_among_them(caller: Caller) -> None:
    actor = caller.actor()
    peer = caller.tell(actor, "ALIVE")
    refs = [caller.call(actor, bytes(1000)) for _ in range(10)]
    endless, *others = caller.pushed(peer)
    caller.cancelling.cancel(refs[0], False, True)
    caller.sent(peer)
    for call in others:
        caller.answer(peer, call, 1)
    link = caller.actors.links[actor.actor_id]
    caller.actors.forget_searches()
    assert link.pending_count == 1
    assert not link._index
    caller.cancelling.cancel(refs[0], False, True)
    (order,) = caller.sent(peer)
    assert order.task_id == endless.task_id
    caller.answer(peer, endless, 1)
