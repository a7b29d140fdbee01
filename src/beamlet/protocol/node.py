"""Core worker ↔ its raylet: joining, leases, introductions to peers, the object store, output.

``req`` numbers are chosen by the asker, per connection; every request gets exactly one of its answers.
Messages marked *+fd* travel with one file descriptor (SCM_RIGHTS), in order.

    DriverHello       → Welcome +fd(arena)                     first message of a driver
    WorkerReady                                               first message of a fork
    RequestLease      → LeaseGranted +fd(peer) | LeaseInfeasible | LeaseSpillback | LeaseCancelled
    ReturnLease, ForceCancel, Blocked, Unblocked
    ConnectPeer       → PeerConnected +fd | PeerUnreachable
    (nobody asks)       PeerIntroduced +fd, WorkerDied, StoredByDead, AssignJob, ExitWorker, OutputLines,
                        Notice
    CreateObject      → ObjectCreated | ObjectRefused
    PinObject         → ObjectPinned | ObjectNotHere
    SealObject, AbortObject, UnpinObject, DeleteObjects
    LeaseSlab         → SlabLeased | SlabRefused
    ReturnSlab        (nobody asks, or SlabWanted does)
    DeathHeard        to a WorkerDied that asks for it
    OutputMark        → OutputDelivered
    ExitWorker        → Staying, or the end of the connection      (if optional)
    TellEvents        → EventsTold                         (behind the TaskEvents)
"""

import msgspec

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import Address, JobId, NodeId, ObjectId, TaskId, WorkerId
from beamlet.protocol.message import Message


class LeaseName(msgspec.Struct, frozen=True, array_like=True):
    """Which lease: numbers are counted by the node that gave it, and mean nothing elsewhere."""

    node: NodeId
    number: int


class JobLogging(msgspec.Struct, frozen=True, array_like=True):
    """How all processes of a job log."""

    #: From which level Beamlet itself speaks.
    level: int = 20
    #: Of its lines. Where in Beamlet a line is written tells users nothing.
    format: str = "%(asctime)s\t%(levelname)s %(message)s"
    #: False: the program has set up everything itself.
    configure: bool = True
    #: "TEXT" or "JSON": the root logger, too, writes in this form; "": it is left alone.
    encoding: str = ""
    root_level: str = "INFO"
    #: Attributes of log records that are added to each line.
    attributes: tuple[str, ...] = ()


class JobDescription(Message, tag=30):
    """What a worker must know to run a job's code as its driver would."""

    job_id: JobId
    namespace: str
    #: Paths are bytes: they need not be UTF-8.
    sys_path: list[bytes]
    cwd: bytes
    #: Directory of the driver's script, so that its neighbours import.
    script_dir: bytes
    env_vars: dict[str, str]
    strict_arrays: bool
    driver: Address
    log_to_driver: bool = True
    logging: JobLogging = JobLogging()
    #: The driver's ``__main__`` file; b"" in a notebook or shell.
    main_file: bytes = b""
    #: The driver has us under Ray's name (``sys.modules["ray"]``), for libraries that import that.
    as_ray: bool = False


class DriverHello(Message, tag=31):
    pid: int
    python: str
    version: str
    namespace: str
    entrypoint: str
    #: Paths are bytes: they need not be UTF-8.
    sys_path: list[bytes]
    cwd: bytes
    script_dir: bytes
    env_vars: dict[str, str]
    strict_arrays: bool
    log_to_driver: bool
    #: The cluster ends when this connection does.
    owns_cluster: bool
    #: CLI and state queries: no job is made.
    observer: bool = False
    main_file: bytes = b""
    logging: JobLogging = JobLogging()
    as_ray: bool = False


class Welcome(Message, tag=32):
    """With the arena's descriptor and, but for observers, an end of the driver's lifeline: who may read and
    write in the arena keeps it open."""

    job_id: JobId
    worker_id: WorkerId
    node_id: NodeId
    namespace: str
    session_dir: str
    node_ip: str
    arena_bytes: int
    version: str
    python: str


class Refused(Message, tag=33):
    """The raylet will not have this driver, and why."""

    reason: str


class WorkerReady(Message, tag=34):
    worker_id: WorkerId
    pid: int


