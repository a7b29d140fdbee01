"""Queues, grants and refuses leases on this node's workers, for tasks and for actors. ●

    submitted ──► queued ──► wants a worker ──► held ──► (returned) gone
        │           │  ▲            │             │
        │           │  └────────────┘ no worker   └──► ending ──► gone, when the process is
        ▼           ▼
     spilled     refused (infeasible past its grace), cancelled

A grant needs resources *and* a worker: resources are taken first, then the worker pool is asked (WantWorker)
and answers by ``worker_found`` or ``no_worker``.  Every request is answered exactly once: Granted, Spilled,
Refused or Cancelled; Pending is a word in between.  Methods return the effects for the shell to carry out, in
order.  Time comes in as ``now``.  Which processes exist is worker_pool.py's business, not this module's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from enum import Enum

from msgspec import Struct

from beamlet.base.ids import Address, JobId, NodeId, TaskId, WorkerId
from beamlet.base.resources import lacking, show
from beamlet.raylet.lease_effects import (
    NO_TASK,
    AskBack,
    Cancelled,
    Effect,
    EndWorker,
    Granted,
    Pending,
    Refused,
    Spilled,
    UnwantWorker,
    WantWorker,
    WorkerFree,
)
from beamlet.raylet.lease_queue import LeaseQueue, Request, RequestKey, Shape
from beamlet.raylet.resource_ledger import Allocation, ResourceLedger
from beamlet.scheduling.placement import (
    Decision,
    Here,
    Holder,
    Infeasible,
    NodeView,
    OtherNode,
    Placement,
    Wait,
)

#: How long a node that is asked for by its id may be unknown here, having just joined.
NEWS_S = 1.0
#: A request that has waited this long is told why, and again at this interval if the cause changed.
PENDING_WORD_S = 5.0
#: So many kinds of requests are told why at once, the others a second later: each explanation takes a look at
#: all who hold something.
_EXPLAINED_AT_ONCE = 64


class LeaseState(Enum):
    WANTS_WORKER = "wants a worker"
    HELD = "held"
    ENDING = "ending"


class Lease(Struct, eq=False):
    lease_id: int
    request: Request
    allocation: Allocation
    #: Since when its resources are taken.
    since: float
    state: LeaseState = LeaseState.WANTS_WORKER
    worker: WorkerId | None = None
    #: Its task waits in get/wait, so its CPUs are lent to others.
    blocked: bool = False


class LeaseManager:
    """The leases of one node. ``infeasible_grace_s`` None: wait for ever for a node that could come."""

    def __init__(
        self, node: NodeId, ledger: ResourceLedger, infeasible_grace_s: float | None = 10.0, address: str = ""
    ) -> None:
        self._node = node
        self._ledger = ledger
        self._grace_s = infeasible_grace_s
        self._placement = Placement(node)
        #: This node's ``available`` is the ledger's own dict, so it is always true.
        self.view: dict[NodeId, NodeView] = {node: NodeView(node, ledger.total, ledger.available, address)}
        self._queue = LeaseQueue()
        self._leases: dict[int, Lease] = {}
        self._by_worker: dict[WorkerId, Lease] = {}
        #: Those of tasks: their holders can be asked for what they do not use. Actors may be many more.
        self._of_tasks: dict[WorkerId, Lease] = {}
        self._wanting: dict[RequestKey, Lease] = {}
        #: Holders who were asked to give back what they do not use; forgotten when their leases change.
        self._asked_back: set[Address] = set()
        #: What those who wait lack, as of the last look at them.
        self._lacking: set[str] = set()
        self._order = 0
        self._last_lease_id = 0

    # ---- asking and taking back ----

    def submit(self, request: Request, now: float) -> list[Effect]:
        assert request.key not in self._wanting, f"asked twice: {request.name} {request.key}"
        self._order += 1
        request.since, request.order = now, self._order
        self._queue.add(request)
        decision = self._decide(request)
        if isinstance(decision, OtherNode):
            self._queue.remove(request)
            return [Spilled(request, decision.node, decision.address)]
        if isinstance(decision, Infeasible) and self._grace_s == 0:
            self._queue.remove(request)
            return [Refused(request, decision.reason, infeasible=True)]
        if isinstance(decision, Wait):
            self._lacking.update(decision.lacking)
            return self._ask_back()
        return self._pump(now) if isinstance(decision, Here) else []

    def cancel(self, key: RequestKey, reason: str, now: float) -> list[Effect]:
        """Withdraw a request. One that has been granted meanwhile stays granted: its holder returns it."""
        if (request := self._queue.get(key)) is not None:
            self._queue.remove(request)
            return [Cancelled(request, reason)]
        if (lease := self._wanting.get(key)) is not None:
            self._forget(lease)
            return [UnwantWorker(lease.lease_id), Cancelled(lease.request, reason), *self._pump(now)]
        return []

    def return_lease(self, holder: Address, lease_id: int, dispose: bool, now: float) -> list[Effect]:
        """A lease whose worker died has ended already: returning it then is harmless, and common."""
        lease = self._held_by(holder, lease_id)
        if lease is None:
            return []
        if dispose:
            return self._end(lease, "its leaseholder asked that it be used no more", at_once=False)
        worker = lease.worker
        assert worker is not None
        self._forget(lease)
        wanting = self._pump(now)
        return [WorkerFree(worker), *(wanting or self._ask_back())]

    def worker_stays(self, worker: WorkerId, now: float) -> list[Effect]:
        """It was to be used no more, and will end when nothing is lost with it: nobody waits for that."""
        lease = self._by_worker.get(worker)
        if lease is None or lease.state is not LeaseState.ENDING:
            return []
        self._forget(lease)
        return self._pump(now)

    def force_cancel(self, holder: Address, lease_id: int, reason: str, task: TaskId) -> list[Effect]:
        """Kill the worker under a task of ``holder``'s that did not stop when asked."""
        lease = self._held_by(holder, lease_id)
        return [] if lease is None else self._end(lease, reason, at_once=True, cancelled=task)

    def _held_by(self, holder: Address, lease_id: int) -> Lease | None:
        """None also when it has ended, or is another's."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.state is not LeaseState.HELD or lease.request.client != holder:
            return None
        return lease

    # ---- what the worker pool answers ----

    def worker_found(self, lease_id: int, worker: WorkerId) -> list[Effect]:
        lease = self._leases.get(lease_id)
        if lease is None:
            return [WorkerFree(worker)]  # it was cancelled while this answer was on its way
        assert lease.state is LeaseState.WANTS_WORKER, f"lease {lease_id} has a worker"
        assert worker not in self._by_worker, "a worker serves one lease"
        lease.state, lease.worker = LeaseState.HELD, worker
        del self._wanting[lease.request.key]
        self._by_worker[worker] = lease
        if lease.request.actor is None:
            self._of_tasks[worker] = lease
        self._asked_back.discard(lease.request.client)
        # Its task may be over long before somebody else asks, who would have its holder asked.
        return [Granted(lease.request, lease_id, worker, lease.allocation.indices()), *self._ask_back()]

    def no_worker(self, lease_id: int, reason: str, now: float, for_now: bool = False) -> list[Effect]:
        """No process could be made for it: the call that needed one is told so."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return []
        self._forget(lease)
        return [Refused(lease.request, reason, False, for_now), *self._pump(now)]

    def worker_gone(self, worker: WorkerId, now: float) -> list[Effect]:
        lease = self._by_worker.get(worker)
        if lease is None:
            return []
        self._forget(lease)
        return self._pump(now)

    # ---- running workers ----

    def blocked(self, worker: WorkerId, now: float) -> list[Effect]:
        lease = self._by_worker.get(worker)
        if lease is None or lease.blocked:
            return []
        lease.blocked = True
        self._ledger.give_back_cpus(lease.allocation)
        return self._pump(now)

    def unblocked(self, worker: WorkerId) -> None:
        lease = self._by_worker.get(worker)
        if lease is not None and lease.blocked:
            lease.blocked = False
            self._ledger.take_cpus_again(lease.allocation)

    # ---- clients, jobs and nodes that come and go ----

    def client_gone(self, client: Address, now: float) -> list[Effect]:
        """Its requests need no answer any more; the workers it leased end with it. Actors are the GCS's."""
        effects: list[Effect] = []
        for request in self._queue.of_client(client):
            if request.actor is None:
                self._queue.remove(request)
        for lease in list(self._leases.values()):
            if lease.request.client != client or lease.request.actor is not None:
                continue
            if lease.state is LeaseState.WANTS_WORKER:
                self._forget(lease)
                effects.append(UnwantWorker(lease.lease_id))
            elif lease.state is LeaseState.HELD:
                effects += self._end(lease, "the process that owned its tasks is gone", at_once=True)
        return effects + self._pump(now)

    def job_ended(self, job: JobId, outlived: bool, now: float) -> list[Effect]:
        """Forget the job's waiting requests; ``outlived``: save those that are lasting."""
        waiting = [*self._queue, *(lease.request for lease in self._wanting.values())]
        doomed = [r for r in waiting if r.job.job_id == job and not (outlived and r.lasting)]
        reason = "its job has ended"
        return [effect for request in doomed for effect in self.cancel(request.key, reason, now)]

    def nodes_changed(self, nodes: Collection[NodeView], now: float) -> list[Effect]:
        """What is believed of the other nodes."""
        own = self.view[self._node]
        self.view.clear()
        self.view[self._node] = own
        self.view.update({node.node_id: node for node in nodes if node.node_id != self._node})
        effects = self._pump(now)
        for request in self._queue:
            if isinstance(decision := self._decide(request), OtherNode):
                self._queue.remove(request)
                effects.append(Spilled(request, decision.node, decision.address))
        return effects

    # ---- time ----

    def tick(self, now: float) -> list[Effect]:
        """Refuse what has been infeasible for its grace; tell the patient what they wait for."""
        effects: list[Effect] = []
        # Ten thousand may wait for the same: what is decided for one, and why it waits, is so for all.
        decisions: dict[Shape, tuple[Decision, str]] = {}
        explained: set[Shape] = set()
        explain = self._explainer()
        for request in self._queue:
            waited, shape = now - request.since, request.shape
            if shape not in decisions:
                decided = self._decide(request)
                decisions[shape] = decided, _cause(decided)
            decision, cause = decisions[shape]
            if isinstance(decision, Infeasible) and waited >= self._grace_of(decision):
                self._queue.remove(request)
                effects.append(Refused(request, decision.reason, infeasible=True))
            elif waited < PENDING_WORD_S or cause == request.told:
                continue
            elif shape in explained or len(explained) < _EXPLAINED_AT_ONCE:
                explained.add(shape)
                request.told = cause
                effects.append(Pending(request, explain(request)))
        for lease in self._wanting.values():
            if now - lease.request.since >= PENDING_WORD_S and lease.request.told != "worker":
                lease.request.told = "worker"
                effects.append(Pending(lease.request, _STARTING))
        return effects

    def _grace_of(self, infeasible: Infeasible) -> float:
        grace = float("inf") if self._grace_s is None else self._grace_s
        return min(grace, NEWS_S) if infeasible.for_good else grace

    def next_wake(self, now: float) -> float | None:
        """When ``tick`` is worth calling; None while nobody waits."""
        return now + 1.0 if self._queue or self._wanting else None

    # ---- explaining ----

    def why(self, client: Address, now: float) -> list[str]:
        """What each kind of outstanding request of ``client`` waits for, who holds it, since when."""
        counts: Counter[tuple[str, str]] = Counter()
        oldest: dict[tuple[str, str], float] = {}
        for request, reason in self._waiting(lambda request: request.client == client):
            group = (f"{_kind(request)} {request.name}", reason)
            counts[group] += 1
            oldest[group] = min(oldest.get(group, now), request.since)
        return [f"{who}{f' ×{n}' if n > 1 else ''} has waited {now - oldest[who, reason]:.0f} s: {reason}"
                for (who, reason), n in counts.items()]  # fmt: skip

    def why_request(self, key: RequestKey) -> str:
        """ "" when it does not wait here."""
        if (request := self._queue.get(key)) is not None:
            return self._explainer()(request)
        return _STARTING if key in self._wanting else ""

    def demand(self) -> list[tuple[str, int, str]]:
        """(resources shown, how many, why) of all that waits, for ``status``."""
        # Each of a client's requests for one kind of task counts the same tasks behind it.
        backlogs: dict[tuple[str, str, Address, str], list[int]] = {}
        for request, reason in self._waiting():
            shown = show(request.demand.largest())
            backlogs.setdefault((shown, reason, request.client, request.name), []).append(request.backlog)
        counts: Counter[tuple[str, str]] = Counter()
        for (shown, reason, _, _), each in backlogs.items():
            counts[shown, reason] += max(len(each), *each)
        return [(shown, count, reason) for (shown, reason), count in counts.items()]

    def knows(self, key: RequestKey) -> bool:
        """Whether a request of this key waits here, for resources or for a worker."""
        return key in self._queue or key in self._wanting

    def holder_of(self, worker: WorkerId) -> Request | None:
        """The request that the worker serves now."""
        lease = self._by_worker.get(worker)
        return lease.request if lease else None

    def check_invariants(self) -> None:
        self._ledger.check_invariants((lease.allocation, lease.blocked) for lease in self._leases.values())
        for worker, lease in self._by_worker.items():
            assert lease.worker == worker, "a lease's worker disagrees"
            assert self._leases.get(lease.lease_id) is lease, "a worker serves a forgotten lease"
            assert lease.state is not LeaseState.WANTS_WORKER
        tasks_now = {worker: lease for worker, lease in self._by_worker.items() if not lease.request.actor}
        assert self._of_tasks == tasks_now, "the leases of tasks disagree"
        wanting = [lease for lease in self._leases.values() if lease.state is LeaseState.WANTS_WORKER]
        assert wanting == list(self._wanting.values()), "leases that want a worker disagree"
        assert len(self._leases) == len(wanting) + len(self._by_worker), "a lease has at most one worker"
        assert not any(key in self._queue for key in self._wanting), "a request is queued and granted"
        tasks = Counter(lease.request.client for lease in self._leases.values() if not lease.request.actor)
        assert tasks == +self._queue.held, f"leases per client: {tasks} ≠ {self._queue.held}"

    # ---- private ----

    def _decide(self, request: Request) -> Decision:
        if request.actor is not None:
            # The GCS has chosen this node for it.
            own = {self._node: self.view[self._node]}
            return self._placement.decide(request.demand, own)
        return self._placement.decide(request.demand, self.view)

    def _fits(self, request: Request) -> bool:
        wanted, available = request.resources, self._ledger.available
        for name in self._lacking:
            if wanted.get(name, 0) > available.get(name, 0):
                return False  # nearly always the CPUs
        if not self._ledger.fits(wanted):
            short = lacking(wanted, available)
            self._lacking.update(short or wanted)  # none is short: it is the devices' sizes
            return False
        return isinstance(self._decide(request), Here)

    def _pump(self, now: float) -> list[Effect]:
        """Grant resources while anything fits, and ask for the workers."""
        effects: list[Effect] = []
        self._lacking.clear()
        while (request := self._queue.next(self._fits)) is not None:
            self._lacking.clear()
            self._queue.remove(request)
            self._last_lease_id += 1
            lease = Lease(self._last_lease_id, request, self._ledger.take(request.resources), now)
            self._leases[lease.lease_id] = lease
            self._wanting[request.key] = lease
            if request.actor is None:
                self._queue.held[request.client] += 1
            effects.append(WantWorker(lease.lease_id, request))
        return effects

    def _forget(self, lease: Lease) -> None:
        """The lease is over: its resources are free."""
        self._asked_back.discard(lease.request.client)
        del self._leases[lease.lease_id]
        self._wanting.pop(lease.request.key, None)
        if lease.worker is not None:
            del self._by_worker[lease.worker]
            self._of_tasks.pop(lease.worker, None)
        if lease.request.actor is None:
            self._queue.held[lease.request.client] -= 1
            if not self._queue.held[lease.request.client]:
                del self._queue.held[lease.request.client]
        self._ledger.give_back(lease.allocation, cpus_are_back=lease.blocked)

    def _ask_back(self) -> list[Effect]:
        """Ask those who hold what is lacking for what they do not use: once each, until something changes."""
        effects: list[Effect] = []
        for lease in self._of_tasks.values() if self._queue else ():
            holder = lease.request.client
            if holder not in self._asked_back and not self._lacking.isdisjoint(lease.allocation.amounts):
                self._asked_back.add(holder)
                effects.append(AskBack(holder))
        return effects

    def _end(self, lease: Lease, reason: str, at_once: bool, cancelled: TaskId = NO_TASK) -> list[Effect]:
        """Its resources stay taken until the process is gone: only then is its memory free."""
        assert lease.worker is not None
        lease.state = LeaseState.ENDING
        return [EndWorker(lease.worker, reason, at_once, cancelled)]

    def _waiting(self, concerns: Callable[[Request], bool] = lambda _: True) -> Iterator[tuple[Request, str]]:
        """Whoever waits, and for what."""
        explain = self._explainer()
        for request in filter(concerns, self._queue):
            yield request, explain(request)
        for lease in self._wanting.values():
            if concerns(lease.request):
                yield lease.request, _STARTING

    def _explainer(self) -> Callable[[Request], str]:
        """Says why a request waits, as of now: the same for all of one shape."""
        reasons: dict[Shape, str] = {}
        holders: list[Holder] = []

        def explain(request: Request) -> str:
            shape = request.shape
            if shape not in reasons:
                if not reasons:
                    holders.extend(self._holders())
                reasons[shape] = self._why(request, holders)
            return reasons[shape]

        return explain

    def _why(self, request: Request, holders: list[Holder]) -> str:
        return self._placement.explain(request.demand, self.view, holders) or _DEVICES

    def _holders(self) -> list[Holder]:
        return [
            Holder(_kind(lease.request), lease.request.name, self._held_now(lease), lease.request.call_site)
            for lease in self._leases.values()
        ]

    def _held_now(self, lease: Lease) -> dict[str, int]:
        return lease.allocation.without_cpus() if lease.blocked else lease.allocation.amounts


_DEVICES = "the free devices are shares of different accelerators, none of them large enough"
_STARTING = "a worker process is being started for it"


def _kind(request: Request) -> str:
    return "task" if request.actor is None else "actor"


def _cause(decision: Decision) -> str:
    """What must change for a wait to be news."""
    if isinstance(decision, Infeasible):
        return "infeasible"
    if isinstance(decision, Here | OtherNode):
        return "devices"
    return ",".join(sorted(decision.lacking))
