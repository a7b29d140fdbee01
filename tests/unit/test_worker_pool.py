"""Starting, handing out, reaping and mourning workers, without a process or a clock."""

from __future__ import annotations

import signal
from itertools import count, pairwise

import pytest

from beamlet.base.death import NO_THREAD_EXIT
from beamlet.base.ids import ActorId, NodeId, WorkerId
from beamlet.raylet.start_trouble import PATIENCE_S
from beamlet.raylet.worker_pool import (
    IDLE_S,
    LEAVE_S,
    MAX_STARTING,
    MOST_SPARE,
    SOON_S,
    START_S,
    START_TRIES,
    WARM_S,
    WorkerPool,
)
from beamlet.raylet.worker_record import (
    Announce,
    AskExit,
    Assign,
    Effect,
    Exit,
    Fork,
    Found,
    ImpossibleStep,
    Kill,
    NotFound,
    Want,
    WorkerRecord,
    WorkerState,
)
from support.jobs import a_job

J1, J2 = a_job(1), a_job(2)


def actor(n: int) -> ActorId:
    return ActorId(b"%016d" % n)


def worker(n: int) -> WorkerId:
    return WorkerId(b"%028d" % n)


@pytest.fixture
def pool() -> WorkerPool:
    numbers = count(1)
    pool = WorkerPool(NodeId(b"n" * 28), soft_limit=2, new_id=lambda: worker(next(numbers)))
    pool.job_started(J1.job_id)
    return pool


def die(
    pool: WorkerPool, w: WorkerId, now: float, code: int | None = 1, sig: int | None = None
) -> list[Effect]:
    return [*pool.child_exited(w, Exit(code, sig), now), *pool.outputs_drained(w, now)]


def only_death(effects: list[Effect]) -> Announce:
    (death,) = [effect for effect in effects if isinstance(effect, Announce)]
    return death


def test_a_want_starts_a_worker_and_gets_it_when_it_reports(pool: WorkerPool) -> None:
    assert pool.want(Want(1, J1), 0.0) == [Fork(worker(1))]
    pool.forked(worker(1), 100)
    assert pool.ready(worker(1), 100, 0.1) == [Assign(worker(1), J1, ()), Found(1, worker(1))]
    assert pool[worker(1)].state is WorkerState.LEASED


def test_prestarted_workers_serve_whichever_job_comes_first(pool: WorkerPool) -> None:
    assert pool.prestart(2, 0.0) == [Fork(worker(1)), Fork(worker(2))]
    pool.ready(worker(1), 1, 0.0)
    pool.ready(worker(2), 2, 0.0)
    assert pool.want(Want(1, J2), 0.0)[-1] == Found(1, worker(2))


def test_a_returned_worker_serves_its_own_job_and_environment_only(pool: WorkerPool) -> None:
    pool.want(Want(1, J1), 0.0)
    pool.ready(worker(1), 1, 0.0)
    assert pool.returned(worker(1), 1.0) == []
    assert pool.want(Want(2, J2), 1.0) == [Fork(worker(2))]
    assert pool.want(Want(3, J1, (("A", "1"),)), 1.0) == [Fork(worker(3))]
    assert pool.want(Want(4, J1), 1.0) == [Found(4, worker(1))]


def test_a_returned_worker_goes_to_who_waits_longest_for_its_kind(pool: WorkerPool) -> None:
    pool.want(Want(1, J1), 0.0)
    pool.ready(worker(1), 1, 0.0)
    pool.want(Want(2, J2), 0.0)
    pool.want(Want(3, J1), 0.0)
    pool.want(Want(4, J1), 0.0)
    assert pool.returned(worker(1), 1.0) == [Found(3, worker(1))]


def test_an_unwanted_ticket_gets_nothing(pool: WorkerPool) -> None:
    pool.want(Want(1, J1), 0.0)
    pool.unwant(1)
    assert pool.ready(worker(1), 1, 0.0) == []
    assert pool[worker(1)].state is WorkerState.IDLE


