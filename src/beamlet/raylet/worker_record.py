"""What is known of one worker process, the states it passes through, and what the pool wants done. ●

    starting ─ready─► idle ─leased─► leased ─returned─► idle
                       └──actor────► actor
    any ─exit seen, link closed, or killed─► dying ─certificate complete─► gone

An impossible step raises ``ImpossibleStep`` with the worker's recent story: it is our bug, never the user's.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from msgspec import Struct, field

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import ActorId, JobId, NodeId, WorkerId, short
from beamlet.protocol.node import JobDescription
from beamlet.raylet.lease_queue import EnvKey

#: Whose it is, with which environment, and whether it is lasting.
Home = tuple[JobId, EnvKey, bool]


class WorkerState(Enum):
    STARTING = "starting"
    IDLE = "idle"
    LEASED = "leased"
    ACTOR = "actor"
    DYING = "dying"
    GONE = "gone"


_S = WorkerState
STEPS: dict[WorkerState, tuple[WorkerState, ...]] = {
    _S.STARTING: (_S.IDLE, _S.DYING, _S.GONE),
    _S.IDLE: (_S.LEASED, _S.ACTOR, _S.DYING),
    _S.LEASED: (_S.IDLE, _S.DYING),
    _S.ACTOR: (_S.DYING,),
    _S.DYING: (_S.GONE,),
    _S.GONE: (),
}


class ImpossibleStep(AssertionError):
    """A worker was moved between states that no arrow joins."""


class Exit(Struct, frozen=True):
    """What wait4() and the kernel's out-of-memory counter say of a process."""

    exit_code: int | None = None
    signal: int | None = None
    peak_rss_bytes: int = 0
    oom_kill: bool = False


class WorkerRecord(Struct, eq=False):
    worker_id: WorkerId
    forked_at: float
    state: WorkerState = WorkerState.STARTING
    since: float = 0.0
    pid: int = 0
    #: None until it belongs to a job; then for good.
    job: JobId | None = None
    env: EnvKey = ()
    #: The actor incarnation that it was made for.
    actor: ActorId | None = None
    incarnation: int = 0
    #: It is a detached actor, or works for one: see ``WorkerPool.job_ended``. For good, from its first use.
    lasting: bool = False
    #: The task or actor that it is busy with, as it told us.
    task_name: str = ""
    #: Who of us ended it, and why; "" when we did not.
    killed_by: str = ""
    #: The task whose forced cancellation ended it.
    cancelled: bytes = b""
    #: It said, or was told, that it would end: nobody should be surprised.
    intended: bool = False
    #: It was asked whether it can leave, and has not said; perhaps others use what it owns.
    is_asked: bool = False
    #: It said that it is needed, since it last was leased.
    is_needed: bool = False
    #: Why nobody is to have it again; it ends when it is not needed.
    worn_out: str = ""
    worn_at: float = 0.0
    #: It said WorkerReady once.
    reported: bool = False
    exited: bool = False
    drained: bool = False
    exit: Exit = Exit()
    #: When tick() must look at it again; what then happens depends on the state.
    deadline: float | None = None
    story: deque[str] = field(default_factory=lambda: deque(maxlen=8))

    def move(self, state: WorkerState, now: float) -> None:
        if state not in STEPS[self.state]:
            raise ImpossibleStep(
                f"worker {short(self.worker_id)} (pid {self.pid}) cannot go from {self.state.value} to "
                f"{state.value}; its story: {'; '.join(self.story)}"
            )
        self.state, self.since, self.deadline = state, now, None
        self.story.append(f"{state.value} at {now:.3f}")

    def certificate(self, node: NodeId, now: float) -> DeathCertificate:
        """What is known of its death."""
        return DeathCertificate(
            worker_id=self.worker_id,
            node_id=node,
            pid=self.pid,
            exit_code=self.exit.exit_code,
            signal=self.exit.signal,
            killed_by=self.killed_by,
            oom_kill=self.exit.oom_kill,
            peak_rss_bytes=self.exit.peak_rss_bytes,
            uptime_s=now - self.forked_at,
            task_name=self.task_name,
            cancelled=self.cancelled,
        )

    @property
    def home(self) -> Home | None:
        return None if self.job is None else (self.job, self.env, self.lasting)

    @property
    def usable(self) -> bool:
        return self.state not in (WorkerState.DYING, WorkerState.GONE)


class Want(Struct, frozen=True):
    """A lease that has its resources and needs a process."""

    ticket: int
    job: JobDescription
    env: EnvKey = ()
    actor: ActorId | None = None
    incarnation: int = 0
    #: Asked for by a detached actor, or what works for one, or for such an actor.
    lasting: bool = False

    @property
    def homes(self) -> tuple[Home | None, ...]:
        """Where to look for a worker, best first.

        An actor gets one that never ran a task: it ends with the actor, and with it would end what its tasks
        put and others still use.
        """
        return (None,) if self.actor is not None else ((self.job.job_id, self.env, self.lasting), None)


class Fork(Struct, frozen=True):
    worker: WorkerId


class Kill(Struct, frozen=True):
    """Signal the worker's whole process group."""

    worker: WorkerId
    signal: int
    reason: str


class AskExit(Struct, frozen=True):
    """``graceful``: after what it has queued."""

    worker: WorkerId
    reason: str
    graceful: bool
    #: It may answer that it is needed: see ``WorkerPool.stays``.
    optional: bool = False
    #: It waits only a moment for what it runs.
    hurried: bool = False
    #: Driver and detached actors of its job are gone.
    job_is_over: bool = False


class Assign(Struct, frozen=True):
    worker: WorkerId
    job: JobDescription
    env: EnvKey


class Found(Struct, frozen=True):
    ticket: int
    worker: WorkerId


class NotFound(Struct, frozen=True):
    ticket: int
    reason: str
    #: The node is at a limit, and will perhaps not stay there.
    for_now: bool = False


class Announce(Struct, frozen=True):
    """It is gone, and this is all that will ever be known (last words are the output router's)."""

    worker: WorkerId
    certificate: DeathCertificate
    intended: bool
    job: JobId | None
    actor: ActorId | None
    incarnation: int


Effect = Fork | Kill | AskExit | Assign | Found | NotFound | Announce
