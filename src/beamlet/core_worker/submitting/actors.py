"""Actors as their callers see them: creating, finding, following their fate, letting go."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import partial
from time import monotonic
from typing import Any

import msgspec

from beamlet.base.ids import ActorId, ObjectId, TaskId, actor_creation_task_id, actor_handle_object, return_id
from beamlet.base.stack_room import FOR_A_CALL
from beamlet.core_worker.context import Contexts
from beamlet.core_worker.node_link import Reply, Unsent
from beamlet.core_worker.owning.object_record import FREED, ObjectRecord
from beamlet.core_worker.owning.objects import ObjectAccess
from beamlet.core_worker.owning.ports import MakeRef, Ref
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.unseen import UnseenErrors
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.submitting.actor_submitter import ActorLink, LinkState
from beamlet.core_worker.submitting.arguments import Arguments, FailedArgument, shared
from beamlet.core_worker.submitting.outcomes import Outcomes
from beamlet.core_worker.submitting.pending import Pending, PendingCall, PendingCreation
from beamlet.core_worker.submitting.ports import PeerBook, Raylet
from beamlet.core_worker.submitting.task_spec import CreationSpec
from beamlet.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorUnavailableError,
    CallSite,
    RayActorError,
    RaySystemError,
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
    EndActors,
    FindActor,
    KillActor,
    ListNamedActors,
    SubscribeActor,
)
from beamlet.rpc.turns import IN_THE_MIDDLE, SharedReactor, Waiter
from beamlet.serialization.arguments import NO_ARGUMENTS
from beamlet.serialization.remote_error import died_of, for_the_head
from beamlet.serialization.values import DETACHED_INLINE_MAX_BYTES, INLINE_MAX_BYTES, dump_error

_CREATE_TIMEOUT_S = 60.0
#: The value of a handle's object: None.
_HANDLE_VALUE = pickle.dumps(None, 5)


class Creation(msgspec.Struct):
    """A handle's raw material, for ``api/actor.py``."""

    actor_id: ActorId
    #: The reference whose count is the number of handles; None for handles that do not keep it alive.
    handle_ref: Ref | None
    spec: ActorSpec