def test_starts_are_bounded_and_go_on_as_workers_report(pool: WorkerPool) -> None:
    effects = [effect for ticket in range(40) for effect in pool.want(Want(ticket, J1), 0.0)]
    assert len(effects) == MAX_STARTING
    for n in range(1, 41):
        effects += pool.ready(worker(n), n, 0.0)
        pool.check_invariants()
    assert sum(isinstance(effect, Fork) for effect in effects) == 40
    assert [effect.ticket for effect in effects if isinstance(effect, Found)] == list(range(40))


def test_idle_workers_beyond_the_soft_limit_leave_after_five_seconds_longest_idle_first(
    pool: WorkerPool,
) -> None:
    pool.prestart(4, 0.0)
    for n in range(1, 5):
        pool.ready(worker(n), n, n / 10)
    assert pool.tick(5.0) == []
    assert pool.tick(5.25) == [
        AskExit(worker(1), "it was idle", graceful=True, optional=True),
        AskExit(worker(2), "it was idle", graceful=True, optional=True),
    ]
    assert pool.want(Want(1, J1), 5.3)[-1] == Found(1, worker(4))


def test_of_many_idle_workers_those_that_were_so_longest_leave_at_once(pool: WorkerPool) -> None:
    """A thousand tasks of their own environments had 480 processes of 1.2 GB idle on two CPUs."""
    pool.prestart(MOST_SPARE + 4, 0.0)
    for n in range(1, MOST_SPARE + 3):
        pool.ready(worker(n), n, n / 1000)
    assert pool.next_wake() == 1 / 1000 + IDLE_S
    assert pool.tick(1.0) == []
    for n in (MOST_SPARE + 3, MOST_SPARE + 4):
        pool.ready(worker(n), n, 1.0)
    assert pool.next_wake() == 1.0
    assert pool.tick(1.0) == [AskExit(worker(n), "it was idle", graceful=True, optional=True) for n in (1, 2)]
    assert pool.tick(1.1) == []


def test_what_the_pool_wants_to_be_woken_for_it_does(pool: WorkerPool) -> None:
    """60.398252889171125 + 5.0 - 60.398252889171125 is less than 5: it asked again at once, for ever."""
    since = 60.398252889171125
    pool.prestart(3, since)
    for n in range(1, 4):
        pool.ready(worker(n), n, since)
    wake = pool.next_wake()
    assert wake is not None
    assert [type(effect) for effect in pool.tick(wake)] == [AskExit]


def test_the_last_idle_workers_stay_while_a_job_was_busy_lately_then_leave(pool: WorkerPool) -> None:
    pool.prestart(2, 0.0)
    pool.ready(worker(1), 1, 0.0)
    pool.ready(worker(2), 2, 0.0)
    assert pool.tick(WARM_S - 1) == []
    assert [type(effect) for effect in pool.tick(WARM_S)] == [AskExit, AskExit]


def test_a_worker_that_does_not_leave_when_asked_is_killed(pool: WorkerPool) -> None:
    pool.prestart(1, 0.0)
    pool.ready(worker(1), 1, 0.0)
    pool.ask_to_exit(worker(1), "not needed", 1.0, optional=True)
    pool.leaves_on_purpose(worker(1), 1.0)
    (kill,) = pool.tick(6.0)
    assert isinstance(kill, Kill)
    assert "did not leave" in kill.reason
    death = only_death(die(pool, worker(1), 6.1, None, 9))
    assert death.intended
    assert death.certificate.killed_by == "not needed"


def test_to_finish_what_is_queued_may_take_for_ever(pool: WorkerPool) -> None:
    pool.want(Want(1, J1, actor=ActorId(b"a" * 16)), 0.0)
    pool.ready(worker(1), 1, 0.0)
    assert pool.ask_to_exit(worker(1), "out of scope", 1.0) == [
        AskExit(worker(1), "out of scope", graceful=True)
    ]
    assert pool.tick(1e6) == []