class AssignJob(Message, tag=35):
    """This worker now belongs to a job; precedes the first lease or actor."""

    job: JobDescription
    #: What its task or actor sets beyond the job's own; the tasks and actors that it starts inherit it.
    env_vars: dict[str, str] = {}


class RequestLease(Message, tag=36):
    """Ask for one worker to push tasks of one scheduling key to."""

    req: int
    resources: dict[str, int]
    name: str
    #: As base/environment.py writes them; workers are never shared between different ones.
    env_vars: dict[str, str] = {}
    #: "DEFAULT", "SPREAD", "node:<hex>" / "node:<hex>:soft".
    strategy: str = "DEFAULT"
    #: How many tasks wait behind this request; lets the raylet rank demand.
    backlog: int = 1


class CancelLeaseRequest(Message, tag=37):
    req: int


class LeaseGranted(Message, tag=38):
    """+fd: a connection to the worker."""

    req: int
    lease: LeaseName
    worker: Address
    pid: int
    #: Indices assigned per accelerator resource, e.g. {"GPU": [0]}.
    accelerators: dict[str, list[int]] = {}
    #: False: these two were introduced before, and no descriptor comes along.
    fresh: bool = True


class LeaseInfeasible(Message, tag=39):
    """No node could ever fit it. ``reason`` names the largest nodes."""

    req: int
    reason: str


class LeaseSpillback(Message, tag=40):
    """Ask that node instead."""

    req: int
    node: NodeId
    address: str


class LeaseCancelled(Message, tag=41):
    """``for_now``: the node is at a limit on processes or descriptors, and has been for a while."""

    req: int
    reason: str = ""
    for_now: bool = False


class LeasePending(Message, tag=42):
    """Not an answer: the request waits, and for what. Sent after a while and when the cause changes."""

    req: int
    reason: str


class ReturnLease(Message, tag=43):
    lease: LeaseName
    #: The worker must not be used again (it crashed a task, or reached max_calls).
    dispose: bool = False


class Blocked(Message, tag=44):
    """The task running here waits in get/wait: its CPUs may be used by others."""


class Unblocked(Message, tag=45):
    pass


class ConnectPeer(Message, tag=46):
    """Introduce me to ``peer``; again, if the connection of introduction ``generation`` broke."""

    req: int
    peer: Address
    generation: int = 0


class PeerConnected(Message, tag=47):
    """+fd, unless not ``fresh``: a later introduction than the asker knows of was sent to it before this."""

    req: int
    fresh: bool = True
    #: How often the two were introduced by now.
    generation: int = 1


class PeerUnreachable(Message, tag=48):
    """``alive``: it cannot be connected to now; ask again. Otherwise it is dead, or never was."""

    req: int
    reason: str
    certificate: DeathCertificate | None = None
    alive: bool = False


class PeerIntroduced(Message, tag=49):
    """+fd: a connection from ``peer``."""

    peer: Address
    generation: int = 1


class WorkerDied(Message, tag=50):
    """To whoever holds a lease on, or was introduced to, a worker that died."""

    worker: Address
    certificate: DeathCertificate
    #: It had leased slabs: say DeathHeard once nothing here reads or writes in them.
    had_slabs: bool = False


class StoredByDead(Message, tag=78):
    """To an owner, behind the WorkerDied: what the dead had stored for it on ``node``, announced or not."""

    node: NodeId
    object_ids: list[ObjectId]


class ExitWorker(Message, tag=51):
    """Finish at once (``graceful`` False) or after what is queued, then exit."""

    reason: str
    graceful: bool
    #: Only if nobody needs it: a worker whose objects or actors others use answers Staying instead.
    optional: bool = False
    #: What runs when it hears of this may take a moment, not more.
    hurried: bool = False
    #: Nothing of its job is left: it may stay for what others are known to use, and for nothing else.
    job_is_over: bool = False


class CreateObject(Message, tag=52):
    req: int
    object_id: ObjectId
    size: int
    call_site: str
    #: Whoever will delete it; the sender, when empty (a worker stores returns for their caller).
    owner: Address = Address(b"")


class ObjectCreated(Message, tag=53):
    """Write ``size`` bytes at ``offset``; the first ``warm`` bytes of it were in use before."""

    req: int
    offset: int
    warm: int


