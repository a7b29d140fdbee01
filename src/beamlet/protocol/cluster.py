"""Raylet ↔ GCS: nodes, placing actors, deaths, and the core workers' own messages passed on.

On the head both live in one process and hand each other these objects; elsewhere they travel as frames.

    raylet → GCS                                  GCS → raylet
    NodeJoined, NodeReport                        PlaceActor, CancelPlacement
    JobStarted, JobEnded                          StopActor
    ActorPlaced, ActorUnplaceable                 ToCoreWorker (message for one of its core workers)
    CoreWorkerGone                                EndJob
    FromCoreWorker (gcs.py message, and who sent it)
"""

from __future__ import annotations

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import ActorId, Address, JobId
from beamlet.protocol.gcs import ActorSpec, NodeInfo, WorkerInfo
from beamlet.protocol.message import Message


class NodeJoined(Message, tag=150):
    node: NodeInfo


class NodeReport(Message, tag=151):
    """What is free now, who waits, who runs; sent on change, and when asked by QueryCluster."""

    node: NodeInfo
    workers: list[WorkerInfo]
    pending: list[tuple[str, int, str]]
    store_used: int
    store_capacity: int


class JobStarted(Message, tag=152):
    job_id: JobId
    driver: Address
    pid: int
    namespace: str
    entrypoint: str


class JobEnded(Message, tag=153):
    job_id: JobId


class PlaceActor(Message, tag=154):
    """Find room and a worker, then send it StartActor(spec, incarnation)."""

    spec: ActorSpec
    incarnation: int


class CancelPlacement(Message, tag=155):
    actor_id: ActorId
    incarnation: int


class ActorPlaced(Message, tag=156):
    """A worker has been given StartActor."""

    actor_id: ActorId
    incarnation: int
    address: Address
    pid: int


class ActorUnplaceable(Message, tag=157):
    """It does not fit now (``infeasible`` False: it waits on) or never will."""

    actor_id: ActorId
    incarnation: int
    reason: str
    infeasible: bool


class StopActor(Message, tag=158):
    """End the worker that runs this incarnation: at once, or after what it has queued."""

    actor_id: ActorId
    incarnation: int
    reason: str
    graceful: bool


class CoreWorkerGone(Message, tag=159):
    """A worker or driver ended. ``intended``: it said so before (exit_actor, max_calls, told to)."""

    address: Address
    certificate: DeathCertificate
    intended: bool
    #: The actor incarnation that lived in it, if any.
    actor_id: bytes = b""
    incarnation: int = 0


class EndJob(Message, tag=160):
    """The job's driver is gone: end its workers, forget its queued leases."""

    job_id: JobId