def test_a_fork_that_never_reports_is_killed_and_replaced(pool: WorkerPool) -> None:
    pool.want(Want(1, J1), 0.0)
    kill, replacement = pool.tick(START_S)
    assert replacement == Fork(worker(2))
    assert kill == Kill(worker(1), signal.SIGKILL, "did not report ready within 30 s")
    effects = die(pool, worker(1), START_S + 0.1, None, 9)
    assert not only_death(effects).intended
    assert pool.ready(worker(2), 2, START_S + 1)[-1] == Found(1, worker(2))


def fail_until_told(pool: WorkerPool, effects: list[Effect], now: float) -> tuple[float, list[Effect], int]:
    """Every fork fails. Returns when somebody was told, what was said then, and how often was tried."""
    tries = 0
    while not any(isinstance(effect, NotFound) for effect in effects):
        forks = [effect for effect in effects if isinstance(effect, Fork)]
        effects = []
        for fork in forks:
            effects += pool.fork_failed(fork.worker, "fork: EAGAIN", now)
        tries += bool(forks)
        pool.check_invariants()
        if not effects:
            wake = pool.next_wake()
            assert wake is not None
            assert wake > now
            now = wake
            effects = pool.tick(now)
    return now, effects, tries


def test_when_forks_keep_failing_those_who_wait_are_told_why(pool: WorkerPool) -> None:
    now, effects, tries = fail_until_told(pool, pool.want(Want(1, J1), 1.0), 1.0)
    text = "no worker process could be started for 5 s (7 times in a row); last: fork: EAGAIN"
    assert effects == [NotFound(1, text, for_now=True)]
    assert PATIENCE_S <= now - 1.0 < PATIENCE_S + 2
    assert tries == 7, "at growing distances"
    assert isinstance(pool.want(Want(2, J1), now + 2)[0], Fork), "later wants try again"


def test_workers_for_which_there_is_no_thread_are_as_forks_that_fail(pool: WorkerPool) -> None:
    """A limit that was reached for a moment failed all that waited, and nobody was told which."""
    effects, now, tries = pool.want(Want(1, J1), 1.0), 1.0, 0
    while not any(isinstance(effect, NotFound) for effect in effects):
        for fork in [effect for effect in effects if isinstance(effect, Fork)]:
            tries += 1
            effects = die(pool, fork.worker, now, NO_THREAD_EXIT)
        pool.check_invariants()
        if not any(isinstance(effect, NotFound) for effect in effects):
            now = pool.next_wake() or 0.0
            effects = pool.tick(now)
    assert tries == 7, "at growing distances"
    (told,) = [effect for effect in effects if isinstance(effect, NotFound)]
    assert "could be started for 5 s" in told.reason
    assert "no thread" in told.reason


def test_a_volley_of_forks_that_fail_together_refuses_nobody(pool: WorkerPool) -> None:
    forks = [
        effect for ticket in range(5) for effect in pool.want(Want(ticket, J1, actor=actor(ticket)), 0.0)
    ]
    assert len(forks) == 5
    assert [pool.fork_failed(worker(n), "EAGAIN", 0.0) for n in range(1, 6)] == [[]] * 5
    (probe,) = pool.tick(0.1)
    assert isinstance(probe, Fork), "one is tried before the others"
    assert pool.ready(probe.worker, 1, 0.2)[1:] == [
        Found(0, probe.worker),
        *[Fork(worker(n)) for n in range(7, 11)],
    ]


