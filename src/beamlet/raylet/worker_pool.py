"""Which worker processes a node has, starts, hands out and ends. ●

Workers are forked without a job, belong to one home from their first use, and are never shared between two:
one (job, environment), and what outlives the job or what ends with it (job_ends.py).  ``want`` is answered by
Found or NotFound, exactly once, unless ``unwant`` came first.  Idle workers beyond the soft limit are ended
after ``IDLE_S``; the limit is zero when no job has used a worker for ``WARM_S``.  Deaths are announced once,
when the exit status has come and the last output has been read, or ``LAST_WORDS_S`` after the first sign if
one stays away.  How long somebody waits while no process can be started is start_trouble.py's.

Methods return effects for the shell, in order.  States and effects are in worker_record.py; resources and
queues of leases are lease_manager.py's.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Callable, Iterator
from typing import NamedTuple

from beamlet.base.death import NO_THREAD_EXIT
from beamlet.base.ids import JobId, NodeId, WorkerId
from beamlet.raylet.job_ends import Fate, JobEnds
from beamlet.raylet.start_trouble import StartTrouble
from beamlet.raylet.worker_record import (
    Announce,
    AskExit,
    Assign,
    Effect,
    Exit,
    Fork,
    Found,
    Home,
    Kill,
    NotFound,
    Want,
    WorkerRecord,
    WorkerState,
)

#: An idle worker beyond the soft limit is ended after this.
IDLE_S = 5.0
#: So many of them are kept until then; of more, those that were idle longest are ended at once.  Where each
#: task has environment variables of its own there is one for each.
MOST_SPARE = 64
#: A worn-out worker that is needed is asked again after this, then whenever it has been kept twice as
#: long, and at least every ``IDLE_S``: until it ends it keeps what it has of a GPU's memory.
SOON_S = 0.1
#: While a job lives and used a worker this recently, ``soft_limit`` idle workers are kept.
WARM_S = 60.0
#: A fork that has not reported ready by then is killed.
START_S = 30.0
#: How long a death waits for its exit status or its last output.
LAST_WORDS_S = 1.0
#: A worker that said that it leaves is killed after this, and a worn-out one that says nothing.
LEAVE_S = 5.0
#: A killed process that the kernel has not reaped by then is announced as dead all the same.
REAP_S = 5.0
MAX_STARTING = 16
#: So many workers must die in a row before they report ready, for those who wait to be told.
START_TRIES = 3
_NO_THREAD = (
    "it was forked, but the system had no thread for it. The number of processes and threads is at a limit "
    "(ulimit -u, or pids.max of its control group): raise it, or ask for fewer workers"
)
_NEVER = float("inf")


class _Waiting(NamedTuple):
    want: Want
    since: float


class WorkerPool:
    """The workers of one node. ``new_id`` gives fresh ids: randomness stays outside."""

    def __init__(self, node: NodeId, soft_limit: int, new_id: Callable[[], WorkerId]) -> None:
        self._node = node
        self._soft_limit = soft_limit
        self._new_id = new_id
        self._workers: dict[WorkerId, WorkerRecord] = {}
        #: Idle workers by home (None: no job yet), the most recently used last.
        self._idle: dict[Home | None, list[WorkerId]] = {}
        self._idle_count = 0
        #: Forked, and not ready yet.
        self._starting: set[WorkerId] = set()
        self._wants: dict[int, _Waiting] = {}
        self._jobs = JobEnds()
        self._used_at = -_NEVER
        self._trouble = StartTrouble()
        #: Workers that died before they were ready, since the last that did not.
        self._stillborn = 0
        self._wake_at = _NEVER

    def __getitem__(self, worker: WorkerId) -> WorkerRecord:
        return self._workers[worker]

    def __iter__(self) -> Iterator[WorkerRecord]:
        return iter(list(self._workers.values()))

    def get(self, worker: WorkerId) -> WorkerRecord | None:
        return self._workers.get(worker)

    # ---- wanting workers ----

    def prestart(self, count: int, now: float) -> list[Effect]:
        self._used_at = now
        return [self._fork(now) for _ in range(count)]

    def want(self, want: Want, now: float) -> list[Effect]:
        assert want.ticket not in self._wants, f"ticket {want.ticket} wanted twice"
        self._used_at = now
        for home in want.homes:
            if candidates := self._idle.get(home):
                return self._hand_out(self._workers[candidates[-1]], want, now)
        self._wants[want.ticket] = _Waiting(want, now)
        return self._start_missing(now)

    def unwant(self, ticket: int) -> None:
        self._wants.pop(ticket, None)

    def returned(self, worker: WorkerId, now: float) -> list[Effect]:
        """The lease is over. A worker that is dying already just goes on dying."""
        record = self._workers.get(worker)
        if record is not None and record.state is WorkerState.ACTOR:
            return self.kill(worker, "the actor it was meant for was withdrawn", now)
        if record is None or record.state is not WorkerState.LEASED:
            return []
        self._used_at = now
        return self._became_idle(record, now)

    # ---- what the factory and the worker say ----

    def forked(self, worker: WorkerId, pid: int) -> None:
        if worker in self._workers:
            self._workers[worker].pid = pid

    def fork_failed(self, worker: WorkerId, reason: str, now: float) -> list[Effect]:
        record = self._workers.pop(worker, None)
        if record is None:
            return []
        self._starting.discard(worker)
        record.move(WorkerState.GONE, now)
        return self._could_not_start(reason, now)

    def _could_not_start(self, reason: str, now: float) -> list[Effect]:
        self._trouble.failed(reason, now)
        self._watch(self._trouble.again_at)
        return [*self._make_room(now), *self._give_up(now), *self._start_missing(now)]

    def ready(self, worker: WorkerId, pid: int, now: float) -> list[Effect]:
        record = self._workers.get(worker)
        if record is None or record.state is not WorkerState.STARTING:
            return []  # it was killed for being late, and reported just then
        record.pid, record.reported = pid, True
        self._trouble.over()
        self._stillborn = 0
        return self._became_idle(record, now) + self._start_missing(now)

    def described(self, worker: WorkerId, task_name: str) -> None:
        if worker in self._workers:
            self._workers[worker].task_name = task_name

    def leaves_on_purpose(
        self, worker: WorkerId, now: float, reason: str = "", cancelled: bytes = b""
    ) -> list[Effect]:
        """Its own last words: exit_actor, max_calls, or as told; or the task it ends for was cancelled."""
        record = self._workers.get(worker)
        if record is not None:
            record.intended = True
            if cancelled and not record.killed_by:
                record.killed_by, record.cancelled = reason, cancelled
            if record.is_asked and record.usable:
                record.is_asked = False
                self._set_deadline(record, now + LEAVE_S)
        return []

    # ---- ending workers ----

    def kill(
        self, worker: WorkerId, reason: str, now: float, intended: bool = True, cancelled: bytes = b""
    ) -> list[Effect]:
        """At once, with its process group. The first reason is the one that is kept."""
        record = self._workers.get(worker)
        if record is None or record.exited:
            return []
        record.intended = record.intended or intended
        if not record.killed_by:
            record.killed_by, record.cancelled = reason, cancelled
        self._doom(record, now, deadline=now + REAP_S)
        return [Kill(worker, signals.SIGKILL, reason)]

    def ask_to_exit(
        self,
        worker: WorkerId,
        reason: str,
        now: float,
        optional: bool = False,
        hurried: bool = False,
    ) -> list[Effect]:
        """It may finish what it has queued, as long as that takes.

        optional: an idle worker that owns what others use answers that it ``stays``.  Until it has answered
        it is left alone: one that is slow (an extension keeps its interpreter, the machine swaps) may be
        such a one, and idle it does no harm.  hurried: it is to wait only a moment for what it runs.
        """
        record = self._workers.get(worker)
        if record is None or not record.usable:
            return []
        record.intended = True
        record.killed_by = record.killed_by or reason
        self._take_from_idle(record)
        record.is_asked, record.deadline = optional, None
        return [AskExit(worker, reason, True, optional, hurried, self._jobs.is_forgotten(record))]

    def wear_out(self, worker: WorkerId, reason: str, now: float) -> list[Effect]:
        """Nobody is to have it again. It is killed if it does not say that it leaves, or ``stays``."""
        effects = self.ask_to_exit(worker, reason, now, optional=True)
        record = self._workers.get(worker)
        if record is not None and record.usable:
            record.worn_out, record.worn_at = reason, now
            self._set_deadline(record, now + LEAVE_S)
        return effects

    def stays(self, worker: WorkerId, now: float) -> list[Effect]:
        """It was asked whether it could leave, and is needed: (idle again,) to be asked again later."""
        record = self._workers.get(worker)
        if record is None or not (record.usable and record.is_asked):
            return []
        record.intended, record.killed_by, record.is_asked, record.is_needed = False, "", False, True
        if record.worn_out:
            self._set_deadline(record, now + min(IDLE_S, max(SOON_S, now - record.worn_at)))
            return []
        record.since, record.deadline = now, None
        return self._offer(record, now)

    def job_started(self, job: JobId) -> None:
        self._jobs.started(job)

    def job_ended(self, job: JobId, outlived: bool, now: float) -> list[Effect]:
        """Its driver is gone, and so are its detached actors, unless it is ``outlived``: see job_ends.py."""
        self._watch(now)
        effects: list[Effect] = []
        for record, fate in self._jobs.ended(job, outlived, self):
            if fate is Fate.ENDS:
                effects += self.kill(record.worker_id, "its job has ended", now)
            elif fate is Fate.IS_ASKED and not record.is_asked:
                effects += self._ask_idle(record, "its job has ended", now)
        self._jobs.forget(job, self._workers.values())
        return effects

    def is_lasting(self, worker: WorkerId) -> bool:
        """Whether it outlives its job; a driver does not."""
        record = self._workers.get(worker)
        return record is not None and record.lasting

    def is_over(self, worker: WorkerId) -> bool:
        """Whether what it belongs to has ended: it is kept for what it owns, and nothing begins for it."""
        record = self._workers.get(worker)
        return record is not None and self._jobs.is_over(record)

    # ---- deaths ----

    def child_exited(self, worker: WorkerId, exit: Exit, now: float) -> list[Effect]:
        record = self._workers.get(worker)
        if record is None or record.exited:
            return []
        record.exited, record.exit = True, exit
        self._doom(record, now, deadline=now + LAST_WORDS_S)
        return self._announce(record, now) if record.drained else []

    def outputs_drained(self, worker: WorkerId, now: float) -> list[Effect]:
        """Both of its pipes have come to their end."""
        record = self._workers.get(worker)
        if record is None:
            return []
        record.drained = True
        return self._announce(record, now) if record.exited else []

    def link_closed(self, worker: WorkerId, now: float, cut_off: str = "") -> list[Effect]:
        """``cut_off``: why it is not listened to any more; "" when it closed the link itself, or died."""
        record = self._workers.get(worker)
        if record is not None and cut_off:
            return self.kill(worker, f"it was not listened to any more: {cut_off}", now, intended=False)
        if record is not None and record.usable:
            self._doom(record, now, deadline=now + LAST_WORDS_S)
        return []

    # ---- time ----

    def tick(self, now: float) -> list[Effect]:
        if now < self._wake_at:
            return []
        effects: list[Effect] = []
        for record in self:
            if record.deadline is not None and record.deadline <= now:
                effects += self._overdue(record, now)
        effects += self._reap(now)
        effects += self._start_missing(now)
        self._wake_at = self._next_event(now)
        return effects

    def next_wake(self) -> float | None:
        return None if self._wake_at == _NEVER else self._wake_at

    def check_invariants(self) -> None:
        idle = [worker for workers in self._idle.values() for worker in workers]
        assert len(idle) == len(set(idle)) == self._idle_count, "a worker is idle twice"
        for home, workers in self._idle.items():
            for worker in workers:
                record = self._workers[worker]
                assert record.state is WorkerState.IDLE, f"{record.state} among the idle"
                assert home == record.home, "an idle worker is filed under another's home"
        for record in self._workers.values():
            assert record.state is not WorkerState.GONE, "a worker that is gone is still listed"
            assert not (record.exited and record.drained), "a complete death was not announced"
            assert (record.state is WorkerState.ACTOR) <= (record.actor is not None)
            if record.worn_out and record.usable:
                assert record.intended or record.deadline is not None, "one that is used no more is forgotten"
        self._jobs.check_invariants(self._workers.values())
        starting = {w for w, record in self._workers.items() if record.state is WorkerState.STARTING}
        assert starting == self._starting, f"{starting} ≠ {self._starting}"
        assert not self._wants or starting or self._wake_at < _NEVER, "somebody waits, nothing starts"

    # ---- handing out ----

    def _became_idle(self, record: WorkerRecord, now: float) -> list[Effect]:
        self._starting.discard(record.worker_id)
        record.move(WorkerState.IDLE, now)
        record.task_name = ""
        return self._offer(record, now)

    def _offer(self, record: WorkerRecord, now: float) -> list[Effect]:
        """An idle worker, to whoever waits for one like it, or to the idle ones."""
        home = record.home
        self._idle.setdefault(home, []).append(record.worker_id)
        self._idle_count += 1
        for waiting in self._wants.values():
            if home in waiting.want.homes:
                del self._wants[waiting.want.ticket]
                return self._hand_out(record, waiting.want, now)
        is_too_many = self._idle_count > self._floor(now) + MOST_SPARE
        self._watch(now if is_too_many and not record.is_needed else now + IDLE_S)
        return []

    def _hand_out(self, record: WorkerRecord, want: Want, now: float) -> list[Effect]:
        self._take_from_idle(record)
        record.is_needed = False
        effects: list[Effect] = []
        if record.job is None:
            record.job, record.env, record.lasting = want.job.job_id, want.env, want.lasting
            effects.append(Assign(record.worker_id, want.job, want.env))
        record.actor, record.incarnation = want.actor, want.incarnation
        record.move(WorkerState.LEASED if want.actor is None else WorkerState.ACTOR, now)
        return [*effects, Found(want.ticket, record.worker_id)]

    def _take_from_idle(self, record: WorkerRecord) -> None:
        home = record.home
        workers = self._idle.get(home, [])
        if record.worker_id in workers:
            workers.remove(record.worker_id)
            self._idle_count -= 1
            if not workers:
                del self._idle[home]

    # ---- starting ----

    def _fork(self, now: float) -> Fork:
        worker = self._new_id()
        self._workers[worker] = record = WorkerRecord(worker, now, since=now)
        self._starting.add(worker)
        self._set_deadline(record, now + START_S)
        return Fork(worker)

    def _start_missing(self, now: float) -> list[Effect]:
        """As many forks as there are wants without one, but not too many at a time; one in trouble."""
        if not self._wants:
            return []
        if now < self._trouble.again_at:
            self._watch(self._trouble.again_at)
            return []
        most = 1 if self._trouble else MAX_STARTING
        missing = min(len(self._wants), most) - len(self._starting)
        return [self._fork(now) for _ in range(missing)]

    def _make_room(self, now: float) -> list[Effect]:
        """Whoever waits cannot use the idle workers, or would have one: they hold what a new one needs."""
        effects: list[Effect] = []
        for record in self._idle_longest_first()[: len(self._wants)]:
            effects += self._ask_idle(record, "others need the room", now)
        return effects

    def _give_up(self, now: float) -> list[Effect]:
        """Tell those who have waited long enough."""
        homes = {w.home for w in self._workers.values() if w.usable and not (w.actor or w.worn_out)}
        refused: list[Effect] = []
        for ticket, (want, since) in list(self._wants.items()):
            has_others = want.actor is None and want.homes[0] in homes
            if self._trouble.waited_enough(since, has_others, now):
                del self._wants[ticket]
                refused.append(NotFound(ticket, self._trouble.describe(now), for_now=True))
        return refused

    def _died_unborn(self, how: str) -> list[Effect]:
        self._stillborn += 1
        if self._stillborn < START_TRIES:
            return []
        self._stillborn = 0
        text = f"{START_TRIES} workers in a row ended before they were ready; last: {how}"
        refused = [NotFound(ticket, text) for ticket in self._wants]
        self._wants.clear()
        return list(refused)

    # ---- dying ----

    def _doom(self, record: WorkerRecord, now: float, deadline: float) -> None:
        """Nobody gets it any more; its certificate is due by ``deadline``."""
        self._take_from_idle(record)
        self._starting.discard(record.worker_id)
        if record.usable:
            record.move(WorkerState.DYING, now)
        self._set_deadline(record, deadline)

    def _overdue(self, record: WorkerRecord, now: float) -> list[Effect]:
        record.deadline = None
        if record.state is WorkerState.STARTING:
            return self.kill(record.worker_id, f"did not report ready within {START_S:.0f} s", now, False)
        if record.worn_out and record.usable and not record.intended:
            return self.ask_to_exit(record.worker_id, record.worn_out, now, optional=True)
        if record.usable:
            return self.kill(
                record.worker_id, f"{record.killed_by}; did not leave within {LEAVE_S:.0f} s", now
            )
        if not record.exited and not record.killed_by:
            reason = "closed its connection to the raylet, but the process lived on"
            return self.kill(record.worker_id, reason, now, False)
        return self._announce(record, now)

    def _announce(self, record: WorkerRecord, now: float) -> list[Effect]:
        del self._workers[record.worker_id]
        self._starting.discard(record.worker_id)
        record.move(WorkerState.GONE, now)
        self._jobs.forget(record.job, self._workers.values())
        certificate = record.certificate(self._node, now)
        effects: list[Effect] = [
            Announce(
                record.worker_id, certificate, record.intended, record.job, record.actor, record.incarnation
            )
        ]
        if not record.reported and record.exit.exit_code == NO_THREAD_EXIT:
            return effects + self._could_not_start(_NO_THREAD, now)
        if not record.reported and not record.intended:
            effects += self._died_unborn(certificate.describe())
        self._trouble.eased(now)
        return effects + self._start_missing(now)

    # ---- reaping and waking ----

    def _idle_longest_first(self) -> list[WorkerRecord]:
        idle = [self._workers[worker] for workers in self._idle.values() for worker in workers]
        return sorted(idle, key=lambda record: record.since)

    def _floor(self, now: float) -> int:
        return self._soft_limit if self._jobs.any_runs and now < self._used_at + WARM_S else 0

    def _reap(self, now: float) -> list[Effect]:
        spare = self._spare(now)
        effects: list[Effect] = []
        for number, record in enumerate(spare):
            is_too_many = number < len(spare) - MOST_SPARE and not record.is_needed  # that one was asked
            if is_too_many or now >= record.since + IDLE_S:  # as ``_next_event`` adds it
                effects += self._ask_idle(record, "it was idle", now)
        return effects

    def _spare(self, now: float) -> list[WorkerRecord]:
        """Idle workers that are not kept warm: first those that nobody can want any more."""
        idle = self._idle_longest_first()
        over = sum(map(self._jobs.is_over, idle))
        if over:
            idle.sort(key=lambda record: not self._jobs.is_over(record))
        return idle[: max(len(idle) - self._floor(now), over)]

    def _ask_idle(self, record: WorkerRecord, why: str, now: float) -> list[Effect]:
        return self.ask_to_exit(record.worker_id, why, now, optional=True)

    def _next_event(self, now: float) -> float:
        times = [record.deadline for record in self._workers.values() if record.deadline is not None]
        if spare := self._spare(now):
            times.append(max(now, min(record.since for record in spare) + IDLE_S))
        elif self._idle_count:
            times.append(self._used_at + WARM_S)
        if self._wants and now < self._trouble.again_at:
            times.append(self._trouble.again_at)
        return min(times, default=_NEVER)

    def _set_deadline(self, record: WorkerRecord, when: float) -> None:
        record.deadline = when
        self._watch(when)

    def _watch(self, when: float) -> None:
        self._wake_at = min(self._wake_at, when)
