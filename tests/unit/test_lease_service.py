"""Lease requests, placements and forced cancels on a fake wire: who is told what, once."""

from __future__ import annotations

import pytest

from beamlet.base.ids import NodeId, TaskId
from beamlet.protocol import cluster, gcs, node
from beamlet.raylet.members import PeerMisuse
from support.fake_node import ACTOR, NODE, FakeNode, a_spec, line_of


def test_a_request_becomes_a_lease_named_by_node_and_number() -> None:
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.ask(driver, 1)
    (worker,) = fake.ready()
    (granted,) = line_of(driver).take(node.LeaseGranted)
    assert (granted.req, granted.lease.node, granted.fresh) == (1, NODE, True)
    assert granted.worker == fake.member(worker).address
    assert fake.assigned[worker] == driver.job
    (introduced,) = line_of(fake.member(worker)).take(node.PeerIntroduced)
    assert introduced.peer == driver.address
    fake.leases.give_back(driver, node.ReturnLease(granted.lease))
    assert fake.free() == 1
    fake.ask(driver, 2)
    (again,) = line_of(driver).take(node.LeaseGranted)
    assert (again.worker, again.fresh) == (granted.worker, False), "the two know each other"
    fake.check()


def test_a_worker_that_leases_itself_is_not_introduced_to_itself() -> None:
    """It returned references to tasks that still wait: it is idle, and asks for a worker."""
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.ask(driver, 1)
    (worker,) = fake.ready()
    (granted,) = line_of(driver).take(node.LeaseGranted)
    asker = fake.member(worker)
    fake.ask(asker, 7)
    fake.leases.give_back(driver, node.ReturnLease(granted.lease))
    line_of(asker).take(node.PeerIntroduced)
    (own,) = line_of(asker).take(node.LeaseGranted)
    assert (own.worker, own.fresh) == (asker.address, False)
    assert not line_of(asker).take(node.PeerIntroduced)
    fake.check()


def test_a_lease_of_another_node_is_not_ours_to_take_back() -> None:
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.ask(driver, 1)
    fake.ready()
    (granted,) = line_of(driver).take(node.LeaseGranted)
    elsewhere = node.LeaseName(NodeId(b"o" * 28), granted.lease.number)
    fake.leases.give_back(driver, node.ReturnLease(elsewhere))
    fake.leases.force_cancel(driver, node.ForceCancel(elsewhere, TaskId(b"t"), "f"))
    assert fake.free() == 0
    assert not fake.killed


def test_a_forced_cancel_kills_the_worker_and_the_certificate_names_the_task() -> None:
    fake = FakeNode(CPU=2)
    driver, stranger = fake.driver(), fake.driver()
    fake.ask(driver, 1)
    (worker,) = fake.ready()
    (granted,) = line_of(driver).take(node.LeaseGranted)
    cancel = node.ForceCancel(granted.lease, TaskId(b"t" * 24), "spin")
    fake.leases.force_cancel(stranger, cancel)
    assert not fake.killed, "only who holds the lease may"
    fake.leases.force_cancel(driver, cancel)
    assert fake.killed == {worker: "cancel(force=True) of task spin"}
    fake.bury_the_killed()
    (died,) = line_of(driver).take(node.WorkerDied)
    assert died.certificate.cancelled == b"t" * 24
    assert "cancel(force=True) of task spin" in died.certificate.describe()
    assert fake.free() == 2
    fake.check()


def test_without_descriptors_for_an_introduction_the_lease_is_granted_all_the_same() -> None:
    """The holder asks for the introduction until there are some."""
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.descriptors.exhausted = True
    fake.ask(driver, 1)
    fake.ready()
    (granted,) = line_of(driver).take(node.LeaseGranted)
    assert not granted.fresh
    assert fake.free() == 0
    fake.check()


@pytest.mark.parametrize("amount", [-1, 1 << 62, 10**18 * 9])
def test_impossible_amounts_cost_the_connection_and_change_nothing(amount: int) -> None:
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    with pytest.raises(PeerMisuse):
        fake.leases.request(driver, node.RequestLease(1, {"CPU": amount}, "f"))
    fake.check()
    fake.ask(driver, 1)
    assert fake.forked


def test_the_same_request_twice_is_misuse_and_the_first_is_served() -> None:
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.ask(driver, 1)
    with pytest.raises(PeerMisuse):
        fake.ask(driver, 1)
    fake.ready()
    assert len(line_of(driver).take(node.LeaseGranted)) == 1


