"""Before the fork: a worker's life is played through, and a core composed that becomes any worker."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
from collections.abc import Iterator
from types import FunctionType, ModuleType

import pytest

from beamlet.api.worker_entry import compose
from beamlet.base.ids import make_address, new_node_id, new_worker_id
from beamlet.core_worker import rehearsal, worker_main
from beamlet.core_worker.worker_main import OMP_THREADS, Worker
from beamlet.head.node_facts import NodeFacts
from beamlet.object_store.arena import Arena
from beamlet.processes.factory import FACTORY_TITLE
from beamlet.protocol.gcs import StartActor
from beamlet.protocol.node import OutputDelivered, WorkerReady
from beamlet.rpc.connection import encode_frame


@pytest.fixture
def facts() -> Iterator[NodeFacts]:
    arena = Arena.create(1 << 20)
    yield NodeFacts(new_node_id(), "/tmp", "127.0.0.1", arena.fd, arena.capacity)
    arena.close()


def _worker(facts: NodeFacts, link: socket.socket) -> Worker:
    return compose(link, os.dup(facts.arena_fd), facts)


def _state() -> object:
    listing = os.listdir("/proc/self/fd")
    fds = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in listing if os.path.exists(f"/proc/self/fd/{fd}")}
    place = list(sys.path), os.getcwd(), dict(os.environ)
    return fds, place, threading.active_count(), sys.stdout, sys.stderr


def test_leaves_the_process_as_it_was(
    facts: NodeFacts, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(OMP_THREADS, raising=False)
    before = _state()
    workers: list[Worker] = []

    def composed(link: socket.socket) -> Worker:
        workers.append(_worker(facts, link))
        return workers[-1]

    rehearsal.rehearse(composed, times=2)
    assert _state() == before
    assert capfd.readouterr() == ("", "")
    assert len(workers) == 2
    for worker in workers:
        spec = worker.core.work.spec
        assert spec is not None
        assert f"beamlet::{spec.class_name}" == FACTORY_TITLE, "whoever looks sees a factory, no worker"
        assert worker.actor.instance is not None


def test_one_that_gets_stuck_is_told_and_cleaned_up_after(
    facts: NodeFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "PATIENCE_S", 0.05)
    monkeypatch.setattr(rehearsal._Stage, "become_actor", lambda self: print("no role for it", flush=True))
    before = _state()
    with pytest.raises(RuntimeError, match="stuck"):
        rehearsal.rehearse(lambda link: _worker(facts, link))
    assert _state() == before


def test_what_would_end_a_worker_does_not_end_the_factory(
    facts: NodeFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("half a job")

    monkeypatch.setattr(Worker, "_see_as_driver", fails)
    monkeypatch.setattr(worker_main, "_broken", lambda _: pytest.fail("the process would be gone"))
    with pytest.raises(RuntimeError, match="half a job"):
        rehearsal.rehearse(lambda link: _worker(facts, link))


def test_a_core_composed_before_the_fork_becomes_the_worker_it_is_told_to_be(facts: NodeFacts) -> None:
    placeholder, other = socket.socketpair()
    other.close()
    core = _worker(facts, placeholder).core
    link, raylet = socket.socketpair()
    before, worker_id = core.identity.worker_id, new_worker_id()
    with raylet:
        core.be_born(worker_id, link.detach())
        assert not os.get_blocking(core.link.connection.fd)
        with core.lock:
            core.link.send(WorkerReady(worker_id, 1))
        core.reactor.lead_once(0.0)
        assert worker_id in raylet.recv(1 << 16)
        raylet.sendall(encode_frame([OutputDelivered(1), StartActor(rehearsal._actor(), 0)]))
        core.reactor.lead_once(1.0)
        assert len(core.work.queue) == 1
        assert core.address == core.refs.self_address == make_address(facts.node_id, worker_id)
        remembering = [each for each in _below(core) if isinstance(each, bytes) and before in each]
        assert not remembering, "everything that had the placeholder's name has the worker's"
        core.shut()
        raylet.setblocking(False)
        assert raylet.recv(1) == b"", "nothing else keeps the connection open"


def _below(root: object) -> list[object]:
    """All objects that ``root`` leads to; not by way of modules and classes."""
    found: dict[int, object] = {}
    ahead: list[object] = [root]
    while ahead:
        each = ahead.pop()
        if id(each) in found or isinstance(each, type | ModuleType):
            continue
        found[id(each)] = each
        if isinstance(each, FunctionType):
            ahead += [cell.cell_contents for cell in each.__closure__ or ()]
        else:
            ahead += gc.get_referents(each)
    return list(found.values())
