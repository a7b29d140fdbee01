"""What keeps an idle worker: the states of work between ``.remote()`` and its end, and what others use.

A story goes through states and says of each whether the process is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from beamlet.base.ids import Address
from beamlet.core_worker.owning.streams import STREAMING
from beamlet.protocol.gcs import ActorAccepted, ActorNameTaken, ActorOutOfScope, ActorReady, CreateActor
from beamlet.serialization.values import dump_error, dumps
from support.owner import SELF, FakePeer, FakeRef
from support.submitting import Caller, certificate

#: In each state: whether it is needed, and what the state is.
Story = Iterator[tuple[bool, str]]

OTHER = Address(b"b" * 32)
VALUE = dumps("value")
assert isinstance(VALUE, bytes)


@pytest.fixture
def caller() -> Iterator[Caller]:
    caller = Caller()
    yield caller
    caller.check()
    caller.close()


# -- tasks ---------------------------------------------------------------------------------------------


def nothing_for_others(caller: Caller) -> Story:
    yield False, "just born"
    mine = [FakeRef(caller.owner.objects.put("value"), SELF), caller.promise()]
    yield False, "values that only this process can reach"
    del mine


def a_task(caller: Caller) -> Story:
    argument = caller.promise()
    caller.task(argument)
    yield True, "waits for its argument"
    caller.owner.keep_promise(argument, VALUE)
    yield True, "waits for a worker"
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    yield True, "runs"
    caller.answer(worker, push, "value")
    yield False, "answered"


def a_task_run_again(caller: Caller) -> Story:
    caller.task(retries=2, retry=True)
    worker = caller.grant()
    caller.answer_error(worker, caller.pushed(worker)[0], ValueError("once"), "builtins.ValueError")
    yield True, "runs again after its error"
    caller.die(worker, certificate(signal=9))
    yield True, "runs again after its worker's death"
    worker = caller.grant(b"v")
    caller.answer(worker, caller.pushed(worker)[0], "value")
    yield False, "answered"


def a_task_whose_argument_fails(caller: Caller) -> Story:
    argument = caller.promise()
    caller.task(argument)
    caller.owner.keep_promise(argument, dump_error(ValueError("argument")))
    yield False, "it never runs"


def a_generator_that_runs_for_what_it_does(caller: Caller) -> Story:
    _, stream, completion = caller.task(num_returns=STREAMING)
    worker = caller.grant()
    (push,) = caller.pushed(worker)
    caller.owner.streams.abandon(stream)
    del completion
    yield True, "its user let go of it, and it goes on"
    caller.answer(worker, push, None)
    yield False, "answered"


def a_task_of_a_finalizer(caller: Caller) -> Story:
    caller.reactor.is_dispatching = True
    caller.reactor.is_in_the_middle = lambda: True  # type: ignore[method-assign]
    caller.task()
    yield True, "put off"


# -- calls ---------------------------------------------------------------------------------------------


def a_call(caller: Caller) -> Story:
    """The actor is another's: there is no creation here."""
    actor = caller.someones_actor()
    argument = caller.promise()
    caller.call(actor, argument, retries=1)
    yield True, "the actor has not started, and an argument is awaited"
    peer = caller.tell(actor, "ALIVE")
    yield True, "an argument is awaited"
    caller.owner.keep_promise(argument, VALUE)
    yield True, "sent"
    caller.die(peer)
    yield True, "its actor's process is gone"
    caller.tell(actor, "RESTARTING", 0)
    yield True, "its actor starts again"
    peer = caller.tell(actor, "ALIVE", 1)
    (call,) = caller.pushed(peer)
    yield True, "sent again"
    caller.answer(peer, call, "value")
    yield False, "answered"


def a_call_that_is_not_sent_again(caller: Caller) -> Story:
    actor = caller.someones_actor()
    caller.call(actor)
    peer = caller.tell(actor, "ALIVE")
    caller.die(peer)
    yield True, "interrupted: of what its error says, nothing is known yet"
    caller.tell(actor, "DEAD", cause="gone")
    yield False, "failed"


