"""A worker that is given a job: it sees the world as the driver does, or is no worker."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from beamlet.api.worker_entry import compose
from beamlet.base.ids import new_node_id
from beamlet.base.invariants import InvariantBroken
from beamlet.core_worker import job_logging, worker_main
from beamlet.core_worker.worker_main import OMP_THREADS, Worker
from beamlet.head.node_facts import NodeFacts
from beamlet.object_store.arena import Arena
from beamlet.protocol.node import AssignJob
from support.jobs import a_job


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(job_logging, "apply", lambda *_: None)
    monkeypatch.setenv("MODEL", "nobody's")
    monkeypatch.setenv(OMP_THREADS, "")
    monkeypatch.delenv(OMP_THREADS)
    monkeypatch.chdir("/")
    arena = Arena.create(1 << 20)
    link, raylet = socket.socketpair()
    facts = NodeFacts(new_node_id(), "/tmp", "127.0.0.1", arena.fd, arena.capacity)
    with raylet:
        worker = compose(link, os.dup(arena.fd), facts)
        yield worker
        worker.core.shut()
    arena.close()


def assigned(folder: bytes) -> AssignJob:
    job = a_job()
    job.cwd, job.main_file, job.env_vars = folder, b"/app/prog.py", {"MODEL": "the job's"}
    return AssignJob(job, {"MODEL": "the task's"})


def closed(_: bytes) -> None:
    raise PermissionError(13, "Permission denied")


def test_it_works_where_the_driver_does(
    worker: Worker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    worker._join_job(assigned(bytes(tmp_path)))
    assert Path.cwd() == tmp_path
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("folder", [b"", b"/there/is/no/such"])
def test_a_directory_that_is_gone_is_the_drivers_affair(
    worker: Worker, folder: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    worker._join_job(assigned(folder))
    assert os.environ["MODEL"] == "the task's"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("folder", [b"/home/of/another", b"/"])
def test_a_directory_that_it_may_not_enter_costs_nothing_else(
    worker: Worker, folder: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "chdir", closed)
    worker._join_job(assigned(folder))
    assert os.environ["MODEL"] == "the task's"
    assert os.environ[OMP_THREADS] == "1"
    assert sys.argv == ["/app/prog.py"]
    said = capfd.readouterr().err
    if folder == b"/":
        assert said == "", "it was born there"
    else:
        assert "cannot enter the driver's directory /home/of/another (Permission denied)" in said


def test_half_a_job_is_none(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no logging today")

    monkeypatch.setattr(worker_main.job_logging, "apply", fails)
    with pytest.raises(InvariantBroken, match="could not join its job: RuntimeError: no logging today"):
        worker._join_job(assigned(b"/"))