def test_when_forks_fail_idle_workers_make_room(pool: WorkerPool) -> None:
    for n in (1, 2):
        pool.want(Want(n, J1), 0.0)
        pool.ready(worker(n), n, 0.0)
    for n in (2, 1):
        pool.returned(worker(n), 1.0 / n)
    pool.want(Want(3, J1, actor=actor(3)), 1.0)
    asked = pool.fork_failed(worker(3), "EAGAIN", 1.0)
    assert asked == [AskExit(worker(2), "others need the room", graceful=True, optional=True)]
    assert die(pool, worker(2), 1.01, 0)[-1] == Fork(worker(4)), "at once, without waiting for the next try"


def test_tasks_that_have_workers_of_their_kind_wait_longer(pool: WorkerPool) -> None:
    pool.want(Want(1, J1), 0.0)
    pool.ready(worker(1), 1, 0.0)
    effects = [*pool.want(Want(2, J1), 0.0), *pool.want(Want(3, J2), 0.0)]
    now, effects, _ = fail_until_told(pool, effects, 0.0)
    assert [effect.ticket for effect in effects if isinstance(effect, NotFound)] == [3]
    assert pool.returned(worker(1), now) == [Found(2, worker(1))]


def test_actors_of_the_job_are_no_workers_for_its_tasks(pool: WorkerPool) -> None:
    pool.want(Want(1, J1, actor=actor(1)), 0.0)
    pool.ready(worker(1), 1, 0.0)
    pool.want(Want(2, J1), 0.0)
    pool.fork_failed(worker(2), "EAGAIN", 0.0)
    now = PATIENCE_S + 3
    (fork,) = pool.tick(now)
    assert isinstance(fork, Fork)
    assert [type(effect) for effect in pool.fork_failed(fork.worker, "EAGAIN", now)] == [NotFound]


def test_trouble_that_is_over_is_forgotten(pool: WorkerPool) -> None:
    pool.want(Want(1, J1), 0.0)
    pool.fork_failed(worker(1), "EAGAIN", 0.0)
    pool.tick(0.1)
    pool.ready(worker(2), 1, 0.2)
    assert len([*pool.want(Want(2, J1), 0.3), *pool.want(Want(3, J1), 0.3)]) == 2
    assert pool.fork_failed(worker(3), "EAGAIN", 100.0) == [], "the clock of the trouble starts anew"


def test_workers_that_die_before_they_report_do_not_fork_for_ever(pool: WorkerPool) -> None:
    pool.want(Want(1, J1), 0.0)
    told: list[Effect] = []
    for n in range(1, START_TRIES + 1):
        told += die(pool, worker(n), float(n))
        told += pool.tick(n + 0.9)
    refusal = told[-1]
    assert isinstance(refusal, NotFound)
    assert "exited with code 1" in refusal.reason
    assert not refusal.for_now, "the node has room, and waiting mends nothing"


def test_a_death_is_announced_when_status_and_output_are_complete(pool: WorkerPool) -> None:
    pool.want(Want(1, J1), 0.0)
    pool.ready(worker(1), 77, 0.5)
    pool.described(worker(1), "f")
    pool.link_closed(worker(1), 2.0)
    assert pool.child_exited(worker(1), Exit(None, 11, 2**20), 2.01) == []
    death = only_death(pool.outputs_drained(worker(1), 2.02))
    certificate = death.certificate
    assert (certificate.pid, certificate.signal, certificate.exit_code) == (77, 11, None)
    assert (certificate.task_name, certificate.killed_by) == ("f", "")
    assert not death.intended
    assert pool.get(worker(1)) is None


def test_output_first_then_status_is_as_good(pool: WorkerPool) -> None:
    pool.want(Want(1, J1), 0.0)
    pool.ready(worker(1), 1, 0.0)
    assert pool.outputs_drained(worker(1), 1.0) == []
    assert only_death(pool.child_exited(worker(1), Exit(3), 1.0)).certificate.exit_code == 3


