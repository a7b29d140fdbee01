"""Raylet ↔ GCS: nodes, placing actors, deaths, and the core workers' own messages passed on.

On the head both live in one process, and the messages pass through a loopback (rpc/loopback.py): sent now,
heard in a later turn of the loop, as through a socket.  Elsewhere they travel as frames.

    raylet → GCS                                  GCS → raylet
    NodeJoined                                    PlaceActor, CancelPlacement, StopActor
    NodeReport                                    AskReport
    EventsTold                                    AskEvents
    StartJob                                      JobStarted, EndJob
    ActorPlaced, ActorUnplaceable                 Deliver (an answer or update for one of its core workers)
    CoreWorkerGone                                Misbehaved
    Forwarded (a gcs.py message, and who sent it)
"""

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import ActorId, Address, JobId
from beamlet.protocol import gcs
from beamlet.protocol.gcs import ActorSpec, NodeInfo, WorkerInfo
from beamlet.protocol.message import Message


class NodeJoined(Message, tag=150):
    node: NodeInfo


class NodeReport(Message, tag=151):
    """What is free now, who waits, who runs: the answer to AskReport."""

    node: NodeInfo
    workers: list[WorkerInfo]
    pending: list[tuple[str, int, str]]
    store_used: int
    store_capacity: int
    #: Which AskReport it answers.
    round: int = 0
    #: What of the store is kept for drivers that were cut off or have left, but live: sentences.
    kept: list[str] = []


class PlaceActor(Message, tag=154):
    """Find room and a worker, then send it StartActor(spec, incarnation, …, class_pickle)."""

    spec: ActorSpec
    incarnation: int
    class_pickle: bytes = b""
    #: It outlives its job: detached, or created by what works for a detached actor.
    lasting: bool = False


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
    """It does not fit now (it waits on), never will, or no process could be had for it (``given_up``)."""

    actor_id: ActorId
    incarnation: int
    reason: str
    infeasible: bool
    given_up: bool = False


class StopActor(Message, tag=158):
    """End the worker that runs this incarnation: at once, or after what it has queued."""

    actor_id: ActorId
    incarnation: int
    reason: str
    graceful: bool
    #: What it runs when it hears of this may take a moment, not more.
    hurried: bool = False


class CoreWorkerGone(Message, tag=159):
    """A worker or driver ended. ``intended``: it said so before (exit_actor, max_calls, told to)."""

    address: Address
    certificate: DeathCertificate
    intended: bool
    #: The actor incarnation that lived in it, if any.
    actor_id: bytes = b""
    incarnation: int = 0


class EndJob(Message, tag=160):
    """The job's driver is gone: end its workers, forget its queued leases. Said twice if it is outlived."""

    job_id: JobId
    #: Detached actors of it live on: they stay, and what works for them.
    outlived: bool = False


class StartJob(Message, tag=161):
    """A driver has come: its job begins, under an id that only the GCS can give. Answered by JobStarted."""

    driver: Address
    pid: int
    namespace: str
    entrypoint: str


class JobStarted(Message, tag=162):
    driver: Address
    job_id: JobId


class AskReport(Message, tag=163):
    """Somebody wants to know what the cluster is: answer with a NodeReport of this moment."""

    round: int


class AskEvents(Message, tag=164):
    """Somebody wants the timeline: have all workers tell what they have noted, then say EventsTold."""

    round: int


class EventsTold(Message, tag=165):
    round: int
    #: Workers that did not answer in time: what they noted last is missing.
    silent: int


class Forwarded(Message, tag=166):
    """What a core worker says to the GCS. ``job``: its own, as its raylet knows it; b"" if it has none."""

    sender: Address
    job: bytes
    message: gcs.Request
    #: It is a detached actor, or works for one.
    lasting: bool = False


class Deliver(Message, tag=167):
    """What the GCS says to a core worker; if that is gone, nobody misses it."""

    address: Address
    message: gcs.Answer


class Misbehaved(Message, tag=168):
    """The core worker said what it must not, or what we cannot digest: close its connection."""

    address: Address
    reason: str


ToGcs = (
    NodeJoined
    | NodeReport
    | StartJob
    | ActorPlaced
    | ActorUnplaceable
    | CoreWorkerGone
    | EventsTold
    | Forwarded
)
FromGcs = (
    PlaceActor
    | CancelPlacement
    | StopActor
    | EndJob
    | JobStarted
    | AskReport
    | AskEvents
    | Deliver
    | Misbehaved
)
