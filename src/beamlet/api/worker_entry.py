"""What a forked worker runs: a core worker, with the public API's classes plugged in."""

from __future__ import annotations

# Tasks may use any of the API: loaded here, in the factory, it is shared by all workers.
from beamlet.api import actor, backend, remote, runtime_context, values  # noqa: F401
from beamlet.api.generators import ObjectRefGenerator
from beamlet.api.object_ref import ObjectRef
from beamlet.base.ids import job_id_of_int
from beamlet.core_worker.core_worker import Identity
from beamlet.core_worker.worker_main import Birth, Worker
from beamlet.head.node_facts import NodeFacts
from beamlet.processes.forked_child import WorkerBoot


def main(boot: WorkerBoot, facts: NodeFacts) -> None:
    """Serve until the process ends."""
    identity = Identity(
        node_id=facts.node_id,
        worker_id=boot.worker_id,
        job_id=job_id_of_int(0),
        namespace="",
        session_dir=facts.session_dir,
        node_ip=facts.node_ip,
        arena_bytes=facts.arena_bytes,
    )
    worker = Worker(Birth(identity, boot.link, facts.arena_fd), ObjectRef, ObjectRefGenerator)
    backend.set_current(worker.core)
    worker.serve()