def test_a_grandchild_that_keeps_the_pipe_open_delays_the_announcement_one_second(pool: WorkerPool) -> None:
    pool.want(Want(1, J1), 0.0)
    pool.ready(worker(1), 1, 0.0)
    pool.child_exited(worker(1), Exit(0), 5.0)
    assert pool.tick(5.9) == []
    assert only_death(pool.tick(6.0)).certificate.exit_code == 0


def test_a_worker_that_closes_its_link_and_lives_on_is_killed(pool: WorkerPool) -> None:
    pool.want(Want(1, J1), 0.0)
    pool.ready(worker(1), 1, 0.0)
    pool.link_closed(worker(1), 1.0)
    (kill,) = pool.tick(2.0)
    assert isinstance(kill, Kill)
    assert "lived on" in only_death(pool.tick(7.0)).certificate.killed_by


def test_a_worker_that_is_not_listened_to_ends_and_its_certificate_says_why(
    pool: WorkerPool,
) -> None:
    """It said that somebody from outside had killed it."""
    pool.want(Want(1, J1), 0.0)
    pool.ready(worker(1), 1, 0.0)
    (kill,) = pool.link_closed(worker(1), 1.0, "protocol violation: nonsense")
    assert isinstance(kill, Kill)
    death = only_death(die(pool, worker(1), 1.1, None, 9))
    assert "was ended by beamlet (it was not listened to any more: protocol violation: nonsense)" in (
        death.certificate.describe()
    )
    assert not death.intended


def test_the_first_reason_for_a_kill_is_the_one_on_the_certificate(pool: WorkerPool) -> None:
    pool.want(Want(1, J1), 0.0)
    pool.ready(worker(1), 1, 0.0)
    pool.kill(worker(1), "ray.kill", 1.0)
    pool.kill(worker(1), "its job has ended", 1.1)
    assert only_death(die(pool, worker(1), 1.2, None, 9)).certificate.killed_by == "ray.kill"


def test_an_exit_on_purpose_is_intended_and_any_other_is_not(pool: WorkerPool) -> None:
    for ticket in (1, 2):
        pool.want(Want(ticket, J1), 0.0)
        pool.ready(worker(ticket), ticket, 0.0)
    pool.leaves_on_purpose(worker(1), 1.0)
    assert only_death(die(pool, worker(1), 1.0, 0)).intended
    assert not only_death(die(pool, worker(2), 1.0, 0)).intended


def test_an_exit_for_a_forced_cancel_is_told_as_that_and_not_by_its_code(pool: WorkerPool) -> None:
    pool.want(Want(1, J1), 0.0)
    pool.ready(worker(1), 1, 0.0)
    pool.leaves_on_purpose(worker(1), 1.0, "cancel(force=True) of task f", b"task")
    certificate = only_death(die(pool, worker(1), 1.0, 1)).certificate
    assert certificate.cancelled == b"task"
    assert "was ended by beamlet (cancel(force=True) of task f)" in certificate.describe()


def test_a_dying_worker_is_never_handed_out(pool: WorkerPool) -> None:
    pool.want(Want(1, J1), 0.0)
    pool.ready(worker(1), 1, 0.0)
    pool.returned(worker(1), 1.0)
    pool.link_closed(worker(1), 1.1)
    assert pool.want(Want(2, J1), 1.2) == [Fork(worker(2))]
    assert pool.returned(worker(1), 1.3) == []


def use(pool: WorkerPool, *wants: Want) -> None:
    """Each gets the worker of its ticket."""
    for want in wants:
        pool.want(want, 0.0)
        pool.ready(worker(want.ticket), want.ticket, 0.0)


DETACHED = Want(2, J1, actor=ActorId(b"d" * 16), lasting=True)


def kill_of(number: int) -> Kill:
    return Kill(worker(number), signal.SIGKILL, "its job has ended")


def ask_of(number: int, job_is_over: bool = False) -> AskExit:
    return AskExit(worker(number), "its job has ended", True, optional=True, job_is_over=job_is_over)


