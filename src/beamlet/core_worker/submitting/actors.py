"""Actors as their callers see them: creating, finding, following their fate, letting go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from beamlet.base.ids import ActorId, ObjectId, actor_creation_task_id, actor_handle_object
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.submitting.actor_submitter import ActorLink, LinkState
from beamlet.core_worker.submitting.pending import Pending
from beamlet.core_worker.submitting.submission import MethodTemplate
from beamlet.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorUnavailableError,
    RayActorError,
)
from beamlet.protocol.gcs import (
    ActorAccepted,
    ActorFound,
    ActorNameTaken,
    ActorNotFound,
    ActorOutOfScope,
    ActorReady,
    ActorRefused,
    ActorSpec,
    ActorUpdate,
    CreateActor,
    FindActor,
    KillActor,
    ListNamedActors,
    SubscribeActor,
)
from beamlet.protocol.peer import PushTask
from beamlet.serialization.remote_error import died_of
from beamlet.serialization.values import dump_error, dumps

if TYPE_CHECKING:
    from beamlet.core_worker.core_worker import CoreWorker

_CREATE_TIMEOUT_S = 60.0


class Creation(msgspec.Struct):
    """A handle's raw material, for ``api/actor.py``."""

    actor_id: ActorId
    #: The reference whose count is the number of handles; None for handles that do not keep it alive.
    handle_ref: Any
    spec: ActorSpec


