"""Core worker → (its raylet forwards) → GCS: jobs, functions and keys, actors, what the cluster is.

Same ``req`` discipline as node.py: one answer per request.

    KvPut → KvDone       KvGet → KvValue      KvDel → KvDone     KvKeys → KvKeyList
    CreateActor → ActorAccepted | ActorNameTaken | ActorRefused      (not ``ready``: ActorReady follows)
    FindActor → ActorFound | ActorNotFound      ListNamedActors → NamedActors
    KillActor → Done     ActorOutOfScope, SubscribeActor    (then ActorUpdate, unasked)
    EndActors → Done
    StartActor (GCS → worker) → ActorStarted
    QueryCluster → ClusterState      TaskEvents     QueryTimeline → Timeline
"""

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import ActorId, Address, FunctionKey, JobId, NodeId
from beamlet.protocol.message import ContainedRef, Message
from beamlet.protocol.node import JobDescription
from beamlet.protocol.peer import InlineDep, StoreDep


class KvPut(Message, tag=90):
    req: int
    namespace: str
    key: bytes
    value: bytes
    overwrite: bool = True


class KvGet(Message, tag=91):
    """With ``wait``, answered when the key appears; with ``probe``, by b"" in place of the value."""

    req: int
    namespace: str
    key: bytes
    wait: bool = False
    probe: bool = False


class KvDel(Message, tag=92):
    req: int
    namespace: str
    key: bytes


class KvKeys(Message, tag=93):
    req: int
    namespace: str
    prefix: bytes


class KvDone(Message, tag=94):
    """``changed``: KvPut wrote / KvDel removed something. ``existed``: so did the key, before."""

    req: int
    changed: bool
    existed: bool = False


class KvValue(Message, tag=95):
    req: int
    value: bytes | None


class KvKeyList(Message, tag=96):
    req: int
    keys: list[bytes]


class ActorSpec(Message, tag=97):
    """All it takes to start an actor, on any node, any number of times."""

    actor_id: ActorId
    job: JobDescription
    owner: Address
    class_key: FunctionKey
    class_name: str
    args: bytes
    deps: list[InlineDep | StoreDep]
    nested: list[ContainedRef]
    #: Needed to be placed, and held while alive (default actors: {"CPU": 1 unit} and {}).
    placement_resources: dict[str, int]
    lifetime_resources: dict[str, int]
    name: str = ""
    namespace: str = ""
    detached: bool = False
    max_restarts: int = 0
    max_task_retries: int = 0
    max_concurrency: int = 1
    concurrency_groups: dict[str, int] = {}
    is_async: bool = False
    max_pending_calls: int = -1
    env_vars: dict[str, str] = {}
    strategy: str = "DEFAULT"
    #: Opaque to the GCS: method names and defaults, so that get_actor() can rebuild a handle.
    handle_info: bytes = b""
    #: Where the user created it, "file:line".
    call_site: str = ""
    #: Its class has methods to be called at its end.
    cleans_up: bool = False
    #: Of these it has only ``__del__``, which many classes inherit: nobody waits long for that.
    only_del: bool = False


class CreateActor(Message, tag=98):
    req: int
    spec: ActorSpec
    get_if_exists: bool = False
    #: False: only its name and id count yet; ActorReady brings the arguments when they are computed.
    ready: bool = True


class ActorAccepted(Message, tag=99):
    """The actor exists (state PENDING_CREATION or, with get_if_exists, any)."""

    req: int
    actor_id: ActorId
    existing: bool = False
    spec: ActorSpec | None = None


class ActorNameTaken(Message, tag=100):
    req: int
    holder: ActorId


class ActorRefused(Message, tag=101):
    req: int
    reason: str


class FindActor(Message, tag=102):
    req: int
    name: str
    namespace: str


class ActorFound(Message, tag=103):
    req: int
    spec: ActorSpec


class ActorNotFound(Message, tag=104):
    """``hint``: near names, other namespaces, who bore the name and died of what."""

    req: int
    hint: str


class ListNamedActors(Message, tag=105):
    req: int
    all_namespaces: bool
    namespace: str


class NamedActors(Message, tag=106):
    req: int
    #: (name, namespace)
    actors: list[tuple[str, str]]


class KillActor(Message, tag=107):
    req: int
    actor_id: ActorId
    no_restart: bool


class Done(Message, tag=108):
    req: int


