"""What a forked worker runs: a core worker, with the public API's classes plugged in."""

from __future__ import annotations

import os
import socket
import traceback

# Tasks may use any of the API: loaded here, in the factory, it is shared by all workers.
from beamlet.api import actor, backend, remote, runtime_context, values  # noqa: F401
from beamlet.api.generators import ObjectRefGenerator
from beamlet.api.object_ref import ObjectRef
from beamlet.base.ids import WorkerId, job_id_of_int, new_worker_id
from beamlet.base.say import say
from beamlet.core_worker.core_worker import Identity
from beamlet.core_worker.rehearsal import rehearse
from beamlet.core_worker.worker_main import Birth, Worker
from beamlet.head.node_facts import NodeFacts
from beamlet.processes.forked_child import WorkerBoot


def main(boot: WorkerBoot, facts: NodeFacts) -> None:
    """Serve until the process ends."""
    worker = compose(boot.worker_id, boot.link, facts.arena_fd, facts)
    backend.set_current(worker.core)
    worker.serve()


def prepare(facts: NodeFacts) -> None:
    """In the factory, before it forks. Workers run without it as well, at a higher price."""
    try:
        rehearse(lambda link: compose(new_worker_id(), link, os.dup(facts.arena_fd), facts))
    except Exception:
        say(f"workers start without rehearsal:\n{traceback.format_exc()}", "beamlet factory")


def compose(worker_id: WorkerId, link: socket.socket, arena_fd: int, facts: NodeFacts) -> Worker:
    identity = Identity(
        node_id=facts.node_id,
        worker_id=worker_id,
        job_id=job_id_of_int(0),
        namespace="",
        session_dir=facts.session_dir,
        node_ip=facts.node_ip,
        arena_bytes=facts.arena_bytes,
    )
    return Worker(Birth(identity, link, arena_fd), ObjectRef, ObjectRefGenerator)
