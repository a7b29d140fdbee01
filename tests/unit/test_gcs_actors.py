"""The actor table, one decision a test; tests/property/test_actor_table.py drives it through all the rest."""

from __future__ import annotations

from typing import Any

import pytest

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import (
    UNIQUE_ID_BYTES,
    ActorId,
    Address,
    FunctionKey,
    NodeId,
    WorkerId,
    job_id_of_int,
    make_address,
)
from beamlet.gcs.actor_history import ActorHistory, DeadActor
from beamlet.gcs.actor_record import STORY_CHARACTERS
from beamlet.gcs.actor_states import IllegalTransition, State, Step, next_state
from beamlet.gcs.actors import ActorTable
from beamlet.gcs.effects import Effect, ToCoreWorker
from beamlet.gcs.restart_pauses import AT_ONCE, LONGEST_PAUSE_S, SHORT_LIFE_S
from beamlet.gcs.storage import MemoryStorage
from beamlet.protocol.cluster import ActorPlaced, ActorUnplaceable, CoreWorkerGone, PlaceActor, StopActor
from beamlet.protocol.gcs import (
    ActorNotFound,
    ActorOutOfScope,
    ActorReady,
    ActorSpec,
    ActorStarted,
    ActorUpdate,
    CreateActor,
    Done,
    EndActors,
    FindActor,
    KillActor,
    SubscribeActor,
)
from beamlet.protocol.node import JobDescription

NODE = NodeId(b"n" * UNIQUE_ID_BYTES)
JOB = job_id_of_int(1)
A = ActorId(b"actor-one---" + JOB)
B = ActorId(b"actor-two---" + JOB)
C = ActorId(b"actor-three-" + JOB)


def process(name: bytes) -> Address:
    return make_address(NODE, WorkerId(name * UNIQUE_ID_BYTES))


DRIVER, WORKER, LISTENER = process(b"d"), process(b"w"), process(b"l")
OTHER_WORKER = process(b"o")


class World:
    def __init__(self) -> None:
        self.storage = MemoryStorage()
        #: What was placed, and whether it outlives its job.
        self.lasting: dict[ActorId, bool] = {}
        self.table = ActorTable(lambda spec: NODE, self.storage, ActorHistory(most_dead=2), validate=True)

    def create(
        self, actor_id: ActorId = A, get_if_exists: bool = False, ready: bool = True,
        lasting: bool = False, **options: Any
    ) -> list[str]:  # fmt: skip
        job = JobDescription(JOB, "space", [], b"/", b"", {}, False, DRIVER)
        options.setdefault("owner", DRIVER)
        spec = ActorSpec(
            actor_id, job, options.pop("owner"), FunctionKey(b"k"), "Counter", b"args", [], [], {}, {},
            namespace="space", call_site="app.py:12", **options,
        )  # fmt: skip
        message = CreateActor(1, spec, get_if_exists, ready)
        effects = self.table.handle_create(DRIVER, message, 1.0, lasting)
        self.lasting |= {
            effect.message.spec.actor_id: effect.message.lasting
            for effect in effects
            if isinstance(effect.message, PlaceActor)
        }
        return kinds(effects)

    def start(self, incarnation: int = 0, at: Address = WORKER, actor_id: ActorId = A) -> None:
        self.table.handle_placed(ActorPlaced(actor_id, incarnation, at, 4711), 2.0)
        self.table.handle_started(at, ActorStarted(actor_id, incarnation), 3.0)

    def die(self, incarnation: int = 0, at: Address = WORKER, intended: bool = False) -> list[str]:
        certificate = DeathCertificate(b"", NODE, 4711, signal=9, uptime_s=2.0)
        gone = CoreWorkerGone(at, certificate, intended, b"" if at == DRIVER else A, incarnation)
        return kinds(self.table.handle_core_worker_gone(gone, 4.0))

    def kill(self, no_restart: bool = True) -> list[Effect]:
        return self.table.handle_kill(DRIVER, KillActor(2, A, no_restart), 4.0)

    def now(self, actor_id: ActorId = A) -> ActorUpdate:
        (answer,) = self.table.handle_subscribe(LISTENER, SubscribeActor(actor_id))
        assert isinstance(answer.message, ActorUpdate)
        return answer.message

    def find(self, name: str) -> Any:
        return self.table.handle_find(DRIVER, FindActor(3, name, "space"), 9.0)[0].message


