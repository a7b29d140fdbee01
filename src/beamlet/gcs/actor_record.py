"""● What the GCS knows of one actor that has not ended."""

from __future__ import annotations

from collections import deque

import msgspec

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import Address, NodeId, job_of_actor
from beamlet.gcs.actor_causes import Cause, who
from beamlet.gcs.actor_history import NOWHERE, DeadActor
from beamlet.gcs.actor_states import State, Step, next_state
from beamlet.protocol.gcs import ActorInfo, ActorSpec, ActorUpdate

STORY_LINES = 16
#: Of a line; what a process said last may be long.
STORY_CHARACTERS = 500
STARTING = (State.PENDING_CREATION, State.RESTARTING)


class ActorRecord(msgspec.Struct):
    spec: ActorSpec
    created_at: float
    #: It outlives its job: detached, or created by what works for a detached actor.
    lasting: bool = False
    state: State = State.DEPENDENCIES_UNREADY
    #: Of the start under way or done; every attempt to place it has its own, a later one a larger.
    incarnation: int = 0
    #: How many unintended deaths have been made good; at most max_restarts.
    restarts: int = 0
    #: Whose raylet was asked to place this incarnation; None: no node to ask yet.
    node: NodeId | None = None
    #: The process given this incarnation; NOWHERE until ActorPlaced.
    address: Address = NOWHERE
    pid: int = 0
    #: When that was; never, until it was.
    placed_at: float = float("inf")
    #: How many of its processes ended soon after that, one after the other (``RestartPauses``).
    short_lives: int = 0
    #: Why it was told to finish what is queued and exit; its end will be final.
    leaving: Cause | None = None
    #: kill(no_restart=False): its process was told to die, so that the next incarnation may start.
    recycling: Cause | None = None
    #: Why it is being restarted; for a person, as the next.
    remark: str = ""
    #: What its placement waits for.
    waits_for: str = ""
    certificate: DeathCertificate | None = None
    #: The last things that happened to it, with their times.
    story: deque[str] = msgspec.field(default_factory=lambda: deque(maxlen=STORY_LINES))

    @property
    def may_restart(self) -> bool:
        return self.spec.max_restarts < 0 or self.restarts < self.spec.max_restarts

    @property
    def is_named(self) -> bool:
        """Its name can be found: it has one, and is not on its way out."""
        return bool(self.spec.name) and self.leaving is None

    def tell(self, now: float, text: str) -> None:
        line = f"{now - self.created_at:+.3f} s, incarnation {self.incarnation}: {text}"
        self.story.append(line[:STORY_CHARACTERS])

    def step(self, step: Step, now: float, text: str) -> None:
        self.state = next_state(self.state, step, who(self.spec), self.story)
        self.tell(now, f"{self.state.name}: {text}")

    def next_incarnation(self) -> None:
        """What was true of the process before is not true of the next."""
        self.incarnation += 1
        self.node, self.address, self.pid = None, NOWHERE, 0
        self.recycling, self.waits_for, self.placed_at = None, "", float("inf")

    def update(self) -> ActorUpdate:
        alive = self.state is State.ALIVE
        return ActorUpdate(
            self.spec.actor_id,
            self.state.name,
            self.address if alive else NOWHERE,
            self.incarnation,
            "" if alive else self.remark,
            None if alive else self.certificate,
        )

    def info(self) -> ActorInfo:
        spec = self.spec
        return ActorInfo(
            spec.actor_id, spec.class_name, spec.name, spec.namespace, self.state.name, self.pid,
            self.incarnation, job_of_actor(spec.actor_id), spec.detached, self.waits_for or self.remark,
        )  # fmt: skip

    def introduction(self) -> ActorSpec:
        """What another process needs for a handle: the constructor's arguments are none of its business."""
        return msgspec.structs.replace(self.spec, args=b"", deps=[], nested=[])

    def as_dead(self, cause: Cause, now: float) -> DeadActor:
        spec = self.spec
        return DeadActor(
            spec.actor_id, spec.class_name, spec.name, spec.namespace, self.pid, self.incarnation,
            spec.detached, cause.text, cause.intended, now, cause.certificate, cause.init_error,
        )  # fmt: skip