class ActorAccess:
    """All actors this process created or calls. Guarded by the core worker's lock."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self.links: dict[ActorId, ActorLink] = {}
        #: Arguments of constructors, kept until the actor can never be started again.
        self._creations: dict[ActorId, Pending] = {}
        self._specs: dict[ActorId, ActorSpec] = {}

    # -- creating --------------------------------------------------------------------------------

    def create(
        self,
        spec: ActorSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        get_if_exists: bool,
        parameters: tuple[str, ...] = (),
    ) -> Creation:
        """Ask the GCS for an actor. Waits for its word only if the actor is named.

        Raises ActorAlreadyExistsError when the name is taken.
        """
        core = self._core
        core.raise_if_shut()
        prepared = core.submission.prepare(args, kwargs, f"{spec.class_name}.__init__", parameters)
        with core.lock:
            actor_id = spec.actor_id = core.context().next_actor()
            spec.args, spec.owner = prepared.payload, core.address
            handle_ref = None if spec.detached else self._new_handle_ref(actor_id)
            message = PushTask(0, actor_creation_task_id(actor_id), spec.class_key, spec.class_name, 0, b"")
            answer: list[Any] = []

            def ready(pending: Pending) -> None:
                spec.deps, spec.nested = list(pending.message.deps), list(pending.message.nested)
                core.link.send(ActorReady(spec))

            pending = Pending(message, (), [], route=ready)
            self._creations[actor_id] = pending
            self._specs[actor_id] = spec
            link = self.link(actor_id, spec.class_name)
            link.max_task_retries = spec.max_task_retries
            link.max_pending_calls = spec.max_pending_calls
            link.ordered = spec.max_concurrency == 1 and not spec.is_async
            if prepared.deps or prepared.nested:
                core.submission.hold(pending, prepared)
            is_ready = not pending.unresolved and not pending.cancelled
            if is_ready:
                spec.deps, spec.nested = list(message.deps), list(message.nested)
            request = CreateActor(0, spec, get_if_exists, is_ready)
            core.link.request(request, lambda m: self._created(spec, m, answer))
            self.subscribe(link)
            core.reactor.flush()
        if spec.name:
            return self._await_named(spec, handle_ref, answer)
        return Creation(actor_id, handle_ref, spec)

    def _new_handle_ref(self, actor_id: ActorId) -> Any:
        object_id = actor_handle_object(actor_id)
        record = self._core.refs.new_owned(object_id)
        record.watched = True
        payload = dumps(None)
        assert isinstance(payload, bytes)
        self._core.refs.set_inline(record, payload)
        return self._core.make_ref(object_id, self._core.address)

    def argument_failed(self, pending: Pending, error: bytes) -> None:
        """A constructor argument is an error: the actor dies before it is born, of that error."""
        for actor_id, creation in self._creations.items():
            if creation is pending:
                spec = self._specs[actor_id]
                self._core.link.send(ActorReady(spec, error))
                return

    def _created(self, spec: ActorSpec, message: Any, answer: list[Any]) -> None:
        answer.append(message)
        if isinstance(message, ActorRefused):
            self.updated(ActorUpdate(spec.actor_id, "DEAD", self._core.address, 0, message.reason))

    def _await_named(self, spec: ActorSpec, handle_ref: Any, answer: list[Any]) -> Creation:
        core = self._core
        core.wait_for(lambda: bool(answer), _CREATE_TIMEOUT_S, f"the GCS to accept actor {spec.name!r}")
        message = answer[0]
        if isinstance(message, ActorNameTaken):
            self._forget(spec.actor_id)
            raise ActorAlreadyExistsError(
                f"the name {spec.name!r} is taken in namespace {spec.namespace!r} by actor "
                f"{message.holder.hex()}. Use beamlet.get_actor({spec.name!r}), another name, or "
                "options(get_if_exists=True)."
            )
        if isinstance(message, ActorRefused):
            raise ValueError(message.reason)
        if isinstance(message, ActorAccepted) and message.existing and message.spec is not None:
            self._forget(spec.actor_id)
            return Creation(message.actor_id, None, message.spec)
        return Creation(spec.actor_id, handle_ref, spec)

    def _forget(self, actor_id: ActorId) -> None:
        with self._core.lock:
            self.links.pop(actor_id, None)
            self._release_creation(actor_id)

    def creation_of(self, actor_id: ActorId) -> Pending | None:
        """The constructor's arguments, of an actor created here."""
        return self._creations.get(actor_id)

    def created_at(self, actor_id: ActorId) -> str:
        """The line that made the actor, if that was in this process."""
        spec = self._specs.get(actor_id)
        return spec.call_site if spec is not None else ""

    def _release_creation(self, actor_id: ActorId) -> None:
        creation = self._creations.pop(actor_id, None)
        self._specs.pop(actor_id, None)
        if creation is not None and creation.held:
            self._core.refs.remove_submitted(creation.held)
            creation.held = []

    # -- finding ---------------------------------------------------------------------------------

    def find(self, name: str, namespace: str) -> Creation:
        """The live actor of that name. Raises ValueError when there is none."""
        message = self._core.link.call(FindActor(0, name, namespace))
        if isinstance(message, ActorFound):
            return Creation(message.spec.actor_id, None, message.spec)
        assert isinstance(message, ActorNotFound)
        raise ValueError(
            f"Failed to look up actor with name {name!r} in namespace {namespace!r}: {message.hint}"
        )

    def names(self, all_namespaces: bool, namespace: str) -> list[tuple[str, str]]:
        reply: Any = self._core.link.call(ListNamedActors(0, all_namespaces, namespace))
        return list(reply.actors)

    def kill(self, actor_id: ActorId, no_restart: bool) -> None:
        self._core.link.call(KillActor(0, actor_id, no_restart))

    # -- calling ---------------------------------------------------------------------------------

    def link(self, actor_id: ActorId, name: str) -> ActorLink:
        """Our line to an actor, subscribed to its fate."""
        link = self.links.get(actor_id)
        if link is None:
            link = self.links[actor_id] = ActorLink(actor_id, name)
            handle = self._core.refs.objects.get(actor_handle_object(actor_id))
            if handle is not None:
                handle.watched = True  # with the last handle the link of a dead actor goes
        return link

    def subscribe(self, link: ActorLink) -> None:
        """From the first call on we follow the actor."""
        if not link.subscribed:
            link.subscribed = True
            self._core.link.send(SubscribeActor(link.actor_id))

    def hold_handle(self, link: ActorLink) -> None:
        """The first unanswered call: the actor is in use although every handle may go meanwhile."""
        object_id = actor_handle_object(link.actor_id)
        if object_id in self._core.refs.objects:
            link.holds_handle = True
            self._core.refs.add_submitted((object_id,))

    def settle(self, link: ActorLink) -> None:
        """A call of it is over: with the last one we let go of the handle that we held for them."""
        if link.holds_handle and not link.in_flight and not link.queue:
            link.holds_handle = False
            self._core.refs.remove_submitted((actor_handle_object(link.actor_id),))

    def updated(self, update: ActorUpdate) -> None:
        """News of an actor. Under the lock."""
        link = self.links.get(update.actor_id)
        if link is None:
            return
        before = link.link
        address, failed = link.update(update)
        if isinstance(before, Peer) and link.link is not before:
            before.actor = None  # its end is old news, whenever we hear of it
        if address is not None:
            peer = self._core.peers.get(address)
            peer.actor = link
            link.connected(peer)
        if update.state == "DEAD":
            self._release_creation(update.actor_id)
            self.fail_dead(link, failed)
            self.settle(link)
            if actor_handle_object(link.actor_id) not in self._core.refs.objects:
                del self.links[link.actor_id]
        elif failed:
            error = ActorUnavailableError(
                "its process died while this call was on its way, and it is being restarted "
                f"({update.cause}); "
                "the call is not sent again because max_task_retries is 0 or used up",
                link.actor_id,
            )
            for call in failed:
                self._core.submission.fail(call, error)
            self.settle(link)

    def fail_dead(self, link: ActorLink, calls: list[Pending]) -> None:
        """Calls of a dead actor, each with the cause of death."""
        if not calls:
            return
        assert link.death is not None
        init_error = link.death.init_error
        payload = died_of(init_error) if init_error else dump_error(self.death_error(link))
        for call in calls:
            self._core.submission.finish_with(call, payload)

    def death_error(self, link: ActorLink) -> RayActorError:
        update = link.death
        assert update is not None
        cause = update.cause or "it ended"
        if update.certificate is not None and update.certificate.describe() not in cause:
            cause = f"{cause}: {update.certificate.describe()}"
        return ActorDiedError(cause, actor_id=link.actor_id.hex(), actor_name=link.name)

    def peer_gone(self, link: ActorLink) -> None:
        """The connection to its process broke; the GCS will tell what became of it."""
        link.lost()

    def handle_freed(self, object_id: ObjectId, owner: bytes) -> None:
        """No handle of ours is left anywhere."""
        actor_id = ActorId(object_id[8:24])
        if not owner:
            self._core.link.send(ActorOutOfScope(actor_id))
        link = self.links.get(actor_id)
        if link is not None and link.state is LinkState.DEAD:
            del self.links[actor_id]


__all__ = ["ActorAccess", "Creation", "MethodTemplate"]
