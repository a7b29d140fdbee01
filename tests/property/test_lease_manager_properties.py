"""Whatever is asked, granted, blocked, returned, cancelled and killed, in any order: the books balance."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from beamlet.base.ids import ActorId, Address, NodeId, WorkerId, make_address
from beamlet.base.resources import UNIT
from beamlet.raylet.lease_effects import (
    Cancelled,
    Effect,
    EndWorker,
    Granted,
    Pending,
    Refused,
    UnwantWorker,
    WantWorker,
    WorkerFree,
)
from beamlet.raylet.lease_manager import LeaseManager
from beamlet.raylet.lease_queue import Request, RequestKey
from beamlet.raylet.resource_ledger import ResourceLedger
from support.jobs import a_job

NODE = NodeId(b"n" * 28)
JOB = a_job()
CLIENTS = [make_address(NODE, WorkerId(b"c%027d" % n)) for n in range(4)]
TOTAL = {"CPU": 3 * UNIT, "GPU": 2 * UNIT, "gizmo": UNIT}
AMOUNTS = st.fixed_dictionaries(
    {},
    optional={
        "CPU": st.sampled_from([1000, 5000, UNIT, 2 * UNIT, 9 * UNIT]),
        "GPU": st.sampled_from([2500, 5000, 7500, UNIT, 2 * UNIT]),
        "gizmo": st.sampled_from([5000, UNIT]),
    },
)


class LeasesInAnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.manager = LeaseManager(NODE, ResourceLedger(TOTAL))
        self.now = 0.0
        self.asked: set[RequestKey] = set()
        self.excused: set[RequestKey] = set()
        self.answers: Counter[RequestKey] = Counter()
        self.wanting: list[int] = []
        self.held: dict[WorkerId, Granted] = {}
        self.ending: set[WorkerId] = set()
        self.gone_clients: set[Address] = set()
        self.count = 0

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case WantWorker():
                    self.wanting.append(effect.lease_id)
                case UnwantWorker():
                    self.wanting.remove(effect.lease_id)
                case Granted():
                    assert effect.worker not in self.held, "a worker has two holders"
                    self.answers[effect.request.key] += 1
                    self.held[effect.worker] = effect
                case Refused() | Cancelled():
                    self.answers[effect.request.key] += 1
                case EndWorker():
                    self.ending.add(effect.worker)
                case WorkerFree():
                    assert effect.worker not in self.held
                case Pending():
                    assert effect.request.key not in self.answers
                    assert effect.reason

    @rule(client=st.sampled_from(CLIENTS), amounts=AMOUNTS, actor=st.booleans())
    def ask(self, client: Address, amounts: dict[str, int], actor: bool) -> None:
        self.count += 1
        actor_id = ActorId(b"%016d" % self.count) if actor else None
        key = (actor_id or client, self.count)
        if client in self.gone_clients:
            return
        self.asked.add(key)
        request = Request(key, client, JOB, amounts, f"f{self.count}", actor=actor_id)
        self.perform(self.manager.submit(request, self.now))

    @precondition(lambda self: self.wanting)
    @rule(data=st.data(), fails=st.booleans())
    def pool_answers(self, data: st.DataObject, fails: bool) -> None:
        lease_id = data.draw(st.sampled_from(self.wanting))
        self.wanting.remove(lease_id)
        self.count += 1
        if fails:
            self.perform(self.manager.no_worker(lease_id, "no process", self.now))
        else:
            self.perform(self.manager.worker_found(lease_id, WorkerId(b"w%027d" % self.count)))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), dispose=st.booleans())
    def give_back(self, data: st.DataObject, dispose: bool) -> None:
        worker = data.draw(st.sampled_from(list(self.held)))
        grant = self.held[worker]
        if grant.request.actor is not None:
            return
        if not dispose and worker not in self.ending:
            del self.held[worker]
        self.perform(self.manager.return_lease(grant.request.client, grant.lease_id, dispose, self.now))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), wakes=st.booleans())
    def block(self, data: st.DataObject, wakes: bool) -> None:
        worker = data.draw(st.sampled_from(list(self.held)))
        if wakes:
            self.manager.unblocked(worker)
        else:
            self.perform(self.manager.blocked(worker, self.now))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(list(self.held)))
        del self.held[worker]
        self.ending.discard(worker)
        self.perform(self.manager.worker_gone(worker, self.now))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.asked)))
        self.perform(self.manager.cancel(key, "cancelled", self.now))

    @rule(client=st.sampled_from(CLIENTS))
    def client_dies(self, client: Address) -> None:
        self.gone_clients.add(client)
        self.excused |= {key for key in self.asked if key[0] == client and not self.answers[key]}
        self.perform(self.manager.client_gone(client, self.now))
        held = {w for w, g in self.held.items() if g.request.client == client and not g.request.actor}
        assert held <= self.ending, "a dead client's worker was left running"

    @rule(seconds=st.sampled_from([0.1, 3.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.manager.tick(self.now))

    @invariant()
    def the_books_balance(self) -> None:
        self.manager.check_invariants()

    @invariant()
    def nobody_is_answered_twice(self) -> None:
        assert not [key for key, count in self.answers.items() if count > 1]

    @invariant()
    def nothing_waits_that_fits(self) -> None:
        """What waits cannot run: no grant is ever forgotten."""
        assert not [
            request.name
            for request, _ in self.manager._waiting()
            if request.key not in self.manager._wanting and self.manager._fits(request)
        ]

    def teardown(self) -> None:
        """Let everything finish: then everyone has been answered and everything is free."""
        for _ in range(len(self.asked) + 1):
            for lease_id in list(self.wanting):
                self.wanting.remove(lease_id)
                self.count += 1
                self.perform(self.manager.worker_found(lease_id, WorkerId(b"w%027d" % self.count)))
            for worker in list(self.held):
                del self.held[worker]
                self.perform(self.manager.worker_gone(worker, self.now))
        self.perform(self.manager.tick(self.now + 100.0))
        unanswered = {key for key in self.asked if not self.answers[key]} - self.excused
        assert not unanswered
        assert self.manager.view[NODE].available == TOTAL


TestLeasesInAnyOrder = LeasesInAnyOrder.TestCase
TestLeasesInAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