@pytest.fixture
def world() -> World:
    return World()


def kinds(effects: list[Effect]) -> list[str]:
    return [type(effect.message).__name__ for effect in effects]


def test_from_creation_to_alive(world: World) -> None:
    assert world.create() == ["ActorAccepted", "PlaceActor"]
    assert world.now().state == "PENDING_CREATION"
    world.start()
    assert (world.now().state, world.now().address) == ("ALIVE", WORKER)


@pytest.mark.parametrize(("most", "restarts"), [(0, 0), (1, 1), (2, 2)])
def test_restarts_until_none_is_left(world: World, most: int, restarts: int) -> None:
    world.create(max_restarts=most)
    for incarnation in range(restarts):
        world.start(incarnation)
        assert world.die(incarnation)[-1] == "PlaceActor"
        assert (world.now().state, world.now().incarnation) == ("RESTARTING", incarnation + 1)
    world.start(restarts)
    world.die(restarts)
    final = world.now()
    assert (final.state, final.intended) == ("DEAD", False)
    for told in ("Counter", A.hex(), "app.py:12", f"max_restarts={most}", "SIGKILL"):
        assert told in final.cause


def test_one_that_keeps_dying_at_once_is_restarted_slower_and_slower(world: World) -> None:
    """A constructor that ends its process was run 118 times a second, for ever, with a log file each time."""
    world.create(max_restarts=-1)
    now, waited = 4.0, []
    for incarnation in range(20):
        world.table.handle_placed(ActorPlaced(A, incarnation, WORKER, 4711), now)
        certificate = DeathCertificate(b"", NODE, 4711, signal=9, uptime_s=2.0)
        gone = CoreWorkerGone(WORKER, certificate, False, A, incarnation)
        if "PlaceActor" not in kinds(world.table.handle_core_worker_gone(gone, now + 0.1)):
            due = world.table.pauses.next_end
            assert due is not None
            assert f"restarted in {due - now - 0.1:.1f} s" in world.now().cause
            assert world.table.start_due(due - 0.01) == []
            assert kinds(world.table.start_due(due)) == ["PlaceActor"]
            waited.append(round(due - now - 0.1, 3))
            now = due
    assert waited[:4] == [0.1, 0.2, 0.4, 0.8]
    assert waited[-1] == LONGEST_PAUSE_S
    assert len(waited) == 20 - AT_ONCE
    # One that has lived is restarted at once, as is one that was killed for that.
    world.table.handle_placed(ActorPlaced(A, 20, WORKER, 4711), now)
    world.table.handle_kill(DRIVER, KillActor(2, A, False), now)
    assert "PlaceActor" in kinds(
        world.table.handle_core_worker_gone(CoreWorkerGone(WORKER, certificate, True, A, 20), now)
    )
    world.table.handle_placed(ActorPlaced(A, 21, WORKER, 4711), now)
    later = now + SHORT_LIFE_S
    assert "PlaceActor" in kinds(
        world.table.handle_core_worker_gone(CoreWorkerGone(WORKER, certificate, False, A, 21), later)
    )


def test_one_that_ends_in_its_pause_is_not_started(world: World) -> None:
    world.create(max_restarts=-1)
    for incarnation in range(AT_ONCE + 1):
        world.table.handle_placed(ActorPlaced(A, incarnation, WORKER, 4711), 4.0)
        world.die(incarnation)
    world.kill()
    assert world.now().state == "DEAD"
    assert world.table.start_due(10.0) == []
    assert world.table.pauses.next_end is None


def test_exit_actor_is_final(world: World) -> None:
    world.create(max_restarts=-1)
    world.start()
    assert world.die(intended=True) == []
    assert (world.now().state, world.now().intended) == ("DEAD", True)


def test_kill_is_final_and_its_certificate_comes_later(world: World) -> None:
    world.create(max_restarts=-1)
    world.start()
    assert kinds(world.kill()) == ["Done", "StopActor"]
    assert world.now().certificate is None
    world.die(intended=True)
    assert world.now().certificate is not None


def test_kill_without_no_restart_waits_for_the_old_process(world: World) -> None:
    world.create(max_restarts=1)
    world.start()
    assert kinds(world.kill(no_restart=False)) == ["Done", "StopActor"]
    assert world.die(intended=True) == ["PlaceActor"]
    world.start(1)
    world.kill(no_restart=False)
    assert world.now().state == "DEAD"


