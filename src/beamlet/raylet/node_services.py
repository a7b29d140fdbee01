"""What the services of one raylet share: who is here, what they hold, and whom to tell.

A service (``*_service.py``) carries out: it takes messages, asks a decider (●) and performs its effects.  It
gets this and, by name, the few other services it calls.  Everything here exists before any service does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from beamlet.base.ids import NodeId, WorkerId, new_worker_id
from beamlet.base.resources import Amounts
from beamlet.protocol.message import Message
from beamlet.raylet.introductions import Introductions
from beamlet.raylet.lease_manager import LeaseManager
from beamlet.raylet.members import Members
from beamlet.raylet.performer import Performer
from beamlet.raylet.resource_ledger import ResourceLedger
from beamlet.raylet.worker_pool import WorkerPool
from beamlet.rpc.alarm import Clock
from beamlet.rpc.descriptors import Descriptors


class NodeConfig(Struct, frozen=True):
    node_id: NodeId
    session_dir: Path
    socket_path: str
    #: What the node offers, in 1/10 000.
    resources: Amounts
    #: Workers started before anyone asks, and idle ones kept while a job is active.
    warm_workers: int
    #: Seconds an infeasible request waits before it is refused; None: for ever.
    infeasible_grace_s: float | None
    node_ip: str
    hostname: str
    version: str
    #: "3.11": drivers must run the same, for pickles to fit.
    python: str
    #: A driver started this node and may say that the cluster ends with it.
    owned: bool = False


class GcsPort(Protocol):
    """The raylet's end of its conversation with the GCS, wherever that is. Nothing is returned."""

    def send(self, message: Message) -> None: ...


class NodeServices(msgspec.Struct, frozen=True):
    config: NodeConfig
    clock: Clock
    members: Members
    performer: Performer
    leases: LeaseManager
    pool: WorkerPool
    introductions: Introductions
    descriptors: Descriptors
    gcs: GcsPort
    #: Names of processes: randomness comes from outside.
    new_id: Callable[[], WorkerId]

    @classmethod
    def build(
        cls,
        config: NodeConfig,
        clock: Clock,
        descriptors: Descriptors,
        performer: Performer,
        gcs: GcsPort,
        new_id: Callable[[], WorkerId] = new_worker_id,
    ) -> NodeServices:
        members = Members(config.node_id)
        ledger = ResourceLedger(config.resources)
        return cls(
            config,
            clock,
            members,
            performer,
            LeaseManager(config.node_id, ledger, config.infeasible_grace_s, config.socket_path),
            WorkerPool(config.node_id, config.warm_workers, new_id),
            Introductions(members, descriptors),
            descriptors,
            gcs,
            new_id,
        )

    @property
    def node_id(self) -> NodeId:
        return self.config.node_id

    def now(self) -> float:
        return self.clock.now()

    def perform(self, effects: Iterable[object]) -> None:
        self.performer.perform(effects)
