"""Drivers that come and go on a fake wire; what they leave behind must not end anything."""

from __future__ import annotations

import pytest

from beamlet.base.ids import job_id_of_int
from beamlet.protocol import cluster, node
from beamlet.raylet.members import PeerMisuse
from support.fake_node import FakeLine, FakeNode, a_spec, line_of


def test_a_driver_is_welcome_when_the_gcs_has_given_its_job_an_id() -> None:
    fake = FakeNode()
    line = fake.knock()
    (start,) = fake.told(cluster.StartJob)
    assert start.driver == line.context.address
    assert not line.take(node.Welcome)
    fake.drivers.job_started(cluster.JobStarted(start.driver, job_id_of_int(7)))
    (welcome,) = line.take(node.Welcome)
    assert welcome.job_id == job_id_of_int(7)
    assert line.context.job.job_id == job_id_of_int(7)
    fake.drivers.job_started(cluster.JobStarted(start.driver, job_id_of_int(8)))
    assert not line.take(node.Welcome), "said twice"


def test_a_welcome_is_a_frame_of_its_own_though_warnings_follow_at_once() -> None:
    fake = FakeNode()
    fake.services.members.warnings.append("no logs: the disk is full")
    line = fake.knock()
    frames: list[int] = []
    line.flush = lambda: frames.append(len(line.sent))  # type: ignore[method-assign]
    (start,) = fake.told(cluster.StartJob)
    fake.drivers.job_started(cluster.JobStarted(start.driver, job_id_of_int(7)))
    assert [type(message) for message in line.sent] == [node.Welcome, node.Notice]
    assert frames[0] == 1


def test_a_driver_that_leaves_before_its_job_has_an_id_is_buried_and_not_welcomed() -> None:
    fake = FakeNode()
    line = fake.knock()
    (start,) = fake.told(cluster.StartJob)
    fake.drivers.gone(line.context, "closed by the other side")
    (gone,) = fake.told(cluster.CoreWorkerGone)
    assert gone.address == start.driver, "by this the GCS ends the job"
    fake.drivers.job_started(cluster.JobStarted(start.driver, job_id_of_int(7)))
    fake.drivers.end_job(job_id_of_int(7), False)
    assert not line.take(node.Welcome)
    fake.check()


def test_an_observer_is_welcome_at_once_and_has_no_job() -> None:
    fake = FakeNode()
    line = fake.knock(observer=True)
    assert len(line.take(node.Welcome)) == 1
    assert not fake.told(cluster.StartJob)


@pytest.mark.parametrize(
    ("owns", "observer", "python", "why"),
    [
        (False, False, "2.7", "runs Python 3.11, the driver Python 2.7"),
        (True, True, "3.11.7", "was not started by this driver"),
    ],
)
def test_a_misfit_is_told_why_and_shown_out(owns: bool, observer: bool, python: str, why: str) -> None:
    fake = FakeNode()
    line = fake.knock(owns, observer, python)
    (refused,) = line.sent
    assert isinstance(refused, node.Refused)
    assert why in refused.reason
    assert line.closed
    assert line.context is None


def test_one_driver_only_may_own_the_cluster() -> None:
    fake = FakeNode()
    assert not fake.knock(owns=True).closed
    assert fake.knock(owns=True).closed
    assert not fake.knock().closed


def test_other_first_words_are_misuse() -> None:
    with pytest.raises(PeerMisuse):
        FakeNode().drivers.hello(FakeLine(), node.Goodbye())


def test_a_driver_leaves_with_requests_wants_and_leases_open_and_everything_is_given_back() -> None:
    """Row 1: the head died of this in most runs."""
    fake = FakeNode(CPU=2)
    driver = fake.driver()
    for req in range(5):
        fake.ask(driver, req)
    fake.ready()  # two leases are held
    fake.ask(driver, 9, cpus=0)  # and one request waits for a process
    fake.drivers.goodbye(driver)
    assert driver.job is not None
    fake.drivers.end_job(driver.job.job_id, False)
    assert not line_of(driver).closed, "its workers are not down yet"
    fake.ready()  # the process that nobody wants any more
    fake.bury_the_killed()
    assert line_of(driver).closed
    assert fake.free() == 2
    fake.check()
    other = fake.driver()
    fake.ask(other, 1)
    fake.ready()
    assert line_of(other).take(node.LeaseGranted)


def test_a_detached_actor_still_queued_when_its_job_ends_is_started_as_its_job_said() -> None:
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.ask(driver, 1)
    (hog,) = fake.ready()
    fake.place(a_spec(driver, detached=True, cpus=1))
    assert driver.job is not None
    job = driver.job
    fake.drivers.goodbye(driver)
    fake.drivers.end_job(job.job_id, True)
    assert list(fake.killed) == [hog]
    fake.bury_the_killed()
    (worker,) = fake.ready()
    assert fake.assigned[worker] == job
    assert fake.told(cluster.ActorPlaced)
    fake.check()


def test_a_driver_does_not_wait_for_what_outlives_its_job() -> None:
    """Its ``shutdown()`` took 10 s while a detached actor of its had a task running."""
    fake = FakeNode(CPU=2)
    driver = fake.driver()
    fake.ask(driver, 1)
    (mine,) = fake.ready()
    fake.place(a_spec(driver, detached=True))
    (actor,) = fake.ready()
    fake.ask(fake.member(actor), 1)
    (its,) = fake.ready()
    assert driver.job is not None
    fake.drivers.goodbye(driver)
    fake.drivers.farewells()
    assert not line_of(driver).closed, "its job has not ended yet"
    fake.drivers.end_job(driver.job.job_id, True)
    assert list(fake.killed) == [mine]
    assert not line_of(driver).closed, "its worker is not down yet"
    fake.bury_the_killed()
    assert line_of(driver).closed
    assert fake.member(its).job == driver.job
    fake.check()


def test_an_actor_that_is_not_detached_and_still_queued_is_not_started() -> None:
    fake = FakeNode(CPU=1)
    driver = fake.driver()
    fake.ask(driver, 1)
    fake.ready()
    fake.place(a_spec(driver, cpus=1))
    fake.drivers.goodbye(driver)
    assert driver.job is not None
    fake.drivers.end_job(driver.job.job_id, False)
    fake.bury_the_killed()
    assert not fake.forked
    assert fake.free() == 1
    fake.check()


def test_a_driver_that_finds_no_descriptors_left_is_told_so_and_shown_out() -> None:
    fake = FakeNode()
    fake.descriptors.exhausted = True
    line = fake.knock()
    (refused,) = line.sent
    assert isinstance(refused, node.Refused)
    assert "Too many open files" in refused.reason
    assert line.closed
    assert not fake.told(cluster.StartJob)
    fake.check()