def test_constructor_error_is_final(world: World) -> None:
    world.create(max_restarts=5)
    world.table.handle_placed(ActorPlaced(A, 0, WORKER, 1), 2.0)
    (stop,) = world.table.handle_started(WORKER, ActorStarted(A, 0, b"boom"), 3.0)
    assert isinstance(stop.message, StopActor)
    assert stop.message.graceful
    assert (world.now().state, world.now().init_error) == ("DEAD", b"boom")


def test_out_of_scope_finishes_its_queue_and_frees_its_name(world: World) -> None:
    world.create(name="ann", max_restarts=3)
    world.start()
    (stop,) = world.table.handle_out_of_scope(DRIVER, ActorOutOfScope(A), 4.0)
    assert isinstance(stop.message, StopActor)
    assert stop.message.graceful
    assert world.now().state == "ALIVE"
    assert world.create(B, name="ann") == ["ActorAccepted", "PlaceActor"]
    world.die()
    assert (world.now().state, world.now().intended) == ("DEAD", True)


def test_only_the_detached_outlive_their_owner(world: World) -> None:
    world.create(A)
    world.create(B, detached=True)
    assert len(list(world.storage.scan("actors"))) == 1
    assert world.die(at=DRIVER) == ["CancelPlacement"]
    assert (world.now(A).state, world.now(B).state) == ("DEAD", "PENDING_CREATION")
    assert "its owner, the driver of job 01000000" in world.now(A).cause


def test_a_detached_actor_needs_its_creator_until_its_arguments_are_there(world: World) -> None:
    """Nobody else can say what the constructor is to be given: it would bear its name for ever, unready."""
    world.create(A, ready=False, detached=True, name="ann")
    world.create(B, ready=False, detached=True, name="bob")
    world.table.handle_ready(DRIVER, ActorReady(world.find("bob").spec), 2.0)
    world.die(at=DRIVER)
    assert (world.now(A).state, world.now(B).state) == ("DEAD", "PENDING_CREATION")
    assert "its creator, the driver of job 01000000, is gone" in world.now(A).cause
    assert "arguments were not there yet" in world.now(A).cause
    assert isinstance(world.find("ann"), ActorNotFound)
    assert len(list(world.storage.scan("actors"))) == 1


def test_a_detached_actor_that_nobody_will_make_ready_is_not_created(world: World) -> None:
    world.die(at=DRIVER)
    assert world.create(A, ready=False, detached=True, name="ann") == ["ActorRefused"]
    assert world.create(B, detached=True, name="ann") == ["ActorAccepted", "PlaceActor"]


def test_job_end_spares_what_works_for_a_detached_actor_until_the_last_of_these_has_gone(
    world: World,
) -> None:
    """Whoever of them has created it: a task that the detached one had submitted, for example."""
    world.create(A, detached=True)
    world.start()
    world.create(B, owner=OTHER_WORKER, lasting=True)
    world.create(C, owner=OTHER_WORKER)
    assert kinds(world.table.handle_job_ended(JOB, 5.0)) == ["CancelPlacement"]
    assert (world.now(B).state, world.now(C).state) == ("PENDING_CREATION", "DEAD")
    world.kill()
    world.table.handle_job_ended(JOB, 6.0)
    assert world.now(B).state == "DEAD"
    assert "with the last detached actor of job" in world.now(B).cause


def test_the_raylet_is_told_which_actor_outlives_its_job(world: World) -> None:
    world.create(A)
    world.create(B, detached=True)
    world.create(C, lasting=True)
    assert world.lasting == {A: False, B: True, C: True}


def program_ends(world: World) -> list[Any]:
    """What the raylets and the driver are told."""
    return [effect.message for effect in world.table.handle_program_ends(DRIVER, EndActors(7), 5.0)]


