"""What the head is told when it is started: one JSON object, its only argument."""

from __future__ import annotations

import msgspec

from beamlet.base.resources import CPU

#: The variable that keeps the PYTHONPATH of whoever starts us: ours must lead to this package as well.
ITS_PYTHONPATH = "_BEAMLET_PYTHONPATH"


class HeadOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    #: Made before, by ``SessionDirectory.create``; the head removes it at its end.
    session_dir: str
    #: What the node offers, as users write it: {"CPU": 2, "GPU": 0, "memory": …, "gizmo": 1.5}.
    resources: dict[str, float]
    object_store_bytes: int
    node_ip: str
    hostname: str
    version: str
    #: The descriptor of the session's lock, inherited; -1: whoever made the session keeps it alive.
    lock_fd: int = -1
    #: The descriptor of another lock, inherited: until it is let go nobody else starts a head to be joined.
    turn_fd: int = -1
    #: A driver that started us for itself: we end if it does not come. False: ``beamlet start --head``, and
    #: we announce ourselves as the cluster to be joined.
    owned: bool = True
    #: Workers forked before anyone asks, and idle ones kept; -1: one per CPU.
    warm_workers: int = -1
    #: Seconds an infeasible request waits before it is refused; None: for ever, as Ray does.
    infeasible_grace_s: float | None = 10.0
    #: Seconds a writer waits for room in the object store.
    store_full_timeout_s: float = 10.0
    #: Modules imported once, before workers are forked.
    preload: list[str] = []
    #: "module:function" that a fork runs: called with a WorkerBoot and NodeFacts.
    worker_main: str = "beamlet.api.worker_entry:main"
    #: Check every invariant of the GCS after every message.
    validate: bool = False

    @property
    def warm_worker_count(self) -> int:
        if self.warm_workers >= 0:
            return self.warm_workers
        return -int(-self.resources.get(CPU, 0) // 1)


class HeadReady(msgspec.Struct, frozen=True):
    """The line on standard output, once: the socket listens. ``error``: why it never will."""

    pid: int
    address: str = ""
    error: str = ""