class ActorAccess:
    """All actors this process created or calls. Guarded by the core worker's lock."""

    def __init__(
        self,
        reactor: SharedReactor,
        raylet: Raylet,
        peers: PeerBook,
        refs: ReferenceCounter,
        objects: ObjectAccess,
        contexts: Contexts,
        arguments: Arguments,
        outcomes: Outcomes,
        unseen: UnseenErrors,
        make_ref: MakeRef,
    ) -> None:
        self._reactor = reactor
        self._lock = reactor.lock
        self._raylet = raylet
        self._peers = peers
        self._refs = refs
        self._objects = objects
        self._contexts = contexts
        self._arguments = arguments
        self._outcomes = outcomes
        self._unseen = unseen
        self._make_ref = make_ref
        self.links: dict[ActorId, ActorLink[Peer]] = {}
        #: Arguments of constructors, kept until the actor can never be started again.
        self._creations: dict[ActorId, PendingCreation] = {}
        #: Links that calls were looked for in of late.
        self._searched: dict[ActorLink[Peer], None] = {}

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
        self._objects.blocking.raise_if_shut()
        if FOR_A_CALL.may_lack():
            FOR_A_CALL.demand()
        if self._reactor.is_in_the_middle():
            raise RuntimeError(IN_THE_MIDDLE)
        shown_as = f"{spec.class_name}.__init__"
        # What the GCS has it can start from again, whoever is gone by then.
        inline_bytes = DETACHED_INLINE_MAX_BYTES if spec.detached else INLINE_MAX_BYTES
        prepared = self._arguments.prepare(args, kwargs, shown_as, parameters, False, inline_bytes)
        with self._lock:
            actor_id = spec.actor_id = self._contexts.current().next_actor()
            spec.args, spec.owner = prepared.payload, self._refs.self_address
            handle_ref = None if spec.detached else self._new_handle_ref(actor_id, spec.call_site)
            task_id = actor_creation_task_id(actor_id)
            creation = Pending(CreationSpec(spec, task_id, prepared.dep_ids(), prepared.nested), ())
            self._creations[actor_id] = creation
            link = self.link(actor_id, spec.class_name)
            link.max_task_retries = spec.max_task_retries
            link.max_pending_calls = spec.max_pending_calls
            link.ordered = spec.max_concurrency == 1 and not spec.is_async
            failed: FailedArgument | None = None
            if prepared.deps or prepared.nested:
                failed = self._arguments.hold(creation, self._ready, self._argument_failed)
            is_ready = failed is None and not creation.unresolved
            if is_ready:
                spec.deps, spec.nested = shared(creation.deps), prepared.nested
            reply = Reply()
            request = CreateActor(0, spec, get_if_exists, is_ready)
            self._raylet.request(request, partial(self._created, spec, reply))
            if failed is not None:
                self._argument_failed(creation, failed)
            if not spec.name:  # else it may be that another bears the name, and this one will never be
                self.subscribe(link)
            self._reactor.flush()
        if spec.name:
            return self._await_named(spec, handle_ref, reply)
        return Creation(actor_id, handle_ref, spec)

    def _new_handle_ref(self, actor_id: ActorId, call_site: str) -> Ref:
        object_id = actor_handle_object(actor_id)
        record = self._refs.new_owned(object_id)
        record.watched = True
        file, _, line = call_site.rpartition(":")
        if line.isdecimal():
            record.call_site = CallSite(file, int(line))
        self._refs.set_inline(record, _HANDLE_VALUE)
        return self._make_ref(object_id, self._refs.self_address)

    def _ready(self, creation: PendingCreation) -> None:
        """The arguments of the constructor are there."""
        spec = creation.spec.actor
        spec.deps, spec.nested = shared(creation.deps), list(creation.spec.nested)
        self._raylet.send(ActorReady(spec))

    def _argument_failed(self, creation: PendingCreation, failed: FailedArgument) -> None:
        """A constructor argument is an error: the actor dies before it is born, of that error."""
        creation.settled = True
        self._raylet.send(ActorReady(creation.spec.actor, for_the_head(failed.payload)))

    def unsent(self, message: ActorReady, error: Exception) -> None:
        """The arguments of a constructor cannot travel: the actor dies before it is born, of that."""
        spec = message.spec
        reason = f"its arguments could not be sent to the cluster: {type(error).__name__}: {error}"
        if message.error:  # not even that could be said
            self._never_began(spec, reason)
            return
        bare = msgspec.structs.replace(spec, args=NO_ARGUMENTS, deps=[], nested=[])
        self._raylet.send(ActorReady(bare, dump_error(RaySystemError(reason))))

    def _created(self, spec: ActorSpec, reply: Reply, message: Any) -> None:
        reply.set(message)
        if isinstance(message, ActorNameTaken) or (isinstance(message, ActorAccepted) and message.existing):
            self._forget(spec.actor_id)  # here, for whoever waits may have been interrupted
        elif isinstance(message, ActorAccepted):
            self.subscribe(self.link(spec.actor_id, spec.class_name))
        elif isinstance(message, ActorRefused):
            self._never_began(spec, message.reason)
        elif isinstance(message, Unsent):
            error = message.error
            self._never_began(spec, f"it could not be asked for: {type(error).__name__}: {error}")

    def _never_began(self, spec: ActorSpec, reason: str) -> None:
        self.updated(ActorUpdate(spec.actor_id, "DEAD", self._refs.self_address, 0, reason))

    def _await_named(self, spec: ActorSpec, handle_ref: Ref | None, reply: Reply) -> Creation:
        if not self._reactor.wait(reply, monotonic() + _CREATE_TIMEOUT_S):
            raise TimeoutError(f"the GCS did not accept actor {spec.name!r} within {_CREATE_TIMEOUT_S:g} s")
        message = reply.message
        if message is None:
            raise self._raylet.gone()
        if isinstance(message, Unsent):
            raise message.error
        if isinstance(message, ActorNameTaken):
            raise ActorAlreadyExistsError(
                f"the name {spec.name!r} is taken in namespace {spec.namespace!r} by actor "
                f"{message.holder.hex()}. Use beamlet.get_actor({spec.name!r}), another name, or "
                "options(get_if_exists=True)."
            )
        if isinstance(message, ActorRefused):
            raise ValueError(message.reason)
        if isinstance(message, ActorAccepted) and message.existing and message.spec is not None:
            return Creation(message.actor_id, None, message.spec)
        return Creation(spec.actor_id, handle_ref, spec)

    def _forget(self, actor_id: ActorId) -> None:
        with self._lock:
            self.links.pop(actor_id, None)
            self._release_creation(actor_id)

    def creation_of(self, actor_id: ActorId) -> PendingCreation | None:
        """The constructor's arguments, of an actor created here."""
        return self._creations.get(actor_id)

    def any_unfinished(self) -> bool:
        """Whether calls are unanswered, or actors created here need this process still."""
        return any(link.is_owed for link in self.links.values()) or any(
            map(self._needs_us, self._creations.values())
        )

    def _needs_us(self, creation: PendingCreation) -> bool:
        """It ends with its owner; or is detached, and its (next) start takes arguments that we count."""
        spec = creation.spec.actor
        link = self.links.get(spec.actor_id)
        has_started = link is not None and link.incarnation >= 0
        return not (spec.detached and has_started and (not spec.max_restarts or not creation.held))

    def created_at(self, actor_id: ActorId) -> str:
        """The line that made the actor, if that was in this process."""
        creation = self._creations.get(actor_id)
        return creation.spec.actor.call_site if creation is not None else ""

    def _release_creation(self, actor_id: ActorId) -> None:
        creation = self._creations.pop(actor_id, None)
        if creation is not None:
            creation.settled = True
            held, creation.held = creation.held, ()
            if held:
                self._refs.remove_submitted(held)

    def end_in_order(self) -> Waiter:
        """Have the actors of our job that have clean-up methods end as if their last handles were gone.

        Complete when they have ended, or the raylet is gone.
        """
        reply = Reply()
        self._raylet.request(EndActors(0), reply.set)
        return reply

    # -- finding ---------------------------------------------------------------------------------

    def find(self, name: str, namespace: str) -> Creation:
        """The live actor of that name. Raises ValueError when there is none."""
        message = self._raylet.call(FindActor(0, name, namespace))
        if isinstance(message, ActorFound):
            return Creation(message.spec.actor_id, None, message.spec)
        assert isinstance(message, ActorNotFound)
        raise ValueError(
            f"Failed to look up actor with name {name!r} in namespace {namespace!r}: {message.hint}"
        )

    def names(self, all_namespaces: bool, namespace: str) -> list[tuple[str, str]]:
        reply: Any = self._raylet.call(ListNamedActors(0, all_namespaces, namespace))
        return list(reply.actors)

    def kill(self, actor_id: ActorId, no_restart: bool) -> None:
        """End an actor at once. In the middle of our work: a moment later."""
        question = KillActor(0, actor_id, no_restart)
        if self._reactor.is_in_the_middle():
            self._reactor.put_off(lambda: _nobody(self._raylet.request(question, _nobody)))
        else:
            self._raylet.call(question)

    # -- calling ---------------------------------------------------------------------------------

    def link(self, actor_id: ActorId, name: str) -> ActorLink[Peer]:
        """Our line to an actor, subscribed to its fate."""
        link = self.links.get(actor_id)
        if link is None:
            link = self.links[actor_id] = ActorLink[Peer](actor_id, name)
            handle = self._refs.objects.get(actor_handle_object(actor_id))
            if handle is not None:
                handle.watched = True  # with the last handle the link of a dead actor goes
        return link

    def subscribe(self, link: ActorLink[Peer]) -> None:
        """From the first call on we follow the actor."""
        if not link.subscribed:
            link.subscribed = True
            self._raylet.send(SubscribeActor(link.actor_id))

    def hold_handle(self, link: ActorLink[Peer]) -> None:
        """The first unanswered call: the actor is in use although every handle may go meanwhile."""
        if link.handle in self._refs.objects:
            link.holds_handle = True
            self._refs.add_submitted((link.handle,))

    def find_call(self, link: ActorLink[Peer], task_id: TaskId) -> PendingCall | None:
        """The call of that id, if it is unanswered."""
        self._searched[link] = None
        return link.find(task_id)

    def forget_searches(self) -> None:
        """Now and then: what was noted to find calls keeps those that were answered since."""
        for link in self._searched:
            link.forget_index()
        self._searched.clear()

    def settle(self, link: ActorLink[Peer]) -> None:
        """A call of it is over: with the last one we let go of the handle that we held for them."""
        if link.in_flight or link.queue:
            return
        if link.holds_handle:
            link.holds_handle = False
            self._refs.remove_submitted((link.handle,))

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
            peer = self._peers.get(address)
            peer.actor = link
            link.connected(peer)
        if update.state == "DEAD":
            if update.init_error and update.actor_id in self._creations:
                self._tell_if_unseen(update, failed)
            self._release_creation(update.actor_id)
            self.fail_dead(link, failed)
            self.settle(link)
            if actor_handle_object(link.actor_id) not in self._refs.objects:
                del self.links[link.actor_id]
        elif failed:
            self._fail_unavailable(link, failed, update.cause)

    def _tell_if_unseen(self, update: ActorUpdate, failed: Sequence[PendingCall]) -> None:
        """Its ``__init__`` raised: somebody must hear of that, also if no method is ever called."""
        handle = actor_handle_object(update.actor_id)
        records = {handle: self._refs.objects.get(handle) or ObjectRecord(state=FREED)}
        for call in failed:
            for index, record in enumerate(call.returns):
                records[return_id(call.spec.task_id, index + (call.spec.method.num_returns >= 0))] = record
        name = self._creations[update.actor_id].spec.name
        self._unseen.failed(name, list(records), list(records.values()), update.init_error)

    def refuse(self, link: ActorLink[Peer], call: PendingCall) -> None:
        """The link did not take the call."""
        if link.state is LinkState.DEAD:
            self._unseen.seen(actor_handle_object(link.actor_id))  # the call will tell
            self.fail_dead(link, [call])
            self.settle(link)
        else:
            self._fail_unavailable(link, [call], "")

    def _fail_unavailable(self, link: ActorLink[Peer], calls: Sequence[PendingCall], cause: str) -> None:
        """They cannot wait for the actor's next process."""
        because = f" ({cause})" if cause else ""
        sent = (
            f"its process died while this call was on its way, and it is being restarted{because}; the call "
            "is not sent again because max_task_retries is 0 or used up"
        )
        queued = f"it is being restarted{because}, and calls wait for that only with max_task_retries"
        errors = [ActorUnavailableError(why, link.actor_id, was_sent=why is sent) for why in (queued, sent)]
        payloads = list(map(dump_error, errors))
        for call in calls:
            self._outcomes.finish_with(call, payloads[call.seq > 0])
        self.settle(link)

    def fail_dead(self, link: ActorLink[Peer], calls: Sequence[PendingCall]) -> None:
        """Calls of a dead actor, each with the cause of death."""
        if not calls:
            return
        assert link.death is not None
        if link.death.init_error:
            who, could_not, _ = link.death.cause.partition(" could not be created")
            payload = died_of(link.death.init_error, who if could_not else "")
        else:
            payload = dump_error(self.death_error(link))
        for call in calls:
            self._outcomes.finish_with(call, payload)

    def death_error(self, link: ActorLink[Peer]) -> RayActorError:
        update = link.death
        assert update is not None
        cause = update.cause or "it ended"
        if update.certificate is not None and update.certificate.describe() not in cause:
            cause = f"{cause}: {update.certificate.describe()}"
        return ActorDiedError(cause, actor_id=link.actor_id.hex(), actor_name=link.name)

    def peer_gone(self, link: ActorLink[Peer], given_up: str = "") -> None:
        """Its process is gone; the GCS will tell what became of it.

        given_up: why we speak with that process no more, which may live: the GCS will say nothing then.
        """
        link.lost()
        if given_up:
            cause = f"this process does not speak with it any more: {given_up}"
            self.updated(ActorUpdate(link.actor_id, "DEAD", link.address, link.incarnation, cause))

    def handle_freed(self, object_id: ObjectId, owner: bytes) -> None:
        """No handle of ours is left anywhere."""
        actor_id = ActorId(object_id[8:24])
        if not owner:
            self._raylet.send(ActorOutOfScope(actor_id))
        link = self.links.get(actor_id)
        if link is not None and link.state is LinkState.DEAD:
            del self.links[actor_id]


def _nobody(_: object) -> None:
    """Takes an answer that nobody waits for."""