def test_at_the_end_of_the_program_all_its_actors_that_clean_up_do_so_at_the_same_time(world: World) -> None:
    """Whoever created them; and an owner that is done first takes none of them along."""
    world.create(A, cleans_up=True)
    world.start()
    world.create(B, owner=WORKER, cleans_up=True)
    world.start(at=OTHER_WORKER, actor_id=B)
    orders = program_ends(world)
    first, second = orders
    assert {first.actor_id, second.actor_id} == {A, B}
    assert first.graceful
    assert second.graceful
    assert world.die() == []
    assert world.now(B).state == "ALIVE", "it is still at it"
    gone = CoreWorkerGone(OTHER_WORKER, DeathCertificate(b"", NODE, 1, exit_code=0), True, B, 0)
    assert ToCoreWorker(DRIVER, Done(7)) in world.table.handle_core_worker_gone(gone, 6.0)


def test_at_the_end_of_the_program_what_has_only_del_hurries(world: World) -> None:
    world.create(A, cleans_up=True, only_del=True)
    world.start()
    world.create(B, cleans_up=True)
    world.start(at=OTHER_WORKER, actor_id=B)
    assert {order.actor_id: order.hurried for order in program_ends(world)} == {A: True, B: False}


def test_at_the_end_of_the_program_nothing_else_is_waited_for(world: World) -> None:
    assert program_ends(world) == [Done(7)]
    world.create(A)
    world.start()
    world.create(B, detached=True, cleans_up=True)
    world.create(C, owner=WORKER, lasting=True, cleans_up=True)
    assert program_ends(world) == [Done(7)]
    assert (world.now(A).state, world.now(B).state) == ("ALIVE", "PENDING_CREATION")


def test_a_driver_that_waits_no_longer_takes_along_what_is_still_cleaning_up(world: World) -> None:
    world.create(A, cleans_up=True)
    world.start()
    world.create(B, owner=WORKER, cleans_up=True)
    world.start(at=OTHER_WORKER, actor_id=B)
    program_ends(world)
    world.die()
    assert world.die(at=DRIVER) == ["StopActor"]
    assert world.now(B).state == "DEAD"


def test_old_news_changes_nothing(world: World) -> None:
    world.create(max_restarts=-1)
    world.start()
    world.die()
    assert world.die() == []
    world.table.handle_started(WORKER, ActorStarted(A, 0), 5.0)
    assert (world.now().state, world.now().incarnation) == ("RESTARTING", 1)


def test_a_process_nobody_wants_any_more_is_stopped(world: World) -> None:
    world.create()
    assert kinds(world.kill()) == ["Done", "CancelPlacement"]
    assert kinds(world.table.handle_placed(ActorPlaced(A, 0, WORKER, 1), 5.0)) == ["StopActor"]


def test_never_placeable_is_final_and_waiting_is_not(world: World) -> None:
    world.create()
    world.table.handle_unplaceable(ActorUnplaceable(A, 0, "all CPUs are in use", False), 2.0)
    assert world.table.infos()[0].cause == "all CPUs are in use"
    world.table.handle_unplaceable(ActorUnplaceable(A, 0, "wants 8 CPU, has 2", True), 2.0)
    assert world.now().state == "DEAD"
    assert "wants 8 CPU, has 2" in world.now().cause


def test_a_restart_for_which_there_is_no_process_is_tried_again(world: World) -> None:
    """A node that was full for 5 s ended a detached actor with max_restarts=-1 for good."""
    world.create(max_restarts=1, name="counter", detached=True)
    world.start()
    world.die(0)
    world.table.handle_subscribe(LISTENER, SubscribeActor(A))
    for now in (20.0, 30.0):
        refused = ActorUnplaceable(A, 1, "no worker process could be started", False, given_up=True)
        assert kinds(world.table.handle_unplaceable(refused, now)) == ["ActorUpdate"]
        assert "as soon as there is a process for it: no worker process could be" in world.now().cause
        assert world.now().state == "RESTARTING"
        assert world.find("counter").spec.actor_id == A
        assert world.table.infos()[0].cause == "no worker process could be started"
        due = world.table.pauses.next_end
        assert due == now + LONGEST_PAUSE_S
        assert world.table.start_due(due - 0.01) == []
        assert kinds(world.table.start_due(due)) == ["PlaceActor"]
    world.start(1)
    assert (world.now().state, world.now().incarnation) == ("ALIVE", 1)


def test_a_restart_that_waits_for_a_process_can_be_ended(world: World) -> None:
    world.create(max_restarts=-1)
    world.start()
    world.die(0)
    world.table.handle_unplaceable(ActorUnplaceable(A, 1, "no process", False, given_up=True), 20.0)
    world.kill()
    assert world.now().state == "DEAD"
    assert world.table.start_due(100.0) == []