def test_the_end_of_a_job_kills_its_workers_but_not_detached_actors_and_theirs(pool: WorkerPool) -> None:
    use(pool, Want(1, J1), DETACHED, Want(3, J1, lasting=True), Want(4, J2))
    assert pool.job_ended(J1.job_id, True, 1.0) == [kill_of(1)]


def test_idle_workers_of_a_job_that_is_outlived_are_asked_as_they_may_own_what_is_used(
    pool: WorkerPool,
) -> None:
    """They were killed, and what a detached actor had from them was lost."""
    use(pool, Want(1, J1), DETACHED)
    pool.returned(worker(1), 1.0)
    assert pool.job_ended(J1.job_id, True, 1.0) == [ask_of(1)]
    assert pool.is_over(worker(1))
    assert not pool.is_over(worker(2))


def test_idle_workers_of_a_job_that_nothing_outlives_are_killed(pool: WorkerPool) -> None:
    use(pool, Want(1, J1))
    pool.returned(worker(1), 1.0)
    assert pool.job_ended(J1.job_id, False, 1.0) == [kill_of(1)]


def test_when_the_last_detached_actor_has_gone_what_worked_for_it_ends(pool: WorkerPool) -> None:
    """Its own process is the GCS's to end: it may be told to finish first."""
    use(pool, Want(1, J1, lasting=True), DETACHED)
    use(pool, Want(3, J1, lasting=True, env=(("A", "1"),)))
    pool.returned(worker(3), 1.0)
    assert pool.job_ended(J1.job_id, True, 1.0) == []
    assert pool.job_ended(J1.job_id, False, 2.0) == [kill_of(1), ask_of(3, job_is_over=True)]
    for number in (1, 2, 3):
        die(pool, worker(number), 3.0)
    pool.check_invariants()
    assert not pool.is_over(worker(3)), "the job is forgotten"


def test_what_an_idle_worker_of_an_ended_job_holds_is_asked_for_again_and_again(pool: WorkerPool) -> None:
    """Nobody can want it any more, so it is none of those that are kept warm for a job that runs."""
    pool.job_started(J2.job_id)
    use(pool, Want(1, J1), DETACHED)
    pool.returned(worker(1), 1.0)
    pool.job_ended(J1.job_id, True, 1.0)
    for round in range(3):
        now = 1.0 + round * (IDLE_S + 1)
        assert pool.stays(worker(1), now) == []
        assert pool.tick(now + IDLE_S - 0.1) == []
        assert pool.next_wake() == now + IDLE_S
        assert pool.tick(now + IDLE_S) == [AskExit(worker(1), "it was idle", True, optional=True)]


def test_no_worker_serves_both_what_outlives_its_job_and_what_does_not(pool: WorkerPool) -> None:
    use(pool, Want(1, J1))
    pool.returned(worker(1), 1.0)
    assert pool.want(Want(2, J1, lasting=True), 1.0) == [Fork(worker(2))]
    pool.ready(worker(2), 2, 1.0)
    pool.returned(worker(2), 2.0)
    assert pool.want(Want(3, J1), 2.0) == [Found(3, worker(1))]
    assert pool.want(Want(4, J1, lasting=True), 2.0) == [Found(4, worker(2))]


def test_an_actor_dies_with_its_incarnation_on_the_announcement(pool: WorkerPool) -> None:
    pool.want(Want(1, J1, actor=ActorId(b"a" * 16), incarnation=3), 0.0)
    pool.ready(worker(1), 1, 0.0)
    death = only_death(die(pool, worker(1), 1.0, None, 9))
    assert (death.actor, death.incarnation) == (b"a" * 16, 3)


def test_an_impossible_step_tells_the_story() -> None:
    record = WorkerRecord(worker(1), 0.0)
    record.move(WorkerState.IDLE, 1.0)
    record.move(WorkerState.ACTOR, 2.0)
    with pytest.raises(
        ImpossibleStep, match=r"cannot go from actor to idle.*idle at 1\.000; actor at 2\.000"
    ):
        record.move(WorkerState.IDLE, 3.0)


