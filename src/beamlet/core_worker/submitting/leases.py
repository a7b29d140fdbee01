"""The submitter's shell: lease requests out, grants and refusals in, and workers that die under a lease."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import NodeId, ObjectId, return_id
from beamlet.core_worker.habits import Advisor, NoAdvisor
from beamlet.core_worker.node_link import Unsent
from beamlet.core_worker.owning.streams import STREAMING
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.submitting.key_state import LeasedWorker
from beamlet.core_worker.submitting.outcomes import Outcomes
from beamlet.core_worker.submitting.pending import PendingTask
from beamlet.core_worker.submitting.ports import PeerBook, Raylet
from beamlet.core_worker.submitting.raylets import Raylets
from beamlet.core_worker.submitting.task_spec import SchedulingKey
from beamlet.core_worker.submitting.task_submitter import TaskSubmitter
from beamlet.exceptions import InfeasibleError, RaySystemError, WorkerCrashedError
from beamlet.protocol.node import (
    CancelLeaseRequest,
    DeleteObjects,
    LeaseCancelled,
    LeaseGranted,
    LeaseInfeasible,
    LeaseName,
    LeaseSpillback,
    RequestLease,
    ReturnLease,
)
from beamlet.protocol.peer import HandedBack
from beamlet.rpc.reactor import Timer
from beamlet.rpc.turns import SharedReactor

#: Calls between two looks at a worker's pace.
_REVIEWED_CALLS = 1024


class _Asked(msgspec.Struct):
    """A lease request under way."""

    message: RequestLease
    #: Where it is now, and all nodes that it was at.
    node: NodeId
    nodes: tuple[NodeId, ...]


class Leases:
    """Fits ``task_submitter.SubmitterPort``. Guarded by the core worker's lock."""

    #: Set by a driver that wants advice.
    advice: Advisor = NoAdvisor()

    def __init__(self, reactor: SharedReactor, raylets: Raylets, peers: PeerBook, outcomes: Outcomes) -> None:
        self._reactor = reactor
        self._raylets = raylets
        self._peers = peers
        self._outcomes = outcomes
        self.submitter: TaskSubmitter[Peer] = TaskSubmitter(self)
        self._tick: Timer | None = None
        #: Requests that were not answered, by ``req``.
        self._asked: dict[int, _Asked] = {}
        #: Who is behind each lease that we hold.
        self._leased: dict[LeaseName, Peer] = {}

    # -- port ------------------------------------------------------------------------------------

    def request_lease(self, key: SchedulingKey, name: str, backlog: int) -> int:
        message = RequestLease(0, dict(key.resources), name, dict(key.env_vars), key.strategy, backlog)
        return self._ask(self._raylets.own_node, message, ())

    def _ask(self, node: NodeId, message: RequestLease, asked_before: tuple[NodeId, ...]) -> int:
        raylet = self._raylets.get(node)
        assert raylet is not None, "the caller looked"
        req = raylet.request(message, partial(self._answered, raylet))
        self._asked[req] = _Asked(message, node, (*asked_before, node))
        return req

    def cancel_lease_request(self, req: int) -> None:
        raylet = self._raylets.get(self._asked[req].node)
        if raylet is not None:
            raylet.send(CancelLeaseRequest(req))

    def return_lease(self, lease: LeaseName, dispose: bool) -> None:
        # The process behind it may come back as something else, an actor of ours say.
        peer = self._leased.pop(lease, None)
        if peer is not None:
            peer.leased = None
        raylet = self._raylets.get(lease.node)
        if raylet is not None:
            raylet.send(ReturnLease(lease, dispose))

    # -- answers ---------------------------------------------------------------------------------

    def _answered(self, raylet: Raylet, message: Any) -> None:
        if message is None:
            return  # our raylet is gone; the core worker ends as a whole
        asked = self._asked.pop(message.req)
        if isinstance(message, Unsent):
            reason = f"no worker could be asked for: {type(message.error).__name__}: {message.error}"
            self._refused(message.req, RaySystemError(f"the task could not be started: {reason}"))
        elif isinstance(message, LeaseGranted):
            self._granted(raylet, message)
        elif isinstance(message, LeaseInfeasible):
            self._infeasible(message)
        elif isinstance(message, LeaseSpillback):
            self._sent_on(asked, message)
        elif isinstance(message, LeaseCancelled) and message.reason:
            error = RaySystemError(f"the task could not be started: {message.reason}")
            self._refused(message.req, error, message.for_now)
        elif isinstance(message, LeaseCancelled):
            self.submitter.cancelled(message.req)

    def _sent_on(self, asked: _Asked, message: LeaseSpillback) -> None:
        """Another node is to give the lease."""
        if self._raylets.get(message.node) is None or message.node in asked.nodes:
            why = "was asked before" if message.node in asked.nodes else "is not known here"
            where = f"node {message.node.hex()[:8]} ({message.address})"
            self._refused(message.req, RaySystemError(f"a lease request was sent on to {where}, which {why}"))
        elif self.submitter.is_wanted(message.req):
            copy = msgspec.structs.replace(asked.message, req=0)
            self.submitter.sent_on(message.req, self._ask(message.node, copy, asked.nodes))

    def _infeasible(self, message: LeaseInfeasible) -> None:
        for task in self._given_up(message.req):
            site = f" Submitted at {task.spec.call_site}." if task.spec.call_site else ""
            self._outcomes.fail(
                task,
                InfeasibleError(
                    f"{task.spec.name} {message.reason}.{site} Ask for less, or start a node that has it; "
                    "init(infeasible='wait') waits for one."
                ),
            )

    def _refused(self, req: int, error: Exception, for_now: bool = False) -> None:
        for task in self._given_up(req, for_now):
            self._outcomes.fail(task, error)

    def _given_up(self, req: int, for_now: bool = False) -> list[PendingTask]:
        """The tasks that a refusal ends."""
        tasks = self.submitter.refused(req, self._reactor.now(), for_now)
        self._schedule_tick()
        return tasks

    def _granted(self, raylet: Raylet, message: LeaseGranted) -> None:
        if message.fresh:
            peer = self._peers.adopt(message.worker, raylet.take_socket)
        else:
            peer = self._peers.get(message.worker)
        worker = self.submitter.granted(
            message.req,
            message.lease,
            message.worker,
            message.pid,
            peer,
            self._reactor.now(),
            message.accelerators,
        )
        peer.leased = worker
        if worker is not None:
            self._leased[message.lease] = peer
            self._schedule_tick()

    def handed_back(self, sender: Peer, message: HandedBack) -> None:
        worker = sender.leased
        if worker is not None:
            unwanted = self.submitter.handed_back(worker, message.seqs, message.blocked, self._reactor.now())
            for task in unwanted:
                self._outcomes.cancel(task)
            self._schedule_tick()

    def after_results(self, worker: LeasedWorker[Peer]) -> None:
        self.submitter.refill(worker, self._reactor.now())
        if worker.idle_since and self._tick is None:
            self._schedule_tick()
        if worker.next_seq >= worker.review_at:
            self._review(worker)

    def _review(self, worker: LeasedWorker[Peer]) -> None:
        """Tell the advisor how long the last calls took, and how long until each was answered."""
        now = self._reactor.now()
        tasks = list(worker.in_flight.values())
        if worker.reviewed_s and tasks:
            names = {task.spec.name for task in tasks}
            cost_us = (now - worker.reviewed_s) / _REVIEWED_CALLS * 1e6
            if len(names) == 1:
                name = names.pop()
                site = tasks[0].spec.call_site
                self.advice.reviewed(name, site, _REVIEWED_CALLS, worker.key.average_us, cost_us)
        worker.review_at = worker.next_seq + _REVIEWED_CALLS
        worker.reviewed_s = now

    # -- idle leases -----------------------------------------------------------------------------

    def _schedule_tick(self) -> None:
        if self._tick is not None:
            return
        due = self.submitter.tick(self._reactor.now())
        if due is not None:
            self._tick = self._reactor.call_later(max(0.0, due - self._reactor.now()), self._ticked)

    def _ticked(self) -> None:
        self._tick = None
        self._schedule_tick()

    # -- deaths ----------------------------------------------------------------------------------

    def worker_lost(self, peer: Peer) -> None:
        """A worker under lease is gone."""
        worker, peer.leased = peer.leased, None
        assert worker is not None
        self._leased.pop(worker.lease, None)
        tasks = self.submitter.lost(worker)
        raylet = self._raylets.get(worker.lease.node)
        if raylet is not None and (ids := [each for task in tasks for each in _result_ids(task)]):
            # What it stored for them and never announced must not pass for what the next attempt makes.
            # One that may live, and write still, is waited for by nobody: then by name.
            maker = peer.address if peer.certificate is not None else None
            raylet.send_first(DeleteObjects(worker.lease.node, ids, maker))
        if peer.certificate is None and raylet is not None:
            # We gave it up, and to the raylet it may live: nobody else gives back what it holds for us.
            raylet.send(ReturnLease(worker.lease, dispose=True))
        if peer.certificate is None:
            for task in tasks:
                self._outcomes.leave_room(task)
        if tasks:
            self.run_crashed(tasks, peer.certificate)

    def run_crashed(self, tasks: list[PendingTask], certificate: DeathCertificate | None) -> None:
        """The worker that had ``tasks`` (oldest first) died: only the first spends a retry.

        Others may have run as well, and their answers been on the way: what they made has names.
        """
        again: list[PendingTask] = []
        for position, task in enumerate(tasks):
            if task.unwanted:
                self._outcomes.cancel(task)
            elif position or task.retries_left:
                again.append(task)
            else:
                self._outcomes.fail(task, _crash_of(task, certificate))
        if again and again[0] is tasks[0]:
            again[0].retries_left -= again[0].retries_left > 0
        for task in again:
            task.attempt += 1
        self.submitter.requeue(again)

    def run_again(self, task: PendingTask) -> None:
        """Another attempt of a task that was answered."""
        task.attempt += 1
        self._outcomes.tasks[task.spec.task_id] = task
        self.submitter.requeue([task])


def _result_ids(task: PendingTask) -> list[ObjectId]:
    """Of its results, not of a generator's items, some of which may have been taken."""
    if task.spec.template.num_returns == STREAMING:
        return []
    return [return_id(task.spec.task_id, index) for index in range(1, len(task.returns) + 1)]


def _crash_of(task: PendingTask, certificate: DeathCertificate | None) -> WorkerCrashedError:
    how = certificate.describe() if certificate is not None else "its process ended; nobody saw how"
    tried = f" (attempt {task.attempt + 1})" if task.attempt else ""
    site = f", submitted at {task.spec.call_site}," if task.spec.call_site else ""
    return WorkerCrashedError(f"The worker running task {task.spec.name}{site} died{tried}: {how}")
