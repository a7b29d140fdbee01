"""● The actors that have ended: of what, with which certificate, and what to tell who asks late.

Bounded twice, by number and by what their stories take: constructor errors, causes, last words.  Of actors
older than that only the ids remain, a while longer, so that a late subscriber still hears that the actor is
dead instead of waiting.
"""

from __future__ import annotations

import msgspec

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import ActorId, Address, job_of_actor
from beamlet.gcs.actor_states import State
from beamlet.protocol.gcs import ActorInfo, ActorUpdate

#: The address of an actor that lives nowhere.
NOWHERE = Address(b"")
MOST_DEAD = 10_000
MOST_BYTES = 32 << 20
MOST_FORGOTTEN = 200_000


class DeadActor(msgspec.Struct, frozen=True):
    """What is kept of an actor: little, because there may be ten thousand."""

    actor_id: ActorId
    class_name: str
    name: str
    namespace: str
    pid: int
    incarnation: int
    detached: bool
    cause: str
    intended: bool
    #: Monotonic seconds.
    died_at: float
    certificate: DeathCertificate | None = None
    init_error: bytes = b""

    @property
    def size(self) -> int:
        words = self.certificate.words_size if self.certificate is not None else 0
        return len(self.init_error) + len(self.cause) + words

    def update(self) -> ActorUpdate:
        return ActorUpdate(
            self.actor_id, State.DEAD.name, NOWHERE, self.incarnation, self.cause, self.certificate,
            self.init_error, self.intended,
        )  # fmt: skip

    def info(self) -> ActorInfo:
        return ActorInfo(
            self.actor_id, self.class_name, self.name, self.namespace, State.DEAD.name, self.pid,
            self.incarnation, job_of_actor(self.actor_id), self.detached, self.cause,
        )  # fmt: skip


class ActorHistory:
    def __init__(
        self,
        most_dead: int = MOST_DEAD,
        most_bytes: int = MOST_BYTES,
        most_forgotten: int = MOST_FORGOTTEN,
    ) -> None:
        self._most_dead = most_dead
        self._most_bytes = most_bytes
        self._most_forgotten = most_forgotten
        #: In order of death.
        self._dead: dict[ActorId, DeadActor] = {}
        self._bytes = 0
        #: (namespace, name) → who bore it last.
        self._bearers: dict[tuple[str, str], ActorId] = {}
        self._forgotten: dict[ActorId, None] = {}

    def add(self, dead: DeadActor) -> None:
        self._dead[dead.actor_id] = dead
        self._bytes += dead.size
        if dead.name:
            self._bearers[dead.namespace, dead.name] = dead.actor_id
        self._keep_within_bounds()

    def _keep_within_bounds(self) -> None:
        while len(self._dead) > self._most_dead or (self._bytes > self._most_bytes and len(self._dead) > 1):
            self._forget_oldest()

    def attach(self, actor_id: ActorId, incarnation: int, certificate: DeathCertificate) -> None:
        """The process has ended after its actor was declared dead: only now is it known how."""
        dead = self._dead.get(actor_id)
        if dead is not None and dead.incarnation == incarnation and dead.certificate is None:
            self._dead[actor_id] = told = msgspec.structs.replace(dead, certificate=certificate)
            self._bytes += told.size - dead.size
            self._keep_within_bounds()

    def __contains__(self, actor_id: object) -> bool:
        return actor_id in self._dead or actor_id in self._forgotten

    def get(self, actor_id: ActorId) -> DeadActor | None:
        return self._dead.get(actor_id)

    def hint(self, namespace: str, name: str, now: float) -> list[str]:
        """What became of the last actor of that name, for who looks for it."""
        actor_id = self._bearers.get((namespace, name))
        if actor_id is None:
            return []
        dead = self._dead[actor_id]
        return [f"The last actor of that name ended {now - dead.died_at:.1f} s ago: {dead.cause}"]

    def last_update(self, actor_id: ActorId) -> ActorUpdate | None:
        """What a late subscriber hears; None if no such actor is known to have ended."""
        if dead := self._dead.get(actor_id):
            return dead.update()
        if actor_id in self._forgotten:
            cause = (
                f"actor {actor_id.hex()} ended long ago: more than {self._most_dead} actors have ended "
                "since, and how it did is no longer kept"
            )
            return ActorUpdate(actor_id, State.DEAD.name, NOWHERE, 0, cause)
        return None

    def newest(self, most: int) -> list[DeadActor]:
        return list(self._dead.values())[-most:]

    def _forget_oldest(self) -> None:
        oldest = self._dead.pop(next(iter(self._dead)))
        self._bytes -= oldest.size
        place = (oldest.namespace, oldest.name)
        if self._bearers.get(place) == oldest.actor_id:
            del self._bearers[place]
        self._forgotten[oldest.actor_id] = None
        if len(self._forgotten) > self._most_forgotten:
            del self._forgotten[next(iter(self._forgotten))]