class ObjectRefused(Message, tag=54):
    """``reason`` names what fills the store."""

    req: int
    reason: str


class SealObject(Message, tag=55):
    object_id: ObjectId


class AbortObject(Message, tag=56):
    object_id: ObjectId


class PinObject(Message, tag=57):
    """Make the object readable here, and keep it so until UnpinObject."""

    req: int
    object_id: ObjectId
    owner: Address
    nodes: list[NodeId]


class ObjectPinned(Message, tag=58):
    req: int
    offset: int
    size: int


class ObjectNotHere(Message, tag=59):
    req: int
    reason: str


class UnpinObject(Message, tag=60):
    object_id: ObjectId


class DeleteObjects(Message, tag=61):
    """The owner: nobody needs the copies that ``node`` holds of these any more.

    made_by: only those that this process made; a next attempt's may be there before this is read.
    """

    node: NodeId
    object_ids: list[ObjectId]
    made_by: Address | None = None


class LeaseSlab(Message, tag=79):
    """Room for many small objects, of which only the sender keeps the books; about ``size`` bytes."""

    req: int
    size: int


class SlabLeased(Message, tag=80):
    """``size`` bytes at ``offset`` are the asker's until ReturnSlab; the first ``warm`` were used before."""

    req: int
    offset: int
    size: int
    warm: int


class SlabRefused(Message, tag=81):
    """There is no room to spare; objects are stored one by one."""

    req: int


class ReturnSlab(Message, tag=82):
    """Nobody reads or writes in the slab at ``offset`` any more."""

    offset: int


class SlabWanted(Message, tag=83):
    """Raylet → lessee: others wait for room; give your slab back as soon as it is empty."""


class DeathHeard(Message, tag=84):
    """Nothing here reads or writes in the slabs of ``worker``, which is dead, and nothing will."""

    worker: Address


class OutputMark(Message, tag=62):
    """Worker: what I have printed so far must reach the driver; tell me when it has."""

    token: int


class OutputDelivered(Message, tag=63):
    token: int


class OutputLines(Message, tag=64):
    """Raylet → driver: whole lines of one stream of one worker. ``token`` ≠ 0 asks for OutputPrinted."""

    name: str
    pid: int
    is_stderr: bool
    data: bytes
    token: int = 0


class OutputPrinted(Message, tag=65):
    token: int


class NodeEnds(Message, tag=77):
    """The head's last words to a driver: why the connection is about to close."""

    reason: str


class Notice(Message, tag=66):
    """For the driver's logger: a warning or an error that belongs to no single call."""

    level: int
    text: str


class ExitedOnPurpose(Message, tag=67):
    """Worker → raylet, last words: this exit is intended (exit_actor, max_calls, ExitWorker).

    cancelled: the task for whose ``cancel(force=True)`` it ends, if it does.
    """

    reason: str
    cancelled: bytes = b""


class Goodbye(Message, tag=68):
    """Driver → raylet: an orderly end. Answered by closing the connection when all is down."""


class DescribeTask(Message, tag=69):
    """Worker → raylet: the name that its output and its process stand under from now on."""

    name: str


class WhyPending(Message, tag=70):
    """What do my outstanding lease requests, or only the actor ``actor_id`` or ``lease_req``, wait for?"""

    req: int
    actor_id: bytes = b""
    lease_req: int = 0


class WhyPendingAnswer(Message, tag=71):
    req: int
    reasons: list[str]


class LeaseWanted(Message, tag=72):
    """Raylet → lease holder: others wait for what your idle leases hold; give them back."""


class Staying(Message, tag=73):
    """Worker → raylet: the answer to an optional ExitWorker; what it owns is still in use."""


class TellEvents(Message, tag=75):
    """Raylet → worker: somebody wants the timeline; send TaskEvents, then EventsTold."""

    token: int


class EventsTold(Message, tag=76):
    token: int


class ForceCancel(Message, tag=74):
    """Lease holder → raylet: kill the worker that runs ``task``, for asking it was no use.

    Ignored if the lease has ended.  ``DeathCertificate.cancelled`` of the worker will be the task.
    """

    lease: LeaseName
    task: TaskId
    #: What a person calls it.
    name: str
