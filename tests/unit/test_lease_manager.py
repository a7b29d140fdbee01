"""Queueing, granting and refusing leases, without a process or a clock."""

from __future__ import annotations

import pytest

from beamlet.base.ids import ActorId, Address, NodeId, TaskId, WorkerId, make_address
from beamlet.base.resources import from_floats
from beamlet.raylet import lease_manager
from beamlet.raylet.lease_effects import (
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
from beamlet.raylet.lease_manager import PENDING_WORD_S, LeaseManager
from beamlet.raylet.lease_queue import Request
from beamlet.raylet.resource_ledger import ResourceLedger
from beamlet.scheduling.placement import NodeView
from support.jobs import a_job

NODE = NodeId(b"n" * 28)
JOB = a_job()


def address(name: str) -> Address:
    return make_address(NODE, WorkerId(name.encode().ljust(28, b"_")))


class Node:
    """A lease manager and a worker pool with a worker for everyone, at once."""

    def __init__(self, grace_s: float | None = 10.0, **total: float) -> None:
        self.manager = LeaseManager(NODE, ResourceLedger(from_floats(total)), grace_s)
        self.now = 0.0
        self.grants: dict[str, Granted] = {}
        self.log: list[Effect] = []
        self._workers = 0

    def ask(
        self, who: str, req: int, name: str = "f", strategy: str = "DEFAULT", **amounts: float
    ) -> Request:
        request = Request(
            (address(who), req), address(who), JOB, from_floats(amounts), name, strategy=strategy
        )
        self.perform(self.manager.submit(request, self.now))
        return request

    def place(self, actor: str, lives_on: dict[str, float], to_place: dict[str, float]) -> Request:
        actor_id = ActorId(actor.encode().ljust(16, b"_"))
        request = Request(
            (actor_id, 0),
            address("owner"),
            JOB,
            from_floats(lives_on),
            actor,
            to_place=from_floats(to_place),
            actor=actor_id,
            call_site="app.py:9",
        )
        self.perform(self.manager.submit(request, self.now))
        return request

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            self.log.append(effect)
            if isinstance(effect, WantWorker):
                self._workers += 1
                worker = WorkerId(b"w%027d" % self._workers)
                self.perform(self.manager.worker_found(effect.lease_id, worker))
            elif isinstance(effect, Granted):
                self.grants[effect.request.name] = effect
        self.manager.check_invariants()

    def give_back(self, name: str, dispose: bool = False) -> None:
        grant = self.grants.pop(name)
        self.perform(self.manager.return_lease(grant.request.client, grant.lease_id, dispose, self.now))

    def free(self, resource: str = "CPU") -> float:
        return self.manager.view[NODE].available[resource] / 10_000


def test_grants_while_there_is_room_then_in_order_as_it_returns() -> None:
    node = Node(CPU=2)
    for n in range(4):
        node.ask("a", n, f"f{n}", CPU=1)
    assert list(node.grants) == ["f0", "f1"]
    node.give_back("f1")
    assert list(node.grants) == ["f0", "f2"]
    assert isinstance(node.log[-4], WorkerFree)
    assert node.free() == 0


def test_resources_taken_before_the_worker_comes_are_not_given_twice() -> None:
    manager = LeaseManager(NODE, ResourceLedger(from_floats({"CPU": 1})))
    first = Request((address("a"), 1), address("a"), JOB, from_floats({"CPU": 1}), "f")
    second = Request((address("a"), 2), address("a"), JOB, from_floats({"CPU": 1}), "f")
    assert manager.submit(first, 0.0) == [WantWorker(1, first)]
    assert manager.submit(second, 0.0) == []
    manager.check_invariants()


def test_a_large_request_does_not_hold_up_a_small_one_behind_it() -> None:
    node = Node(CPU=2)
    node.ask("a", 1, "running", CPU=1)
    node.ask("a", 2, "large", CPU=2)
    node.ask("a", 3, "small", CPU=1)
    assert list(node.grants) == ["running", "small"]


def test_the_client_with_fewest_leases_is_served_first() -> None:
    node = Node(CPU=2)
    for n in range(5):
        node.ask("greedy", n, f"g{n}", CPU=1)
    node.ask("modest", 1, "m", CPU=1)
    node.give_back("g0")
    assert list(node.grants) == ["g1", "m"]


def test_fractions_add_up_exactly() -> None:
    node = Node(CPU=1)
    for n in range(11):
        node.ask("a", n, f"f{n}", CPU=0.1)
    assert len(node.grants) == 10
    assert node.free() == 0


def test_gpu_indices_are_whole_first_then_shares_of_one_device() -> None:
    node = Node(GPU=2)
    node.ask("a", 1, "half", GPU=0.5)
    node.ask("a", 2, "quarter", GPU=0.25)
    node.ask("a", 3, "whole", GPU=1)
    assert node.grants["half"].accelerators == {"GPU": [0]}
    assert node.grants["quarter"].accelerators == {"GPU": [0]}
    assert node.grants["whole"].accelerators == {"GPU": [1]}


def test_shares_of_two_devices_are_not_one_device() -> None:
    node = Node(GPU=2)
    node.ask("a", 1, "f0", GPU=0.6)
    node.ask("a", 2, "f1", GPU=0.6)
    waiting = node.ask("a", 3, "wide", GPU=0.8)
    assert "wide" not in node.grants
    assert "shares of different accelerators" in node.manager.why_request(waiting.key)
    node.give_back("f0")
    assert node.grants["wide"].accelerators == {"GPU": [0]}


def test_a_blocked_lease_lends_its_cpus_and_nothing_else() -> None:
    node = Node(CPU=1, GPU=1, gizmo=1)
    node.ask("a", 1, "parent", CPU=1, GPU=1, gizmo=1)
    node.perform(node.manager.blocked(node.grants["parent"].worker, 0.0))
    node.ask("b", 1, "child", CPU=1)
    node.ask("b", 2, "gpu child", GPU=1)
    assert list(node.grants) == ["parent", "child"]
    assert (node.free("GPU"), node.free("gizmo")) == (0, 0)


def test_waking_takes_cpus_at_once_and_nobody_new_is_served_until_that_is_made_good() -> None:
    node = Node(CPU=1)
    node.ask("a", 1, "parent", CPU=1)
    parent = node.grants["parent"].worker
    node.perform(node.manager.blocked(parent, 0.0))
    node.perform(node.manager.blocked(parent, 0.0))
    node.ask("b", 1, "child", CPU=1)
    node.ask("b", 2, "next", CPU=1)
    node.manager.unblocked(parent)
    node.manager.unblocked(parent)
    assert node.free() == -1
    node.give_back("child")
    assert node.free() == 0
    assert "next" not in node.grants
    node.give_back("parent")
    assert "next" in node.grants


def test_a_blocked_worker_that_dies_gives_back_only_what_it_still_held() -> None:
    node = Node(CPU=1, gizmo=1)
    node.ask("a", 1, "parent", CPU=1, gizmo=1)
    parent = node.grants["parent"].worker
    node.perform(node.manager.blocked(parent, 0.0))
    node.perform(node.manager.worker_gone(parent, 0.0))
    assert (node.free(), node.free("gizmo")) == (1, 1)


def test_a_default_actor_needs_a_cpu_to_exist_and_holds_none() -> None:
    node = Node(CPU=1)
    node.ask("a", 1, "long task", CPU=1)
    node.place("H", lives_on={}, to_place={"CPU": 1})
    node.place("I", lives_on={}, to_place={"CPU": 1})
    assert list(node.grants) == ["long task", "H", "I"]


def test_an_actor_that_asks_for_cpus_holds_them_till_its_worker_is_gone() -> None:
    node = Node(CPU=1)
    node.place("H", lives_on={"CPU": 1}, to_place={"CPU": 1})
    waiting = node.ask("a", 1, "f", CPU=1)
    assert node.manager.why_request(waiting.key) == "the only CPU is held: actor H ×1 (created app.py:9)"
    node.perform(node.manager.worker_gone(node.grants["H"].worker, 0.0))
    assert "f" in node.grants


def test_an_infeasible_request_is_refused_after_its_grace() -> None:
    node = Node(grace_s=10.0, CPU=2)
    request = node.ask("a", 1, CPU=8)
    node.perform(node.manager.tick(9.9))
    assert [type(effect) for effect in node.log] == [Pending]
    node.perform(node.manager.tick(10.0))
    reason = "needs {'CPU': 8}; the largest node has {'CPU': 2} (1 node)"
    assert node.log[-1] == Refused(request, reason, infeasible=True)
    node.perform(node.manager.tick(11.0))
    assert len(node.log) == 2


def test_a_grace_of_zero_refuses_at_once_and_none_waits_for_ever() -> None:
    at_once = Node(grace_s=0.0, CPU=2)
    at_once.ask("a", 1, CPU=8)
    assert isinstance(at_once.log[-1], Refused)
    patient = Node(grace_s=None, CPU=2)
    patient.ask("a", 1, CPU=8)
    patient.perform(patient.manager.tick(1e9))
    assert [type(effect) for effect in patient.log] == [Pending]


def test_a_node_that_joins_in_time_takes_what_was_infeasible() -> None:
    node = Node(CPU=2)
    request = node.ask("a", 1, CPU=8)
    other = NodeId(b"o" * 28)
    big = NodeView(other, from_floats({"CPU": 16}), from_floats({"CPU": 16}), "there")
    node.perform(node.manager.nodes_changed([big], 1.0))
    assert node.log == [Spilled(request, other, "there")]


def test_the_patient_are_told_once_per_cause() -> None:
    node = Node(CPU=1, gizmo=1)
    node.ask("a", 1, "holder", CPU=1)
    node.ask("b", 1, "waiter", CPU=1, gizmo=1)
    node.perform(node.manager.tick(4.9))
    assert not [effect for effect in node.log if isinstance(effect, Pending)]
    for now in (5.0, 6.0, 60.0):
        node.perform(node.manager.tick(now))
    told = [effect.reason for effect in node.log if isinstance(effect, Pending)]
    assert told == ["the only CPU is held: task holder ×1"]
    node.ask("a", 2, "second holder", gizmo=1)
    node.perform(node.manager.tick(61.0))
    assert [e.reason for e in node.log if isinstance(e, Pending)][1:] == [
        "the only CPU is held: task holder ×1; the only gizmo is held: task second holder ×1"
    ]


def test_cancel_while_queued_while_a_worker_is_wanted_and_when_it_is_too_late() -> None:
    manager = LeaseManager(NODE, ResourceLedger(from_floats({"CPU": 1})))
    first, second, third = (
        Request((address("a"), n), address("a"), JOB, from_floats({"CPU": 1}), f"f{n}") for n in (1, 2, 3)
    )
    for request in (first, second, third):
        manager.submit(request, 0.0)
    assert manager.cancel(second.key, "changed my mind", 0.0) == [Cancelled(second, "changed my mind")]
    effects = manager.cancel(first.key, "", 0.0)
    assert effects == [UnwantWorker(1), Cancelled(first, ""), WantWorker(2, third)]
    manager.worker_found(2, WorkerId(b"w" * 28))
    assert manager.cancel(third.key, "", 0.0) == []
    manager.check_invariants()


def test_no_worker_refuses_that_request_and_serves_the_next() -> None:
    manager = LeaseManager(NODE, ResourceLedger(from_floats({"CPU": 1})))
    first, second = (
        Request((address("a"), n), address("a"), JOB, from_floats({"CPU": 1}), "f") for n in (1, 2)
    )
    manager.submit(first, 0.0)
    manager.submit(second, 0.0)
    effects = manager.no_worker(1, "fork failed: EAGAIN", 0.0)
    assert effects == [Refused(first, "fork failed: EAGAIN", infeasible=False), WantWorker(2, second)]


def test_when_a_client_dies_its_requests_vanish_and_its_workers_end() -> None:
    node = Node(CPU=2)
    node.ask("doomed", 1, "running", CPU=1)
    node.ask("other", 1, "kept", CPU=1)
    node.ask("doomed", 2, "queued", CPU=1)
    node.ask("other", 2, "next", CPU=1)
    worker = node.grants["running"].worker
    node.perform(node.manager.client_gone(address("doomed"), 1.0))
    assert isinstance(node.log[-1], EndWorker)
    assert "next" not in node.grants, "its CPU is free only when the process is gone"
    node.perform(node.manager.worker_gone(worker, 1.1))
    assert "next" in node.grants
    assert "queued" not in node.grants


def test_a_disposed_worker_is_ended_not_reused() -> None:
    node = Node(CPU=1)
    node.ask("a", 1, "f", CPU=1)
    worker = node.grants["f"].worker
    node.give_back("f", dispose=True)
    assert isinstance(node.log[-1], EndWorker)
    assert (node.log[-1].worker, node.log[-1].at_once) == (worker, False)


def test_a_disposed_worker_that_is_needed_keeps_nobody_waiting() -> None:
    node = Node(CPU=1)
    node.ask("a", 1, "f", CPU=1)
    worker = node.grants["f"].worker
    node.ask("b", 1, "next", CPU=1)
    node.perform(node.manager.worker_stays(worker, 1.0))
    assert "next" not in node.grants, "it is not being ended"
    node.give_back("f", dispose=True)
    assert "next" not in node.grants, "its memory is free when it is gone"
    node.perform(node.manager.worker_stays(worker, 1.0))
    assert node.grants["next"].worker != worker
    node.perform(node.manager.worker_gone(worker, 9.0))


def test_holders_of_what_is_lacking_are_asked_for_it_once_until_something_changes() -> None:
    node = Node(CPU=2, gizmo=1)
    node.ask("a", 1, "f", CPU=2)
    node.ask("b", 1, "other", gizmo=1)
    node.ask("c", 1, "g", CPU=1)
    node.ask("c", 2, "h", CPU=1)
    assert [effect for effect in node.log if isinstance(effect, AskBack)] == [AskBack(address("a"))]
    node.give_back("f")
    node.ask("a", 2, "again", CPU=1)
    assert node.log[-1] == AskBack(address("c"))


def test_a_holder_is_asked_again_with_every_lease_for_which_others_wait() -> None:
    """It was by newcomers only, and kept each lease idle: tasks of many shapes ran at 10 a second."""
    node = Node(CPU=1, memory=9)
    for n in (1, 2, 3):
        node.ask("a", n, f"f{n}", CPU=1, memory=n)
    assert node.log[-1] == AskBack(address("a"))
    node.give_back("f1")
    assert "f2" in node.grants
    assert node.log[-1] == AskBack(address("a"))
    node.give_back("f2")
    assert isinstance(node.log[-1], Granted), "nobody waits any more"


def test_a_late_or_foreign_return_changes_nothing() -> None:
    node = Node(CPU=1)
    node.ask("a", 1, "f", CPU=1)
    grant = node.grants["f"]
    assert node.manager.return_lease(address("b"), grant.lease_id, False, 0.0) == []
    node.perform(node.manager.worker_gone(grant.worker, 0.0))
    assert node.manager.return_lease(address("a"), grant.lease_id, False, 0.0) == []
    assert node.free() == 1


def test_the_end_of_a_job_drops_what_it_had_waiting() -> None:
    node = Node(CPU=1)
    node.ask("driver", 1, "running", CPU=1)
    queued = node.ask("driver", 2, "queued", CPU=1)
    spared = node.ask("detached", 1, "spared", CPU=1)
    spared.lasting = True
    node.perform(node.manager.job_ended(JOB.job_id, True, 1.0))
    assert node.log[-1] == Cancelled(queued, "its job has ended")
    node.give_back("running")
    assert node.grants["spared"].request is spared
    last = node.ask("detached", 2, "last", CPU=1)
    last.lasting = True
    node.perform(node.manager.job_ended(JOB.job_id, False, 1.0))
    assert node.log[-1] == Cancelled(last, "its job has ended")


def test_why_says_who_waits_how_long_for_what() -> None:
    node = Node(CPU=1)
    node.place("H", lives_on={"CPU": 1}, to_place={})
    for n in range(3):
        node.now = float(n)
        node.ask("a", n, "f", CPU=1)
    reason = "the only CPU is held: actor H ×1 (created app.py:9)"
    assert node.manager.why(address("a"), 7.0) == [f"task f ×3 has waited 7 s: {reason}"]
    assert node.manager.why(address("b"), 7.0) == []
    assert node.manager.demand() == [("{'CPU': 1}", 3, reason)]


def test_tasks_that_several_requests_of_a_client_stand_for_are_counted_once() -> None:
    node = Node(CPU=1)
    node.place("H", lives_on={"CPU": 1}, to_place={})
    for number, backlog in enumerate([2, 3, 4]):
        request = Request(
            (address("a"), number), address("a"), JOB, from_floats({"CPU": 1}), "f", backlog=backlog
        )
        node.perform(node.manager.submit(request, node.now))
    node.ask("b", 1, "f", CPU=1)
    assert [count for _, count, _ in node.manager.demand()] == [5]


def test_a_forced_cancel_is_its_holders_right_and_kills_the_worker_at_once() -> None:
    node = Node(CPU=1)
    node.ask("a", 1, CPU=1)
    grant = node.grants["f"]
    task = TaskId(b"t" * 24)
    assert node.manager.force_cancel(address("b"), grant.lease_id, "cancelled", task) == []
    killed = node.manager.force_cancel(address("a"), grant.lease_id, "cancelled", task)
    assert killed == [EndWorker(grant.worker, "cancelled", at_once=True, cancelled=task)]
    assert node.manager.force_cancel(address("a"), grant.lease_id, "cancelled", task) == [], "it is ending"


def test_a_request_for_an_unknown_node_is_refused_at_once_even_by_those_who_wait_for_ever() -> None:
    node = Node(grace_s=None, CPU=1)
    node.ask("a", 1, "there", strategy=f"node:{b'x'.hex() * 28}", CPU=1)
    node.ask("a", 2, "large", CPU=5)
    node.perform(node.manager.tick(0.9))
    assert not any(isinstance(effect, Refused) for effect in node.log)
    node.perform(node.manager.tick(1.0))
    (refused,) = [effect for effect in node.log if isinstance(effect, Refused)]
    assert refused.request.name == "there"
    assert "which is not alive" in refused.reason
    node.perform(node.manager.tick(1000.0))
    assert node.manager.knows((address("a"), 2)), "what is only too large may fit a node that comes"


def test_explaining_costs_what_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """One reason a shape, and none for other clients' requests: 1,000 of them must not make it quadratic."""
    node = Node(CPU=1)
    node.ask("a", 0, CPU=1)
    for number in range(1, 501):
        node.ask("a", number, CPU=1)
        node.ask("b", number, CPU=1)
    looked = []
    why = node.manager._why
    monkeypatch.setattr(
        node.manager, "_why", lambda request, holders: looked.append(request.key) or why(request, holders)
    )
    assert "the only CPU is held: task f" in node.manager.why_request((address("a"), 7))
    assert looked == [(address("a"), 7)]
    assert node.manager.why_request((address("a"), 999)) == ""
    assert len(looked) == 1
    (line,) = node.manager.why(address("b"), 10.0)
    assert "×500" in line
    assert len(looked) == 2
    node.manager.demand()
    assert len(looked) == 3


def test_thousands_that_wait_for_the_same_are_explained_by_one_look_at_who_holds_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each was explained by a list of all holders of its own: 10,000 stood a head with 1000 actors still."""
    node = Node(CPU=2, memory=100)
    for n in range(100):
        node.place(f"idle{n}", {}, {})
    node.ask("a", 0, "holder", CPU=2)
    for n in range(300):
        node.manager.submit(
            Request((address("a"), n + 1), address("a"), JOB, from_floats({"CPU": 1}), "f"), node.now
        )
    looks: list[int] = []
    real = LeaseManager._holders
    monkeypatch.setattr(LeaseManager, "_holders", lambda self: looks.append(1) or real(self))
    decisions: list[int] = []
    decide = LeaseManager._decide
    monkeypatch.setattr(LeaseManager, "_decide", lambda self, r: decisions.append(1) or decide(self, r))
    told = node.manager.tick(PENDING_WORD_S)
    assert len(told) == 300
    assert {effect.reason for effect in told if isinstance(effect, Pending)} == {
        "all 2 CPUs are held: task holder ×1"
    }
    assert (len(looks), len(decisions)) == (1, 1)
    assert node.manager.tick(PENDING_WORD_S + 1) == []


def test_of_many_kinds_that_wait_all_are_told_why_some_each_second() -> None:
    node = Node(CPU=1, memory=1000)
    node.ask("a", 0, "holder", CPU=1)
    kinds = lease_manager._EXPLAINED_AT_ONCE + 10
    for n in range(kinds):
        node.ask("a", n + 1, f"f{n}", CPU=1, memory=n + 1)
    first, second = (node.manager.tick(PENDING_WORD_S + n) for n in range(2))
    assert [len(first), len(second)] == [kinds - 10, 10]
    assert {effect.request.name for effect in [*first, *second]} == {f"f{n}" for n in range(kinds)}
