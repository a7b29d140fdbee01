"""Workers forked, assigned, asked to leave, killed and mourned, without a process."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
from collections.abc import Iterator

import pytest

from beamlet.protocol import factory, node
from beamlet.raylet.worker_pool import IDLE_S, WARM_S
from beamlet.raylet.worker_service import FOR_ASYNC_ACTORS
from support.fake_host import FakeHost, fake_host
from support.fake_node import line_of

FULL = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.fixture
def host() -> Iterator[FakeHost]:
    with fake_host() as host:
        yield host


def test_a_want_forks_a_worker_and_tells_it_its_job(host: FakeHost) -> None:
    host.want(1, env=(("A", "1"),))
    worker = host.born(pid=99)
    assert host.found == {1: worker}
    (assigned,) = line_of(host.member(worker)).take(node.AssignJob)
    assert assigned.env_vars == {"A": "1"}
    assert assigned.job.env_vars == {}, "what a job's processes inherit is told apart from the job's own"
    assert host.member(worker).pid == 99


@pytest.mark.parametrize("where", ["connection", "room"])
def test_a_fork_that_cannot_be_asked_for_costs_nothing_and_is_tried_again(host: FakeHost, where: str) -> None:
    if where == "connection":
        host.descriptors.exhausted = True
    else:
        host.no_room = FULL
    host.want(1)
    assert not host.asked(factory.ForkWorker)
    assert not list(host.services.members), "nobody was born"
    assert not host.refused, "not for one failure"
    host.descriptors.exhausted, host.no_room = False, None
    host.loop.pass_time(0.1)
    host.services.perform(host.services.pool.tick(host.loop.now()))
    assert host.found == {1: host.born()}


def test_a_fork_that_the_system_refuses_leaves_no_member_and_no_pipe(host: FakeHost) -> None:
    host.want(1)
    (fork,) = host.asked(factory.ForkWorker)
    line = line_of(host.member(fork.worker_id))
    host.workers.on_factory(factory.ForkFailed(fork.worker_id, "fork: EAGAIN"))
    assert line.closed
    assert not list(host.services.members)
    assert not host.loop.readers
    host.factory.close_pipes(fork.worker_id)


def test_a_death_waits_for_the_last_output_and_names_how(host: FakeHost) -> None:
    host.want(1)
    worker = host.born()
    host.factory.write(worker, b"last words\n", is_stderr=True)
    host.exits(worker, signal=signal.SIGSEGV)
    assert not host.deaths, "its pipes are not read yet"
    host.factory.close_pipes(worker)
    host.loop.look()
    (death,) = host.deaths
    assert (death.certificate.signal, death.certificate.exit_code) == (signal.SIGSEGV, None)
    assert host.output.forget(worker) == ("last words",)
    host.exits(worker, code=0)
    assert len(host.deaths) == 1, "it dies once"


def test_a_kill_goes_to_the_factory_and_silences_the_worker(host: FakeHost) -> None:
    host.want(1)
    worker = host.born()
    host.services.perform(host.services.pool.kill(worker, "a test", host.loop.now()))
    assert host.asked(factory.KillWorker) == [factory.KillWorker(worker, signal.SIGKILL)]
    assert host.member(worker).leaving


def test_an_idle_worker_is_asked_whether_it_may_go(host: FakeHost) -> None:
    host.want(1)
    worker = host.born()
    host.services.perform(host.services.pool.returned(worker, host.loop.now()))
    host.loop.pass_time(WARM_S + IDLE_S)
    host.services.perform(host.services.pool.tick(host.loop.now()))
    (asked,) = line_of(host.member(worker)).take(node.ExitWorker)
    assert (asked.graceful, asked.optional) == (True, True)


def test_what_could_not_be_preloaded_is_told_to_drivers_now_and_later(host: FakeHost) -> None:
    driver = host.driver(1)
    host.workers.on_factory(factory.Preloaded([("torch", "importing it started 3 threads")]))
    (notice,) = line_of(driver).take(node.Notice)
    assert "torch was not preloaded" in notice.text
    late = host.driver(2)
    host.services.members.tell_warnings(late)
    assert line_of(late).take(node.Notice) == [notice]


def test_the_factorys_last_words_are_why_it_ends(host: FakeHost) -> None:
    host.workers.on_factory(factory.FactoryFails("ImportError: no module named x"))
    assert host.workers.factory_failed == "ImportError: no module named x"


def test_news_of_the_forgotten_are_ignored(host: FakeHost) -> None:
    host.want(1)
    worker = host.born()
    host.exits(worker, code=1)
    host.factory.close_pipes(worker)
    host.loop.look()
    assert len(host.deaths) == 1
    member = host.member(worker)
    host.workers.described(member, "late")
    host.workers.link_closed(member)
    host.workers.on_factory(factory.Forked(worker, 1))
    host.workers.drained(worker)
    assert len(host.deaths) == 1


def test_what_async_actors_need_is_loaded_once_and_exists(host: FakeHost) -> None:
    host.workers.expect_async_actors()
    host.workers.expect_async_actors()
    assert host.asked(factory.LoadModule) == [factory.LoadModule(FOR_ASYNC_ACTORS)]
    assert importlib.util.find_spec(FOR_ASYNC_ACTORS) is not None