def a_call_of_a_dead_actor(caller: Caller) -> Story:
    actor = caller.someones_actor()
    caller.tell(actor, "DEAD", cause="gone")
    caller.call(actor)
    yield True, "asks what became of it"
    caller.tell(actor, "DEAD", cause="gone")
    yield False, "failed"


def a_cancelled_call(caller: Caller) -> Story:
    actor = caller.someones_actor()
    caller.tell(actor, "ALIVE")
    ref = caller.call(actor, caller.promise())
    caller.cancelling.cancel(ref, False, True)
    yield False, "it was never sent"


def an_argument_of_a_call(caller: Caller) -> Story:
    actor = caller.someones_actor()
    peer = caller.tell(actor, "ALIVE")
    caller.call(actor, FakeRef(caller.owner.objects.put("value"), SELF))
    (call,) = caller.pushed(peer)
    yield True, "it may be asked for"
    caller.answer(peer, call, None)
    yield False, "the actor has not kept it"


# -- actors --------------------------------------------------------------------------------------------


def an_actor(caller: Caller) -> Story:
    actor = caller.actor()
    yield True, "starts"
    caller.tell(actor, "ALIVE")
    yield True, "it ends with its owner"
    actor.handle_ref = None
    caller.owner.releases.drain()
    assert caller.raylet.took(ActorOutOfScope)
    yield True, "it does what is queued, and cleans up; with its owner it would be killed"
    caller.tell(actor, "DEAD", cause="out of scope")
    yield False, "ended"


def a_dead_actor_with_a_handle(caller: Caller) -> Story:
    actor = caller.actor()
    caller.tell(actor, "DEAD", cause="killed")
    yield False, "nothing of it is left to lose"
    assert actor.handle_ref is not None


def a_detached_actor(caller: Caller) -> Story:
    argument = caller.promise()
    actor = caller.actor(argument, detached=True)
    yield True, "waits for an argument"
    caller.owner.keep_promise(argument, VALUE)
    assert caller.raylet.took(ActorReady)
    yield True, "starts, and will ask for what is nested in its arguments"
    caller.tell(actor, "ALIVE")
    yield False, "its own from now on"


def a_detached_actor_without_arguments(caller: Caller) -> Story:
    actor = caller.actor(detached=True)
    yield True, "starts"
    caller.tell(actor, "ALIVE")
    yield False, "its own from now on"


def a_detached_actor_that_may_start_again(caller: Caller) -> Story:
    argument = FakeRef(caller.owner.objects.put("value"), SELF)
    actor = caller.actor(argument, detached=True, restarts=1)
    del argument
    caller.tell(actor, "ALIVE")
    yield True, "its next start needs the argument"
    caller.tell(actor, "RESTARTING", 0)
    yield True, "and so does this one"
    caller.tell(actor, "DEAD", 1, cause="killed")
    yield False, "it never starts again"


def a_detached_actor_that_may_start_again_with_what_others_own(caller: Caller) -> Story:
    argument = caller.owner.borrow(FakePeer(OTHER))
    caller.owner.keep_promise(argument, VALUE)
    actor = caller.actor(argument, detached=True, restarts=-1)
    caller.tell(actor, "ALIVE")
    yield True, "the owner keeps it for us"
    caller.tell(actor, "DEAD", cause="killed")
    yield False, "it never starts again"


def a_detached_actor_that_may_start_again_from_its_spec(caller: Caller) -> Story:
    actor = caller.actor(1, "two", detached=True, restarts=-1)
    yield True, "starts"
    caller.tell(actor, "ALIVE")
    yield False, "the GCS has all it takes"


def a_detached_actor_whose_argument_fails(caller: Caller) -> Story:
    argument = caller.promise()
    actor = caller.actor(argument, detached=True)
    caller.owner.keep_promise(argument, dump_error(ValueError("argument")))
    yield True, "its end is not known yet, and will be told"
    caller.tell(actor, "DEAD", cause="argument", init_error=dump_error(ValueError("argument")))
    yield False, "told"