def test_a_wrong_backlog_is_put_right() -> None:
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.ask(driver, 1)
    fake.ask(driver, 2, backlog=-(1 << 63))
    fake.ask(driver, 3, backlog=(1 << 64) - 1)
    assert sum(count for _, count, _ in fake.services.leases.demand()) <= 1 << 33


def test_an_actor_is_placed_started_and_its_seat_forgotten_at_its_death() -> None:
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.place(a_spec(driver), class_pickle=b"its class")
    fake.place(a_spec(driver))  # repeated by a GCS that is not sure we heard
    (worker,) = fake.ready()
    (placed,) = fake.told(cluster.ActorPlaced)
    assert placed.address == fake.member(worker).address
    (start,) = line_of(fake.member(worker)).take(gcs.StartActor)
    assert (start.spec.actor_id, start.class_pickle) == (ACTOR, b"its class")
    fake.leases.stop_actor(cluster.StopActor(ACTOR, 0, "killed", graceful=False))
    assert not fake.killed, "it may tell what it ran first"
    (tell,) = line_of(fake.member(worker)).take(node.TellEvents)
    fake.events.told(fake.member(worker), node.EventsTold(tell.token))
    assert fake.killed == {worker: "killed"}
    fake.bury_the_killed()
    (gone,) = fake.told(cluster.CoreWorkerGone)
    assert (gone.actor_id, gone.incarnation) == (ACTOR, 0)
    fake.place(a_spec(driver))
    assert fake.forked, "the seat is free: it may be placed again"
    fake.check()


def test_an_actor_for_which_no_process_can_be_had_is_given_up_and_may_be_placed_anew() -> None:
    """That it never fits is something else."""
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.place(a_spec(driver), incarnation=1)
    pool = fake.services.pool
    while not (told := fake.told(cluster.ActorUnplaceable)):
        for worker in fake.forked:
            fake.services.perform(pool.fork_failed(worker, "EAGAIN", fake.loop.now()))
        fake.forked = []
        fake.loop.pass_time(1.0)
        fake.services.perform(pool.tick(fake.loop.now()))
        assert fake.loop.now() < 160
    assert [(each.incarnation, each.infeasible, each.given_up) for each in told] == [(1, False, True)]
    assert "EAGAIN" in told[0].reason
    fake.place(a_spec(driver), incarnation=1)
    fake.services.perform(pool.tick(fake.loop.now() + 2.0))
    fake.ready()
    (placed,) = fake.told(cluster.ActorPlaced)
    assert placed.incarnation == 1
    fake.check()


def test_a_task_for_which_no_process_can_be_had_is_refused_for_now() -> None:
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.ask(driver, 1)
    pool, line = fake.services.pool, line_of(driver)
    while not (refused := line.take(node.LeaseCancelled)):
        for worker in fake.forked:
            fake.services.perform(pool.fork_failed(worker, "EAGAIN", fake.loop.now()))
        fake.forked = []
        fake.loop.pass_time(1.0)
        fake.services.perform(pool.tick(fake.loop.now()))
        assert fake.loop.now() < 160
    assert [(each.req, each.for_now) for each in refused] == [(1, True)]
    assert "EAGAIN" in refused[0].reason
    fake.check()


def test_an_actor_that_cannot_tell_is_killed_all_the_same() -> None:
    fake = FakeNode(CPU=1)
    fake.place(a_spec(fake.driver()))
    (worker,) = fake.ready()
    fake.leases.stop_actor(cluster.StopActor(ACTOR, 0, "killed", graceful=False))
    fake.loop.pass_time(0.1)
    assert fake.killed == {worker: "killed"}


def test_a_worker_that_dies_between_being_found_and_granted_is_replaced() -> None:
    fake = FakeNode(CPU=1, warm_workers=1)
    driver = fake.driver()
    pool, leases = fake.services.pool, fake.services.leases
    fake.services.perform(pool.prestart(1, fake.loop.now()))
    (worker,) = fake.ready()
    # It is found for the request, and buried before it is granted.
    request = node.RequestLease(1, {"CPU": 10_000}, "f")
    fake.services.members.leave(fake.member(worker).address, _certificate(worker))
    fake.leases.request(driver, request)
    (cancelled,) = line_of(driver).take(node.LeaseCancelled)
    assert cancelled.reason == "", "asked for again, without a word to the user"
    assert leases.view[NODE].available["CPU"] == 10_000


def _certificate(worker: bytes) -> object:
    from beamlet.base.death import DeathCertificate

    return DeathCertificate(worker, NODE, 1)