def test_nothing_is_scheduled_when_nothing_is_there(pool: WorkerPool) -> None:
    assert pool.next_wake() is None


def test_an_idle_worker_that_is_needed_stays_and_is_asked_again_later(pool: WorkerPool) -> None:
    pool.prestart(3, 0.0)
    for n in range(1, 4):
        pool.ready(worker(n), n, 0.0)
    ask = [AskExit(worker(1), "it was idle", graceful=True, optional=True)]
    assert pool.tick(5.0) == ask
    assert pool.stays(worker(1), 5.1) == []
    pool.check_invariants()
    assert pool.tick(9.9) == []
    # Now the others are idle for longer; when they have stayed too it is its turn again.
    asked = []
    for now in (10.1, 15.2, 20.3):
        (effect,) = pool.tick(now)
        assert isinstance(effect, AskExit)
        asked.append(effect.worker)
        assert pool.stays(effect.worker, now) == []
    assert asked == [worker(2), worker(3), worker(1)]


def test_workers_that_are_needed_are_not_asked_again_at_once_however_many_they_are(pool: WorkerPool) -> None:
    count = MOST_SPARE + 10
    pool.prestart(count, 0.0)
    for n in range(count):
        pool.ready(worker(n), n, 0.0)
    asked = 0
    now = 0.0
    while now < 3 * IDLE_S:
        for effect in pool.tick(now):
            assert isinstance(effect, AskExit)
            asked += 1
            assert pool.stays(effect.worker, now) == []
        pool.check_invariants()
        wake = pool.next_wake()
        assert wake is not None
        now = max(wake, now + 0.001)
    assert count < asked <= 4 * count
    # One that works meanwhile may be asked like any other.
    (found,) = pool.want(Want(1, J1), now)[-1:]
    assert isinstance(found, Found)
    pool.returned(found.worker, now)
    assert not pool[found.worker].is_needed


def test_a_worker_that_does_not_answer_whether_it_is_needed_may_be(pool: WorkerPool) -> None:
    """Killed for its silence, it took with it what others still used: a slow machine was enough."""
    pool.prestart(3, 0.0)
    for n in range(1, 4):
        pool.ready(worker(n), n, 0.0)
    assert pool.tick(5.0) == [AskExit(worker(1), "it was idle", graceful=True, optional=True)]
    assert pool.tick(60.0) == [
        AskExit(w, "it was idle", graceful=True, optional=True) for w in (worker(2), worker(3))
    ]
    assert pool.tick(1e6) == []
    assert pool.stays(worker(1), 1e6) == []
    assert Found(1, worker(1)) in pool.want(Want(1, J1), 1e6)
    # One that has said that it leaves must do so.
    pool.leaves_on_purpose(worker(2), 1e6)
    wake = pool.next_wake()
    assert wake == 1e6 + LEAVE_S
    (kill,) = pool.tick(wake)
    assert isinstance(kill, Kill)
    assert kill.worker == worker(2)


def test_a_worn_out_worker_ends_when_it_is_not_needed_and_is_given_to_nobody(pool: WorkerPool) -> None:
    pool.want(Want(1, J1), 0.0)
    pool.ready(worker(1), 1, 0.0)
    ask = [AskExit(worker(1), "max_calls", graceful=True, optional=True)]
    assert pool.wear_out(worker(1), "max_calls", 1.0) == ask
    assert pool.stays(worker(1), 1.1) == []
    assert pool.want(Want(2, J1), 1.2) == [Fork(worker(2))]
    assert pool.tick(1.0 + LEAVE_S) == ask, "asked, not killed"
    assert pool.stays(worker(1), 1.1 + LEAVE_S) == []
    for _ in range(2):
        wake = pool.next_wake()
        assert wake is not None
        assert pool.tick(wake) == ask, "asked again"
        assert pool.stays(worker(1), wake + 0.1) == []
        pool.check_invariants()
    wake = pool.next_wake()
    assert wake is not None
    assert pool.tick(wake) == ask
    pool.leaves_on_purpose(worker(1), wake)
    death = only_death(die(pool, worker(1), wake + 1.0, 0, None))
    assert death.intended


