"""Whatever the factory, the workers and the clock do: wants are answered once, deaths announced once."""

from __future__ import annotations

from collections import Counter
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from beamlet.base.ids import ActorId, NodeId, WorkerId
from beamlet.protocol.node import JobDescription
from beamlet.raylet.worker_pool import REAP_S, START_S, WARM_S, WorkerPool
from beamlet.raylet.worker_record import (
    Announce,
    AskExit,
    Assign,
    Effect,
    Exit,
    Fork,
    Found,
    Kill,
    NotFound,
    Want,
    WorkerState,
)
from support.jobs import a_job

JOBS = [a_job(1), a_job(2)]
ENVS = [(), (("A", "1"),)]


class PoolInAnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        numbers = count(1)
        self.pool = WorkerPool(NodeId(b"n" * 28), 2, lambda: WorkerId(b"%028d" % next(numbers)))
        self.now = 0.0
        self.tickets = count(1)
        self.wants: dict[int, Want] = {}
        self.answers: Counter[int] = Counter()
        self.alive: set[WorkerId] = set()
        self.reported: set[WorkerId] = set()
        self.homes: dict[WorkerId, tuple[bytes, object]] = {}
        #: Whether it serves what outlives its job: for good, from its first use.
        self.lasting: dict[WorkerId, bool] = {}
        #: Jobs whose driver is gone: whether detached actors of it live.
        self.ended: dict[bytes, bool] = {}
        self.busy: dict[WorkerId, Want] = {}
        #: They stay busy: nobody gets them.
        self.worn_out: set[WorkerId] = set()
        self.announced: Counter[WorkerId] = Counter()
        for job in JOBS:
            self.pool.job_started(job.job_id)
        self.perform(self.pool.prestart(2, 0.0))

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Fork():
                    self.alive.add(effect.worker)
                case Assign():
                    assert effect.worker not in self.homes, "assigned twice"
                    self.homes[effect.worker] = (effect.job.job_id, effect.env)
                case Found():
                    want = self.wants[effect.ticket]
                    assert self.homes[effect.worker] == (want.job.job_id, want.env), "given to a stranger"
                    assert self.lasting.setdefault(effect.worker, want.lasting) == want.lasting
                    assert not self.is_over(want), "begun for what has ended"
                    assert effect.worker not in self.busy, "given to two"
                    assert effect.worker in self.reported
                    self.answers[effect.ticket] += 1
                    self.busy[effect.worker] = want
                case NotFound():
                    self.answers[effect.ticket] += 1
                case Kill() | AskExit():
                    assert not self.announced[effect.worker], "killed after its funeral"
                case Announce():
                    self.announced[effect.worker] += 1
                    self.alive.discard(effect.worker)
                    self.busy.pop(effect.worker, None)

    def is_over(self, want: Want) -> bool:
        return want.job.job_id in self.ended and not (want.lasting and self.ended[want.job.job_id])

    @rule(job=st.sampled_from(JOBS), env=st.sampled_from(ENVS), actor=st.booleans(), lasting=st.booleans())
    def want(self, job: JobDescription, env: tuple[tuple[str, str], ...], actor: bool, lasting: bool) -> None:
        ticket = next(self.tickets)
        want = Want(ticket, job, env, ActorId(b"%016d" % ticket) if actor else None, lasting=lasting)
        if self.is_over(want):
            return  # the lease manager takes it on no more
        self.wants[ticket] = want
        self.perform(self.pool.want(want, self.now))

    @rule(data=st.data())
    def unwant(self, data: st.DataObject) -> None:
        open_tickets = [ticket for ticket in self.wants if not self.answers[ticket]]
        if open_tickets:
            ticket = data.draw(st.sampled_from(open_tickets))
            self.pool.unwant(ticket)
            self.answers[ticket] += 1

    @precondition(lambda self: self.alive - self.reported)
    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.alive - self.reported)))
        self.reported.add(worker)
        self.perform(self.pool.ready(worker, 1, self.now))

    @precondition(lambda self: self.alive - self.reported)
    @rule(data=st.data())
    def fail_to_fork(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.alive - self.reported)))
        record = self.pool.get(worker)
        if record is not None and record.state is WorkerState.STARTING:
            self.alive.discard(worker)
            self.perform(self.pool.fork_failed(worker, "EAGAIN", self.now))

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.busy)))
        if self.busy[worker].actor is None and worker not in self.worn_out:
            del self.busy[worker]
            self.perform(self.pool.returned(worker, self.now))

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def wear_out(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.busy)))
        if self.busy[worker].actor is None:
            self.worn_out.add(worker)
            self.perform(self.pool.wear_out(worker, "a test", self.now))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), how=st.sampled_from(["exit", "drained", "link", "kill", "ask", "purpose", "stays"]))
    def something_happens_to_a_worker(self, data: st.DataObject, how: str) -> None:
        worker = data.draw(st.sampled_from(sorted(self.alive)))
        if how == "exit":
            self.perform(self.pool.child_exited(worker, Exit(1), self.now))
        elif how == "drained":
            self.perform(self.pool.outputs_drained(worker, self.now))
        elif how == "link":
            self.perform(self.pool.link_closed(worker, self.now))
        elif how == "kill":
            self.perform(self.pool.kill(worker, "a test", self.now))
        elif how == "stays":
            self.perform(self.pool.stays(worker, self.now))
        elif how == "ask":
            self.perform(self.pool.ask_to_exit(worker, "a test", self.now))
        else:
            self.perform(self.pool.leaves_on_purpose(worker, self.now))

    @rule(job=st.sampled_from(JOBS), outlived=st.booleans())
    def job_ends(self, job: JobDescription, outlived: bool) -> None:
        """Once, or twice if it is outlived; what waits on behalf of what has ended is withdrawn before."""
        if self.ended.get(job.job_id) is False:
            return
        again = job.job_id in self.ended
        outlived = outlived and not again
        self.ended[job.job_id] = outlived
        for ticket, want in self.wants.items():
            if not self.answers[ticket] and self.is_over(want):
                self.pool.unwant(ticket)
                self.answers[ticket] += 1
        before = {record.worker_id: record.state for record in self.pool if record.job == job.job_id}
        effects = self.pool.job_ended(job.job_id, outlived, self.now)
        killed = {effect.worker for effect in effects if isinstance(effect, Kill)}
        asked = {effect.worker for effect in effects if isinstance(effect, AskExit)}
        assert killed | asked <= before.keys(), "another job's"
        for worker, state in before.items():
            stays = self.lasting[worker] and outlived
            is_idle = state is WorkerState.IDLE or worker in self.worn_out
            works = not is_idle and (
                state is WorkerState.LEASED or (state is WorkerState.ACTOR and not again)
            )
            assert not (stays and worker in killed | asked), "it works for a detached actor"
            assert stays or not works or worker in killed, "it works for what has ended"
            assert worker not in asked or is_idle
        self.perform(effects)

    @rule(seconds=st.sampled_from([0.05, 0.5, 2.0, 6.0, START_S, WARM_S]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.pool.tick(self.now))

    @invariant()
    def the_pool_is_in_order(self) -> None:
        self.pool.check_invariants()

    @invariant()
    def everything_is_said_once(self) -> None:
        assert not [ticket for ticket, times in self.answers.items() if times > 1]
        assert not [worker for worker, times in self.announced.items() if times > 1]

    @rule()
    def everyone_reports(self) -> None:
        for worker in sorted(self.alive - self.reported):
            self.reported.add(worker)
            self.perform(self.pool.ready(worker, 1, self.now))

    def teardown(self) -> None:
        self.every_want_is_answered_when_nothing_goes_wrong_any_more()
        self.every_death_is_announced()

    def every_want_is_answered_when_nothing_goes_wrong_any_more(self) -> None:
        for _ in range(len(self.wants) + 2):
            self.everyone_reports()
            self.now = max(self.now, self.pool.next_wake() or 0.0)
            self.perform(self.pool.tick(self.now))
        assert not [ticket for ticket in self.wants if not self.answers[ticket]]

    def every_death_is_announced(self) -> None:
        """In bounded time, even if exit status and pipes never come."""
        for worker in list(self.alive):
            self.perform(self.pool.link_closed(worker, self.now))
        doomed = set(self.alive)
        for _ in range(4):
            self.now += REAP_S + 1
            self.perform(self.pool.tick(self.now))
        assert not [worker for worker in doomed if not self.announced[worker]]


TestPoolInAnyOrder = PoolInAnyOrder.TestCase
TestPoolInAnyOrder.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