def test_a_first_start_for_which_there_is_no_process_fails_and_says_why(world: World) -> None:
    world.create(max_restarts=-1)
    world.table.handle_unplaceable(ActorUnplaceable(A, 0, "no process for 5 s", False, given_up=True), 2.0)
    assert world.now().state == "DEAD"
    assert "could not be started: no process for 5 s" in world.now().cause
    assert "never" not in world.now().cause


def test_names(world: World) -> None:
    world.create(A, name="counter")
    assert world.create(B, name="counter") == ["ActorNameTaken"]
    assert world.create(B, name="counter", get_if_exists=True) == ["ActorAccepted"]
    found = world.find("counter").spec
    assert (found.actor_id, found.args) == (A, b"")
    assert "Did you mean 'counter'?" in world.find("couter").hint
    world.kill()
    assert "ended 5.0 s ago" in world.find("counter").hint
    assert "kill() was called by the driver" in world.find("counter").hint


def test_who_asks_before_the_creation_is_heard_of_is_told_when_it_is(world: World) -> None:
    assert world.table.handle_subscribe(LISTENER, SubscribeActor(A)) == []
    assert world.create() == ["ActorAccepted", "ActorUpdate", "PlaceActor"]


def test_killed_before_its_creation_was_heard_of(world: World) -> None:
    world.kill()
    assert world.create() == ["ActorAccepted"]
    assert world.now().state == "DEAD"


def test_the_long_dead_are_still_known_to_be_dead(world: World) -> None:
    for number in range(4):
        actor_id = ActorId(bytes([number]) * 12 + JOB)
        world.create(actor_id)
        world.table.handle_kill(DRIVER, KillActor(1, actor_id, True), 2.0)
    assert world.now(ActorId(b"\0" * 12 + JOB)).state == "DEAD"


def test_what_is_kept_of_the_dead_is_bounded_by_what_they_said_too() -> None:
    """Ten thousand of them with 20 KB of last words each, told twice, were 400 MB of a head of 24."""
    history = ActorHistory(most_bytes=10_000)
    words = DeathCertificate(b"", NODE, 4711, last_words=("x" * 1000,) * 2)
    actors = [ActorId(bytes([number]) * 12 + JOB) for number in range(6)]
    for actor_id in actors:
        history.add(DeadActor(actor_id, "Counter", "", "", 1, 0, False, "y" * 2000, False, 1.0, words))
    assert [each.actor_id for each in history.newest(10)] == actors[-2:]
    late = ActorId(b"late--------" + JOB)
    history.add(DeadActor(late, "Counter", "", "", 1, 0, False, "y" * 2000, False, 1.0))
    assert len(history.newest(10)) == 3
    history.attach(late, 0, words)
    assert [each.actor_id for each in history.newest(10)] == [actors[-1], late]
    assert history.last_update(actors[0]) is not None, "that it is dead is known of all"


def test_the_story_of_an_actor_does_not_keep_all_that_its_processes_said(world: World) -> None:
    world.create(max_restarts=-1)
    world.start()
    words = DeathCertificate(b"", NODE, 4711, last_words=("x" * 1000,) * 20)
    world.table.handle_core_worker_gone(CoreWorkerGone(WORKER, words, False, A, 0), 4.0)
    assert "x" * 1000 in world.now().cause
    assert max(map(len, world.table.story(A))) <= STORY_CHARACTERS


def test_an_impossible_step_tells_the_story() -> None:
    with pytest.raises(IllegalTransition, match=r"Counter is DEAD, where STARTED .*\n  once upon a time"):
        next_state(State.DEAD, Step.STARTED, "Counter", ["once upon a time"])


def test_an_owner_that_is_gone_creates_nothing(world: World) -> None:
    world.die(at=DRIVER)
    assert world.create() == ["ActorRefused"]


def test_a_subscriber_hears_of_the_end_once(world: World) -> None:
    world.create()
    world.start()
    world.now()
    assert world.die() == ["ActorUpdate"]
    assert world.die() == []


def test_only_the_process_that_was_given_the_actor_says_that_it_started(world: World) -> None:
    world.create(A)
    for incarnation in (0, 1):
        world.table.handle_started(process(b"x"), ActorStarted(A, incarnation), 2.0)
    assert world.now().state == "PENDING_CREATION"