# -- what others use -----------------------------------------------------------------------------------


def a_borrowed_object(caller: Caller) -> Story:
    refs, ref = caller.owner.refs, FakeRef(caller.owner.objects.put("value"), SELF)
    refs.add_borrower(OTHER, [ref._id])
    yield True, "another process has a reference"
    refs.remove_borrower(OTHER, [ref._id])
    yield False, "it let go"
    refs.add_borrower(OTHER, [ref._id])
    refs.peer_gone(OTHER)
    yield False, "it died"


def a_result_not_taken_over(caller: Caller) -> Story:
    refs, ref = caller.owner.refs, FakeRef(caller.owner.objects.put("value"), SELF)
    hold = refs.hold_results(OTHER, [(ref._id, b"")])
    yield True, "its receiver has not registered"
    refs.release_hold(hold)
    yield False, "it has"


def a_result_that_hands_on_what_others_own(caller: Caller) -> Story:
    refs, ref = caller.owner.refs, caller.owner.borrow(FakePeer(OTHER))
    hold = refs.hold_results(OTHER, [(ref._id, OTHER)])
    yield True, "its owner keeps it for us until the receiver has registered"
    refs.release_hold(hold)
    yield False, "it has"


def a_reference_pickled_out_of_sight(caller: Caller) -> Story:
    ref = FakeRef(caller.owner.objects.put("value"), SELF)
    caller.obligations.pin_for_good(ref._id)
    del ref
    yield True, "whoever has the bytes may come at any time"


STORIES: list[Callable[[Caller], Story]] = [
    nothing_for_others,
    a_task,
    a_task_run_again,
    a_task_whose_argument_fails,
    a_generator_that_runs_for_what_it_does,
    a_task_of_a_finalizer,
    a_call,
    a_call_that_is_not_sent_again,
    a_call_of_a_dead_actor,
    a_cancelled_call,
    an_argument_of_a_call,
    an_actor,
    a_dead_actor_with_a_handle,
    a_detached_actor,
    a_detached_actor_without_arguments,
    a_detached_actor_that_may_start_again,
    a_detached_actor_that_may_start_again_with_what_others_own,
    a_detached_actor_that_may_start_again_from_its_spec,
    a_detached_actor_whose_argument_fails,
    a_borrowed_object,
    a_result_not_taken_over,
    a_result_that_hands_on_what_others_own,
    a_reference_pickled_out_of_sight,
]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_process_is_needed_while_something_would_be_lost(
    caller: Caller, story: Callable[[Caller], Story]
) -> None:
    states = 0
    for is_needed, state in story(caller):
        assert caller.obligations.any_left() is is_needed, state
        states += 1
    assert states


def test_a_copy_that_nobody_can_follow_counts_until_all_of_the_job_has_gone(caller: Caller) -> None:
    """It kept its worker for as long as the cluster lived."""
    caller.obligations.pin_for_good(FakeRef(caller.owner.objects.put("value"), SELF)._id)
    assert caller.obligations.any_left()
    assert not caller.obligations.any_left(job_is_over=True)


@pytest.mark.parametrize("is_taken", [False, True])
def test_an_actor_that_was_not_created_keeps_nobody(caller: Caller, is_taken: bool) -> None:
    """Its name was another's: it is used instead, or that is the error."""

    def answer() -> None:
        (request,) = caller.raylet.asked(CreateActor)
        assert caller.obligations.any_left()
        actor_id = request.spec.actor_id
        if is_taken:
            caller.raylet.answer(ActorNameTaken(request.req, actor_id))
        else:
            caller.raylet.answer(ActorAccepted(request.req, actor_id, existing=True, spec=request.spec))

    caller.reactor.wait = lambda *_: answer() or True  # type: ignore[method-assign,func-returns-value]
    if is_taken:
        with pytest.raises(ValueError, match="is taken"):
            caller.actor(name="one")
    else:
        caller.actor(name="one")
    caller.owner.releases.drain()
    assert not caller.obligations.any_left()
