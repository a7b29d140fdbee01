"""A worker's life, played through before the fork: it comes to its end, and leaves nothing behind."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from beamlet.api.worker_entry import compose
from beamlet.base.ids import new_node_id, new_worker_id
from beamlet.core_worker import rehearsal
from beamlet.core_worker.worker_main import OMP_THREADS, Worker
from beamlet.head.node_facts import NodeFacts
from beamlet.object_store.arena import Arena


@pytest.fixture
def facts() -> Iterator[NodeFacts]:
    arena = Arena.create(1 << 20)
    yield NodeFacts(new_node_id(), "/tmp", "127.0.0.1", arena.fd, arena.capacity)
    arena.close()


def _worker(facts: NodeFacts, link: socket.socket) -> Worker:
    return compose(new_worker_id(), link, os.dup(facts.arena_fd), facts)


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
        assert spec.class_name == "Rehearsal", "the task ran, and the worker became an actor"
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