class ActorOutOfScope(Message, tag=109):
    """The owner: no handle is left anywhere and no call is unanswered."""

    actor_id: ActorId


class SubscribeActor(Message, tag=110):
    """From now on send me ActorUpdate for this actor, beginning with its present state."""

    actor_id: ActorId


class ActorUpdate(Message, tag=111):
    actor_id: ActorId
    #: DEPENDENCIES_UNREADY PENDING_CREATION ALIVE RESTARTING DEAD
    state: str
    #: Where it lives, when ALIVE.
    address: Address
    #: How often it has been started before; a later incarnation has a larger number.
    incarnation: int
    #: Why it is DEAD or RESTARTING, for a person.
    cause: str = ""
    certificate: DeathCertificate | None = None
    #: Pickled RayTaskError raised by ``__init__``.
    init_error: bytes = b""
    #: True when DEAD is what was asked for (killed, out of scope, exit_actor).
    intended: bool = False


class StartActor(Message, tag=112):
    """GCS → worker: become this actor."""

    spec: ActorSpec
    incarnation: int
    accelerators: dict[str, list[int]] = {}
    #: What KvGet(class_key) would answer, so that it need not be asked; b"": ask.
    class_pickle: bytes = b""


class ActorStarted(Message, tag=113):
    """Worker → GCS: ``__init__`` returned, or raised ``init_error``."""

    actor_id: ActorId
    incarnation: int
    init_error: bytes = b""


class QueryCluster(Message, tag=114):
    req: int


class NodeInfo(Message, tag=115):
    node_id: NodeId
    alive: bool
    ip: str
    hostname: str
    socket_path: str
    total: dict[str, int]
    available: dict[str, int]
    labels: dict[str, str]
    death_reason: str = ""


class ActorInfo(Message, tag=116):
    actor_id: ActorId
    class_name: str
    name: str
    namespace: str
    state: str
    pid: int
    incarnation: int
    job_id: JobId
    detached: bool
    cause: str = ""


class WorkerInfo(Message, tag=117):
    worker_id: bytes
    pid: int
    #: starting idle leased actor dying
    state: str
    name: str
    since_s: float


class ClusterState(Message, tag=118):
    req: int
    nodes: list[NodeInfo]
    actors: list[ActorInfo]
    workers: list[WorkerInfo]
    #: Demand that waits: (resources shown, count, reason).
    pending: list[tuple[str, int, str]]
    store_used: int
    store_capacity: int
    session_dir: str
    #: What of the store is kept for drivers that were cut off or have left, but live: sentences.
    kept: list[str] = []


class TaskEvents(Message, tag=120):
    """Worker → GCS, for timeline(): some of what it ran since it last said so."""

    worker_id: bytes
    pid: int
    #: How many spans.
    count: int
    #: ``spans.Spans``, encoded: who keeps them need not look into them.
    spans: bytes
    #: Ran too, but are not among the spans, for there were too many.
    dropped: int = 0


class QueryTimeline(Message, tag=121):
    req: int


class Timeline(Message, tag=122):
    req: int
    batches: list[TaskEvents]
    #: How many spans are not among them, because there were too many or too large ones.
    dropped: int
    #: Workers that did not tell in time what they noted last.
    silent: int = 0


class ActorReady(Message, tag=123):
    """The owner: the constructor's arguments are there, ``spec`` is complete now; or one of them failed."""

    spec: ActorSpec
    #: Pickled error of the argument that failed.
    error: bytes = b""


class EndActors(Message, tag=124):
    """A driver, before its Goodbye: actors of its job that clean up may finish and do so.

    Answered when they have ended; who waits decides for how long.
    """

    req: int


#: What a core worker may say to the GCS.
Request = (
    KvPut
    | KvGet
    | KvDel
    | KvKeys
    | CreateActor
    | ActorReady
    | FindActor
    | ListNamedActors
    | KillActor
    | EndActors
    | ActorOutOfScope
    | SubscribeActor
    | ActorStarted
    | QueryCluster
    | TaskEvents
    | QueryTimeline
)
#: What the GCS may say to a core worker.
Answer = (
    KvDone
    | KvValue
    | KvKeyList
    | ActorAccepted
    | ActorNameTaken
    | ActorRefused
    | ActorFound
    | ActorNotFound
    | NamedActors
    | Done
    | ActorUpdate
    | ClusterState
    | Timeline
)
