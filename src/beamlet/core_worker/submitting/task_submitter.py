"""Which task goes to which leased worker, and when to ask for more workers. Sans-IO.

Tasks queue by *scheduling key* (same resources, environment, strategy: any worker leased for one runs the
others).  Per key:

    submit ──▶ queue ──fill──▶ worker.in_flight ──result──▶ done
                 ▲                   │ lost / handed back
                 └───────────────────┘

How many tasks are pushed ahead to one worker adapts to how long they take: PIPELINE_US worth of work, one
if unknown.  No task waits behind a long one while another leased worker idles: that one steals.

The shell's duties: perform the port's calls; report every grant, refusal, result, loss; call ``refill``
once per batch of results; call ``tick`` at ``next_tick``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Protocol

from beamlet.core_worker.submitting.key_state import KeyState, L, LeasedWorker
from beamlet.core_worker.submitting.pending import PendingTask
from beamlet.core_worker.submitting.task_spec import SchedulingKey
from beamlet.protocol.node import LeaseName
from beamlet.protocol.peer import PushTask, StealTasks

#: An unused lease is returned after this long, or at once when the raylet asks (LeaseWanted).
IDLE_LEASE_S = 0.2
#: While others wait for what we hold, a lease is passed on after this long even if we have work for it.
TURN_S = 0.2
#: Refused while workers of the key are at work: those who wait for one more ask again after this long.
ASK_AGAIN_S = 1.0
#: Lease requests of one key outstanding at once.
MAX_LEASE_REQUESTS = 10


class SubmitterPort(Protocol):
    """What the submitter asks of its shell."""

    def request_lease(self, key: SchedulingKey, name: str, backlog: int) -> int:
        """Send RequestLease; returns its ``req``."""

    def cancel_lease_request(self, req: int) -> None: ...

    def return_lease(self, lease: LeaseName, dispose: bool) -> None: ...


class TaskSubmitter(Generic[L]):
    """All scheduling keys of one core worker. Guarded by the core worker's lock."""

    def __init__(self, port: SubmitterPort) -> None:
        self._port = port
        self.keys: dict[SchedulingKey, KeyState[L]] = {}
        self._request_keys: dict[int, KeyState[L]] = {}
        #: What ``keys`` says of the key used last: hashing a key costs more than all else in ``submit``.
        self._last_key: SchedulingKey | None = None
        self._last_state: KeyState[L] | None = None
        #: When the raylet asked for leases back (monotonic); 0.0: it has not, or they have changed since.
        self._asked_at = 0.0

    # -- tasks -----------------------------------------------------------------------------------

    def submit(self, task: PendingTask) -> LeasedWorker[L] | None:
        """Push ``task``, or queue it. Returns the worker it was pushed to."""
        key = task.spec.template.key
        state = self._last_state
        if state is None or key is not self._last_key:
            state = self._state_of(key)
        if not state.queue:
            worker = state.roomiest()
            if worker is not None:
                self._push(worker, task)
                if len(worker.in_flight) > 1 and len(state.requests) < MAX_LEASE_REQUESTS:
                    self._want_workers(state)
                return worker
        state.queue.append(task)
        if len(state.requests) < MAX_LEASE_REQUESTS:
            self._want_workers(state)
        return None

    def _state_of(self, key: SchedulingKey) -> KeyState[L]:
        state = self.keys.get(key)
        if state is None:
            state = self.keys[key] = KeyState(key)
        self._last_key, self._last_state = key, state
        return state

    def _push(self, worker: LeasedWorker[L], task: PendingTask) -> None:
        task.seq = seq = worker.next_seq
        worker.next_seq = seq + 1
        worker.in_flight[seq] = task
        worker.idle_since = 0.0
        worker.barren = False
        spec = task.spec
        template = spec.template
        worker.link.send(
            PushTask(
                seq,
                spec.task_id,
                template.function,
                template.name,
                template.num_returns,
                spec.payload,
                task.deps,
                spec.nested,
                task.attempt,
                template.resources,
                template.max_calls,
                worker.accelerators,
                template.stream_limit,
                task.lend_to(worker.address) if task.places else None,
            )
        )

    def take_result(self, worker: LeasedWorker[L], seq: int, busy_us: int) -> PendingTask | None:
        """The task answered by ``seq``; None if it is no longer this worker's."""
        task = worker.in_flight.pop(seq, None)
        state = worker.key
        worker.blocked = worker.barren = False
        if state.average_us < 0:
            state.average_us = busy_us
        else:
            state.average_us += (busy_us - state.average_us) * 0.1
        return task

    def refill(self, worker: LeasedWorker[L], now: float) -> None:
        """After results: push what waits, steal if nothing does, or start the idle clock."""
        state = worker.key
        if state.queue and not (self._asked_at and now - self._asked_at > TURN_S):
            self._fill(state, worker)
        if worker.in_flight:
            return
        if state.requests and not state.waiting_count():
            self._cancel_requests(state)
        if worker.leaving or self._asked_at:
            self._give_up(worker)
            return
        worker.idle_since = now
        if len(state.workers) > 1:
            self._steal_for(state, worker)

    def _fill(self, state: KeyState[L], worker: LeasedWorker[L]) -> None:
        if worker.blocked or worker.leaving:
            return
        share = -(-state.queued_count // max(1, len(state.workers)))
        room = min(state.depth() - len(worker.in_flight), share)
        queue = state.queue
        while room > 0 and queue:
            self._push(worker, state.take() if state.dropped_count else queue.popleft())
            room -= 1

    def handed_back(
        self, worker: LeasedWorker[L], seqs: list[int], blocked: bool, now: float
    ) -> list[PendingTask]:
        """``worker`` returned tasks it had not begun: they go to the head of the queue, in order.

        But for those that were cancelled meanwhile, which come back to be ended.
        """
        worker.stealing = False
        # An answer to a question asked before the latest push says nothing about what was pushed.
        worker.barren = not seqs and worker.next_seq == worker.asked_at_seq
        worker.blocked = worker.blocked or blocked
        state = worker.key
        tasks = [task for seq in sorted(seqs) if (task := worker.in_flight.pop(seq, None)) is not None]
        for task in tasks:
            for place in task.places or ():
                place.take_back(worker.address)
        state.put_back([task for task in tasks if not task.unwanted])
        # Not back to it, unless it has run dry meanwhile: what it runs now may take long.
        self._spread(state, worker if worker.in_flight else None)
        self._want_workers(state)
        for other in state.workers:
            if not other.in_flight:
                other.idle_since = other.idle_since or now
                self._steal_for(state, other)
        return [task for task in tasks if task.unwanted]

    def _spread(self, state: KeyState[L], except_for: LeasedWorker[L] | None = None) -> None:
        """Push what is queued to whoever has least to do; idle workers first."""
        while state.queue:
            worker = state.roomiest(except_for)
            if worker is None:
                return
            self._push(worker, state.take())

    def remove(self, task: PendingTask) -> None:
        """Settle a task that is in the queue (cancel)."""
        assert not task.seq, "it was pushed"
        state = self.keys[task.spec.template.key]
        state.drop(task)
        if not state.waiting_count():
            self._cancel_requests(state)
        self._forget_unused(state)

    def worker_of(self, task: PendingTask) -> LeasedWorker[L] | None:
        """The worker that has the task, if one has."""
        state = self.keys.get(task.spec.template.key) if task.seq else None
        for worker in state.workers if state is not None else ():
            if worker.in_flight.get(task.seq) is task:
                return worker
        return None

    # -- leases ----------------------------------------------------------------------------------

    def _want_workers(self, state: KeyState[L]) -> None:
        """Ask for as many workers as there are tasks nobody is running, within bounds."""
        waiting = state.waiting_count()
        if waiting:
            waiting -= sum(not worker.in_flight for worker in state.workers)
        while len(state.requests) < min(waiting, MAX_LEASE_REQUESTS):
            req = self._port.request_lease(state.key, state.name_of_next(), waiting)
            state.requests[req] = None
            self._request_keys[req] = state

    def _cancel_requests(self, state: KeyState[L]) -> None:
        for req in state.requests:
            del self._request_keys[req]
            self._port.cancel_lease_request(req)
        state.requests.clear()

    def granted(
        self,
        req: int,
        lease: LeaseName,
        address: bytes,
        pid: int,
        link: L,
        now: float,
        accelerators: dict[str, list[int]] | None = None,
    ) -> LeasedWorker[L] | None:
        """A lease came. None: nobody wants it any more and it was returned."""
        state = self._answered(req)
        if state is None:
            self._port.return_lease(lease, False)
            return None
        self._asked_at = 0.0
        worker: LeasedWorker[L] = LeasedWorker(lease, address, pid, link, state)
        worker.accelerators = accelerators or None
        state.workers.append(worker)
        self._fill(state, worker)
        if not worker.in_flight:
            worker.idle_since = now
            self._steal_for(state, worker)
        if len(state.requests) < MAX_LEASE_REQUESTS:
            self._want_workers(state)
        return worker

    def refused(self, req: int, now: float, for_now: bool = False) -> list[PendingTask]:
        """A request was refused. The tasks of its key that nothing can run any more.

        With workers at work none is given up, but what these run may never end: ``tick`` asks again.

        for_now: a task that is being tried again waits on, as its attempts are not spent.
        """
        state = self._answered(req)
        if state is None:
            return []
        if state.workers:
            state.ask_again_at = state.ask_again_at or now + ASK_AGAIN_S
            return []
        self._cancel_requests(state)
        tasks = [task for task in state.queue if not task.settled]
        state.queue.clear()
        state.queue.extend(task for task in tasks if for_now and task.attempt)
        state.dropped_count = 0
        self._want_workers(state)
        self._forget_unused(state)
        return [task for task in tasks if not (for_now and task.attempt)]

    def cancelled(self, req: int) -> None:
        """A request ended without a lease; ask again if it is still needed."""
        state = self._answered(req)
        if state is not None:
            self._want_workers(state)

    def is_wanted(self, req: int) -> bool:
        """Whether the answer to a request still matters."""
        return req in self._request_keys

    def sent_on(self, req: int, anew: int) -> None:
        """Another raylet was asked instead; its answer comes under another number."""
        state = self._answered(req)
        assert state is not None, "nobody wants it any more"
        state.requests[anew] = None
        self._request_keys[anew] = state

    def _answered(self, req: int) -> KeyState[L] | None:
        state = self._request_keys.pop(req, None)
        if state is not None:
            del state.requests[req]
        return state

    def _steal_for(self, state: KeyState[L], thief: LeasedWorker[L]) -> None:
        """Have the most loaded worker hand back half of what waits behind its running task."""
        victim: LeasedWorker[L] | None = None
        most = 1
        for worker in state.workers:
            load = len(worker.in_flight)
            if load > most and not worker.stealing and not worker.barren and worker is not thief:
                victim, most = worker, load
        if victim is not None:
            victim.stealing = True
            victim.asked_at_seq = victim.next_seq
            victim.link.send(StealTasks(most // 2))

    def lost(self, worker: LeasedWorker[L]) -> list[PendingTask]:
        """``worker`` died. What it had, oldest first; of what runs but once it had no more than one.

        The lease is void: the raylet has taken it back already.
        """
        tasks = list(worker.in_flight.values())
        worker.in_flight.clear()
        state = worker.key
        if worker in state.workers:
            state.workers.remove(worker)
            self._want_workers(state)
            self._forget_unused(state)
        return tasks

    def requeue(self, tasks: Sequence[PendingTask]) -> None:
        """Run these again, before what is queued."""
        by_key: dict[SchedulingKey, list[PendingTask]] = {}
        for task in tasks:
            by_key.setdefault(task.spec.template.key, []).append(task)
        for key, again in by_key.items():
            state = self._state_of(key)
            state.put_back(again)
            self._spread(state)
            self._want_workers(state)

    def return_idle(self, now: float) -> None:
        """Others wait for what we hold (LeaseWanted): give back what is idle, or else what first runs dry.

        The raylet asks again once our leases have changed.
        """
        self._asked_at = now
        for state in list(self.keys.values()):
            for worker in [w for w in state.workers if not w.in_flight and not w.stealing]:
                self._give_up(worker)

    def _give_up(self, worker: LeasedWorker[L]) -> None:
        state = worker.key
        state.workers.remove(worker)
        self._asked_at = 0.0
        self._port.return_lease(worker.lease, worker.leaving)
        self._want_workers(state)
        self._forget_unused(state)

    def _forget_unused(self, state: KeyState[L]) -> None:
        """Every combination of options is a key."""
        if not (state.workers or state.queue or state.requests) and self.keys.get(state.key) is state:
            del self.keys[state.key]
            self._last_key = self._last_state = None

    def tick(self, now: float) -> float | None:
        """Return leases idle for IDLE_LEASE_S; ask again where that is due. When to call again, or None.

        That is no later than IDLE_LEASE_S, for workers that run dry meanwhile.
        """
        soonest: float | None = None
        for state in list(self.keys.values()):
            for worker in list(state.workers):
                if not worker.idle_since or worker.in_flight:
                    continue
                due = worker.idle_since + IDLE_LEASE_S
                if due <= now:
                    self._give_up(worker)
                elif soonest is None or due < soonest:
                    soonest = due
            if state.ask_again_at and (state.ask_again_at <= now or not state.workers):
                state.ask_again_at = 0.0
                self._want_workers(state)
            if state.ask_again_at and soonest is None:
                soonest = min(state.ask_again_at, now + IDLE_LEASE_S)
        return soonest

    # -- looking in ------------------------------------------------------------------------------

    def queued_count(self) -> int:
        return sum(state.queued_count for state in self.keys.values())

    def check_invariants(self) -> None:
        """Raise AssertionError if the books do not balance."""
        seen: set[int] = set()
        for state in self.keys.values():
            assert len(state.requests) <= MAX_LEASE_REQUESTS
            for req in state.requests:
                assert self._request_keys[req] is state
            assert state.dropped_count == sum(task.settled for task in state.queue)
            assert not (state.queue and state.queue[0].settled)
            assert all(not task.seq for task in state.queue)
            for task in [*state.queue, *(t for w in state.workers for t in w.in_flight.values())]:
                assert id(task) not in seen, "a task is in two places"
                seen.add(id(task))
            for worker in state.workers:
                for seq, task in worker.in_flight.items():
                    assert task.seq == seq
            self._check_wants(state)

    def _check_wants(self, state: KeyState[L]) -> None:
        """Whoever is queued has a worker of its own to come: asked for, to be asked for, or ours and idle."""
        idle = sum(not worker.in_flight for worker in state.workers)
        to_come = len(state.requests) + idle
        enough = to_come >= min(state.queued_count, MAX_LEASE_REQUESTS) or state.ask_again_at
        assert enough, f"{state.queued_count} tasks wait, and {to_come} workers are to come"

    def explain(self) -> list[dict[str, Any]]:
        """What waits per key, for GetTimeoutError and ``why``."""
        return [
            {
                "name": state.queue[0].spec.name if state.queue else "",
                "queued": state.queued_count,
                "in_flight": sum(len(w.in_flight) for w in state.workers),
                "workers": len(state.workers),
                "requests": list(state.requests),
            }
            for state in self.keys.values()
        ]
