"""What a forked worker runs: a core worker, with the public API's classes plugged in."""

from __future__ import annotations

import gc
import os
import socket
import traceback

# Tasks may use any of the API: loaded here, in the factory, it is shared by all workers.
from beamlet.api import actor, backend, remote, runtime_context, values  # noqa: F401
from beamlet.api.generators import ObjectRefGenerator
from beamlet.api.object_ref import ObjectRef
from beamlet.base.ids import job_id_of_int, new_worker_id
from beamlet.base.say import say
from beamlet.core_worker import job_logging
from beamlet.core_worker.core_worker import Identity
from beamlet.core_worker.rehearsal import rehearse
from beamlet.core_worker.worker_main import Birth, Worker
from beamlet.head.node_facts import NodeFacts
from beamlet.processes.forked_child import WorkerBoot
from beamlet.protocol.node import JobLogging

#: Composed before the fork; each fork takes its copy.
_unborn: list[Worker] = []


def prepare(facts: NodeFacts) -> None:
    """In the factory, before it forks: all that does not depend on which worker it will be."""
    gc.collect()
    gc.freeze()  # collections of what comes now need not touch what was there
    try:
        rehearse(lambda link: compose(link, os.dup(facts.arena_fd), facts))
    except Exception:  # workers start without it as well, at a higher price
        say(f"workers start without rehearsal:\n{traceback.format_exc()}", "beamlet factory")
    job_logging.apply_ahead(JobLogging())
    placeholder, other = socket.socketpair()
    other.close()
    _unborn.append(compose(placeholder, facts.arena_fd, facts))


def main(boot: WorkerBoot, _: NodeFacts) -> None:
    """Serve until the process ends."""
    worker = _unborn.pop()
    worker.core.be_born(boot.worker_id, boot.link)
    backend.set_current(worker.core)
    worker.serve()


def compose(link: socket.socket, arena_fd: int, facts: NodeFacts) -> Worker:
    """A worker under an id that nobody knows."""
    identity = Identity(
        node_id=facts.node_id,
        worker_id=new_worker_id(),
        job_id=job_id_of_int(0),
        namespace="",
        session_dir=facts.session_dir,
        node_ip=facts.node_ip,
        arena_bytes=facts.arena_bytes,
    )
    return Worker(Birth(identity, link, arena_fd), ObjectRef, ObjectRefGenerator)