def test_a_worn_out_worker_that_is_needed_for_a_moment_ends_soon_after_it(pool: WorkerPool) -> None:
    """Each task with a GPU leaves one behind, with what it holds of the device's memory."""
    pool.want(Want(1, J1), 0.0)
    pool.ready(worker(1), 1, 0.0)
    pool.wear_out(worker(1), "max_calls", 1.0)
    times = [1.0]
    while times[-1] < 30.0:
        assert pool.stays(worker(1), times[-1]) == []
        wake = pool.next_wake()
        assert wake is not None
        assert len(pool.tick(wake)) == 1
        times.append(wake)
    kept = [time - 1.0 for time in times]
    assert kept[1] == pytest.approx(SOON_S)
    for before, after in pairwise(kept[1:]):
        assert after - before == pytest.approx(min(before, IDLE_S))


def test_a_worn_out_worker_that_is_asked_when_its_job_ends_has_time_to_answer(pool: WorkerPool) -> None:
    """It was about to be asked anyway: that moment is no deadline for this answer."""
    pool.want(Want(1, J1), 0.0)
    pool.ready(worker(1), 1, 0.0)
    pool.wear_out(worker(1), "max_calls", 1.0)
    pool.stays(worker(1), 1.0)
    wake = pool.next_wake()
    assert wake is not None
    (ask,) = pool.job_ended(J1.job_id, True, wake - 0.01)
    assert isinstance(ask, AskExit)
    assert pool.tick(wake) == []
    assert pool.tick(1e6) == []


def test_a_worn_out_worker_that_says_nothing_is_killed(pool: WorkerPool) -> None:
    """Its leaseholder may have given it up because nobody can talk with it."""
    pool.want(Want(1, J1), 0.0)
    pool.ready(worker(1), 1, 0.0)
    pool.wear_out(worker(1), "given up", 1.0)
    (kill,) = pool.tick(1.0 + LEAVE_S)
    assert isinstance(kill, Kill)


def test_a_worker_that_was_not_asked_cannot_stay(pool: WorkerPool) -> None:
    pool.prestart(1, 0.0)
    pool.ready(worker(1), 1, 0.0)
    assert pool.stays(worker(1), 1.0) == []
    pool.check_invariants()


def test_an_actor_gets_a_worker_that_never_ran_a_task(pool: WorkerPool) -> None:
    pool.prestart(1, 0.0)
    pool.ready(worker(1), 1, 0.0)
    assert Found(1, worker(1)) in pool.want(Want(1, J1), 0.0)
    pool.returned(worker(1), 1.0)
    assert pool.want(Want(2, J1, actor=ActorId(b"a" * 16)), 1.0) == [Fork(worker(2))]
    assert Found(3, worker(1)) in pool.want(Want(3, J1), 1.0)


def test_a_death_by_forced_cancel_names_the_task(pool: WorkerPool) -> None:
    pool.prestart(1, 0.0)
    pool.ready(worker(1), 1, 0.0)
    pool.want(Want(1, J1), 0.0)
    pool.kill(worker(1), "cancel(force=True) of task f", 1.0, cancelled=b"task")
    pool.kill(worker(1), "its job has ended", 1.0)
    pool.outputs_drained(worker(1), 1.0)
    (announce,) = pool.child_exited(worker(1), Exit(signal=9), 1.0)
    assert isinstance(announce, Announce)
    assert announce.certificate.cancelled == b"task"
    assert announce.certificate.killed_by == "cancel(force=True) of task f"
