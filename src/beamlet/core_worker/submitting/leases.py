"""The submitter's shell: lease requests out, grants and refusals in, and workers that die under a lease."""

from __future__ import annotations

from typing import Any

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import Address
from beamlet.core_worker.habits import Advisor, NoAdvisor
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.submitting.outcomes import Outcomes
from beamlet.core_worker.submitting.pending import PendingTask
from beamlet.core_worker.submitting.ports import PeerBook, Raylet
from beamlet.core_worker.submitting.task_spec import SchedulingKey
from beamlet.core_worker.submitting.task_submitter import LeasedWorker, TaskSubmitter
from beamlet.exceptions import InfeasibleError, RaySystemError, WorkerCrashedError
from beamlet.protocol.node import (
    CancelLeaseRequest,
    LeaseCancelled,
    LeaseGranted,
    LeaseInfeasible,
    LeaseName,
    LeasePending,
    LeaseSpillback,
    RequestLease,
    ReturnLease,
)
from beamlet.protocol.peer import HandedBack
from beamlet.rpc.reactor import Timer
from beamlet.rpc.turns import SharedReactor
from beamlet.serialization.values import dump_error

#: How long a crashed task waits for its worker's death certificate.
_CERTIFICATE_S = 2.0
_CERTIFICATES_KEPT = 256
#: Calls between two looks at a worker's pace.
_REVIEWED_CALLS = 1024


class Leases:
    """Fits ``task_submitter.SubmitterPort``. Guarded by the core worker's lock."""

    #: Set by a driver that wants advice.
    advice: Advisor = NoAdvisor()

    def __init__(self, reactor: SharedReactor, raylet: Raylet, peers: PeerBook, outcomes: Outcomes) -> None:
        self._reactor = reactor
        self._raylet = raylet
        self._peers = peers
        self._outcomes = outcomes
        self.submitter: TaskSubmitter[Peer] = TaskSubmitter(self)
        self._tick: Timer | None = None
        #: Tasks of workers that died, until the certificate comes.
        self._uncertified: dict[Address, list[PendingTask]] = {}
        self._certificates: dict[Address, DeathCertificate] = {}
        #: Who is behind each lease that we hold.
        self._leased: dict[LeaseName, Peer] = {}
        #: The raylet's last word on what each request waits for.
        self._reasons: dict[int, str] = {}

    # -- port ------------------------------------------------------------------------------------

    def request_lease(self, key: SchedulingKey, name: str, backlog: int) -> int:
        message = RequestLease(0, dict(key.resources), name, dict(key.env_vars), key.strategy, backlog)
        return self._raylet.request(message, self._answered)

    def cancel_lease_request(self, req: int) -> None:
        self._raylet.send(CancelLeaseRequest(req))

    def return_lease(self, lease: LeaseName, dispose: bool) -> None:
        # The process behind it may come back as something else, an actor of ours say.
        peer = self._leased.pop(lease, None)
        if peer is not None:
            peer.leased = None
        self._raylet.send(ReturnLease(lease, dispose))

    # -- answers ---------------------------------------------------------------------------------

    def _answered(self, message: Any) -> None:
        if message is None:
            return  # the raylet is gone; the core worker ends as a whole
        self._reasons.pop(message.req, None)
        if isinstance(message, LeaseGranted):
            self._granted(message)
        elif isinstance(message, LeaseInfeasible):
            self._infeasible(message)
        elif isinstance(message, LeaseSpillback):
            # One node cannot send us elsewhere; a cluster of several will connect here.
            reason = f"the raylet sent a lease request on to unknown node {message.address}"
            self._refused(message.req, RaySystemError(reason))
        elif isinstance(message, LeaseCancelled) and message.reason:
            self._refused(message.req, RaySystemError(f"the task could not be started: {message.reason}"))
        elif isinstance(message, LeaseCancelled):
            self.submitter.cancelled(message.req)

    def _infeasible(self, message: LeaseInfeasible) -> None:
        for task in self.submitter.refused(message.req):
            site = f" Submitted at {task.spec.call_site}." if task.spec.call_site else ""
            self._outcomes.fail(
                task,
                InfeasibleError(
                    f"{task.spec.name} {message.reason}.{site} Ask for less, or start a node that has it; "
                    "init(infeasible='wait') waits for one."
                ),
            )

    def _refused(self, req: int, error: Exception) -> None:
        payload = dump_error(error)
        for task in self.submitter.refused(req):
            self._outcomes.finish_with(task, payload)

    def _granted(self, message: LeaseGranted) -> None:
        if message.fresh:
            peer = self._peers.adopt(message.worker, self._raylet.take_socket())
        else:
            known = self._peers.by_address.get(message.worker)
            if known is None:  # it died meanwhile
                self.return_lease(message.lease, True)
                self.submitter.cancelled(message.req)
                return
            peer = known
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

    def pending_reason(self, message: LeasePending) -> None:
        self._reasons[message.req] = message.reason

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
        """A worker under lease is gone: its tasks wait a moment to learn why."""
        worker, peer.leased = peer.leased, None
        assert worker is not None
        self._leased.pop(worker.lease, None)
        tasks = self.submitter.lost(worker)
        if not tasks:
            return
        address = peer.address
        certificate = self._certificates.pop(address, None) or peer.certificate
        if certificate is not None:
            self.run_crashed(tasks, certificate)
            return
        self._uncertified[address] = tasks
        self._reactor.call_later(_CERTIFICATE_S, lambda: self._give_up_waiting(address))

    def certified(self, address: Address, certificate: DeathCertificate) -> None:
        """The raylet says how a worker died."""
        tasks = self._uncertified.pop(address, None)
        if tasks is not None:
            self.run_crashed(tasks, certificate)
            return
        self._certificates[address] = certificate
        if len(self._certificates) > _CERTIFICATES_KEPT:
            del self._certificates[next(iter(self._certificates))]

    def _give_up_waiting(self, address: Address) -> None:
        tasks = self._uncertified.pop(address, None)
        if tasks is not None:
            self.run_crashed(tasks, None)

    def run_crashed(self, tasks: list[PendingTask], certificate: DeathCertificate | None) -> None:
        """The worker that had ``tasks`` (oldest first) died: only the first can have been running."""
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
            again[0].attempt += 1
        self.submitter.requeue(again)

    def run_again(self, task: PendingTask) -> None:
        """Another attempt of a task that was answered."""
        task.attempt += 1
        self._outcomes.tasks[task.spec.task_id] = task
        self.submitter.requeue([task])


def _crash_of(task: PendingTask, certificate: DeathCertificate | None) -> WorkerCrashedError:
    how = certificate.describe() if certificate is not None else "its process ended; nobody saw how"
    tried = f" (attempt {task.attempt + 1})" if task.attempt else ""
    site = f", submitted at {task.spec.call_site}," if task.spec.call_site else ""
    return WorkerCrashedError(f"The worker running task {task.spec.name}{site} died{tried}: {how}")
