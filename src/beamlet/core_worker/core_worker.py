"""The core worker: what drivers and executors have in common. Composition and the rules of its lock.

    owning/       objects, references, the store      peers.py       other core workers
    submitting/   tasks and calls out, answers in     node_link.py   our raylet

``driver.py`` and ``executor.py`` add what makes a process the one or the other: which messages it takes, and
how its threads wait.  All state machines are guarded by one lock.  It is never held while user code runs,
while unpickling, or while waiting.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from beamlet.base.ids import Address, JobId, NodeId, ObjectId, TaskId, WorkerId, make_address
from beamlet.base.shrinking import shrink
from beamlet.core_worker.context import Contexts, TaskContext
from beamlet.core_worker.executing.work import Work
from beamlet.core_worker.functions import FunctionTable
from beamlet.core_worker.habits import Advisor, NoAdvisor
from beamlet.core_worker.memory import give_back_memory
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.owning.forked_views import ForkedViews
from beamlet.core_worker.owning.futures import Futures
from beamlet.core_worker.owning.objects import ObjectAccess
from beamlet.core_worker.owning.own_slab import OwnSlab
from beamlet.core_worker.owning.ownership import Ownership
from beamlet.core_worker.owning.ports import Blocking, MakeRef, Ref
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.core_worker.owning.selecting import Selecting
from beamlet.core_worker.owning.store_client import StoreClient
from beamlet.core_worker.owning.streams import Streams
from beamlet.core_worker.owning.unseen import UnseenErrors
from beamlet.core_worker.peers import Peer, PeerTable
from beamlet.core_worker.submitting.actors import ActorAccess
from beamlet.core_worker.submitting.arguments import Arguments
from beamlet.core_worker.submitting.cancelling import Cancelling
from beamlet.core_worker.submitting.leases import Leases
from beamlet.core_worker.submitting.obligations import Obligations
from beamlet.core_worker.submitting.outcomes import Outcomes
from beamlet.core_worker.submitting.ports import MakeGenerator
from beamlet.core_worker.submitting.raylets import Raylets
from beamlet.core_worker.submitting.results import ResultTaker
from beamlet.core_worker.submitting.submission import Submission
from beamlet.core_worker.task_events import TaskEventBuffer
from beamlet.core_worker.waiting.explaining import Explaining
from beamlet.core_worker.waiting.waits import Waits
from beamlet.exceptions import CallSite, RaySystemError
from beamlet.object_store.arena import Arena
from beamlet.protocol import gcs, node, peer
from beamlet.protocol.message import Message
from beamlet.protocol.peer import Result, Results
from beamlet.rpc.connection import Connection
from beamlet.rpc.containment import Misuse
from beamlet.rpc.descriptors import Wire
from beamlet.rpc.self_talk import SelfTalk
from beamlet.rpc.turns import SharedReactor, Waiter
from beamlet.serialization.refs import released
from beamlet.serialization.values import dump_error

#: With fewer than this a process that had many has nearly none left.
_FEW_OBJECTS = 10_000


class Misdirected(Misuse):
    """A message of a kind that this sort of process does not take: its sender is wrong about who we are."""


class Identity(msgspec.Struct):
    """Who this process is in the cluster."""

    node_id: NodeId
    worker_id: WorkerId
    job_id: JobId
    namespace: str
    session_dir: str
    node_ip: str
    arena_bytes: int
    strict_arrays: bool = False


class CoreWorker:
    """See the module. ``make_ref(id, owner)`` builds the public ObjectRef.

    A subclass ends its composition with ``compose_waiting``.
    """

    #: Whether the user's main program runs here; else this process runs what others send.
    is_driver: ClassVar[bool]
    waits: Waits
    explaining: Explaining

    def __init__(
        self,
        identity: Identity,
        sock: Wire,
        arena_fd: int,
        context: TaskContext,
        make_ref: MakeRef,
        make_generator: MakeGenerator,
        on_raylet_lost: Callable[[str], None],
        reactor: SharedReactor | None = None,
        lifeline: object | None = None,
    ) -> None:
        self.identity = identity
        self.node_id = identity.node_id
        self.address: Address = make_address(identity.node_id, identity.worker_id)
        self.make_ref = make_ref
        self.make_generator = make_generator
        self.contexts = Contexts(context)
        #: The task that the calling code belongs to.
        self.context = self.contexts.current
        self._on_raylet_lost = on_raylet_lost
        self._shut = False
        #: Tables have shrunk since memory was given back last.
        self._keeps_memory = False
        self.reactor = reactor or SharedReactor(self._on_idle)
        self.lock = self.reactor.lock
        self.link = NodeLink(sock, self.reactor, self._from_raylet, self._raylet_lost, identity.session_dir)
        self.refs = ReferenceCounter(self.address)
        self.peers = PeerTable(
            *(self.link, self.reactor, self._from_peer, self._peer_gone, self.address, self._unsent)
        )
        self.functions = FunctionTable(self.link)
        self.unseen = UnseenErrors()
        own = OwnSlab()
        self.releases = Releases(self.refs, self.peers, self.link, self.unseen, own)
        arena = Arena.attach(arena_fd, identity.arena_bytes, lifeline)
        self.forked_views = ForkedViews(self.reactor, arena)
        self.store = StoreClient(
            self.link, self.releases, self.reactor, self.node_id, arena, identity.strict_arrays, own
        )
        self.objects = ObjectAccess(
            self.refs, self.releases, self.reactor, self.peers, self.store, self.unseen, self.contexts
        )
        self.futures = Futures(self.objects, self.reactor)
        self.selecting = Selecting(self.refs, self.releases, self.objects, self.reactor)
        self.ownership = Ownership(self.refs, self.objects, self.unseen)
        self.streams = Streams(self.refs, self.releases, self.objects, self.reactor, make_ref)
        # Rooms further right still take the core worker; what they use of it is above.
        self.drain_released = self.releases.drain
        self.perform_effects = self.releases.perform
        raylets = Raylets(self.node_id, self.link)
        outcomes = self.outcomes = Outcomes(self.refs, self.objects, self.streams, self.unseen, own)
        self.arguments = Arguments(self.refs, self.objects, self.unseen, make_ref, self.store)
        self.leases = Leases(self.reactor, raylets, self.peers, outcomes)
        self.tasks = self.leases.submitter
        self.actors = ActorAccess(
            *(self.reactor, self.link, self.peers, self.refs, self.objects, self.contexts),
            *(self.arguments, outcomes, self.unseen, make_ref),
        )
        self.submission = Submission(
            *(self.reactor, self.refs, self.releases, self.contexts, self.streams, self.arguments, outcomes),
            *(self.tasks, self.actors, make_ref, make_generator, self.peers, self.store),
        )
        self.results = ResultTaker(self.refs, self.objects, self.streams, outcomes, self.leases, self.actors)
        self.cancelling = Cancelling(
            *(self.reactor, raylets, self.peers, self.refs, self.releases, outcomes),
            *(self.tasks, self.actors),
        )
        self.releases.on_freed = self.actors.handle_freed
        self.obligations = Obligations(self.reactor, self.refs, self.releases, outcomes, self.actors)
        #: What those who explain waits look at.
        self.wait_view = (self.peers, self.refs, self.tasks, self.submission, self.actors)
        self.task_events = TaskEventBuffer(identity.worker_id)
        #: What this process was given to do; nobody gives a driver anything.
        self.work = Work()
        #: What the driver gave to ``init(runtime_env=…)``.
        self.runtime_env: dict[str, Any] = {}
        #: What this process's job is, as its workers must know it.
        self.job: node.JobDescription | None = None
        #: What this process's task or actor was given beyond the job's; its children inherit it.
        self.env_vars: dict[str, str] = {}
        #: Is told of habits that cost time.
        self.advisor: Advisor = NoAdvisor()
        #: What each kind of message does here, but for the two that come most: see ``_from_peer``.
        self.on_peer_message: dict[type, Callable[[Peer, Any], None]] = {
            peer.Yielded: self.results.take_yield,
            peer.HandedBack: self.leases.handed_back,
            **dict.fromkeys(Ownership.SERVES, self.ownership.handle),
        }
        self.on_raylet_message: dict[type, Callable[[Any], None]] = {
            gcs.ActorUpdate: self.actors.updated,
            node.PeerIntroduced: self._introduced,
            node.WorkerDied: self._worker_died,
            node.SlabWanted: self.store.slab_wanted,
            node.StoredByDead: self.results.stored_by_dead,
            node.LeaseWanted: lambda _: self.tasks.return_idle(self.reactor.now()),
            # Asked for anew when somebody wants to know (WhyPending): it may be old by then.
            node.LeasePending: lambda _: None,
        }
        self.link.on_unsent[gcs.ActorReady] = self.actors.unsent
        # The hot path's shortcuts.
        self.submit_task = self.submission.submit_task
        self.submit_call = self.submission.submit_call
        self.cancel = self.cancelling.cancel
        self.get = self.objects.get
        self.get_one = self.objects.get_one
        self.wait = self.selecting.wait
        self.await_ref = self.futures.await_ref
        self.future_of = self.futures.future_of

    def start(self) -> None:
        self.reactor.start()

    # -- values ----------------------------------------------------------------------------------

    def put(self, value: Any, call_site: CallSite | None = None) -> Any:
        """Store ``value``; a reference to it."""
        return self.make_ref(self.objects.put(value, call_site), self.address)

    def pin_for_good(self, ref: Ref) -> None:
        """A copy of ``ref`` left by a way we cannot follow: keep its value as long as we live."""
        with self.lock:
            self.obligations.pin_for_good(ref._id)

    def adopt_ref(self, object_id: ObjectId, owner: Address) -> Any:
        """A reference came by a way of the user's own (plain pickle)."""
        with self.lock:
            self.refs.found_in_value(None, [(object_id, owner)])
            self.perform_effects()
        return self.make_ref(object_id, owner)

    def owner_of(self, object_id: ObjectId) -> Address | None:
        """Of an object that a reference in this process refers to; else None."""
        with self.lock:
            self.drain_released()
            record = self.refs.objects.get(object_id)
            return None if record is None or not record.local else Address(record.owner or self.address)

    def call_site_of(self, object_id: ObjectId) -> str:
        record = self.refs.objects.get(object_id)
        return str(record.call_site or "") if record is not None else ""

    def job_description(self) -> node.JobDescription:
        assert self.job is not None, "a process creates actors only after it joined a job"
        return self.job

    def cancel_task(self, task_id: TaskId, force: bool, recursive: bool) -> None:
        """Stop a task that this process submitted. Under the lock."""
        self.cancelling.cancel_task(task_id, force, recursive)

    def cancel_children(self, parent: TaskId, force: bool) -> None:
        """Stop the tasks that ``parent``, which runs here, has submitted. Under the lock."""
        self.cancelling.cancel_children(parent, force)

    # -- waiting ---------------------------------------------------------------------------------

    def compose_waiting(self, waits: Waits, explaining: Explaining, blocking: Blocking) -> None:
        """How this process's threads wait, and what it tells others of that."""
        self.waits, self.explaining = waits, explaining
        self.objects.blocking = blocking
        self.block_until = blocking.block_until
        self.raise_if_shut = blocking.raise_if_shut
        self.on_peer_message |= {
            peer.BlockedOn: lambda _, message: waits.received(message),
            peer.AskProgress: explaining.asked,
            peer.Progress: lambda _, message: explaining.progress_came(message),
        }

    def take_advice(self, advisor: Advisor) -> None:
        """``advisor`` wants to see what this process submits and waits for."""
        self.advisor = self.objects.advice = self.arguments.advice = self.leases.advice = advisor

    def end_actors_in_order(self) -> Waiter:
        """Before the program ends: let clean-up methods of its actors run. Complete when they have."""
        with self.lock:
            return self.actors.end_in_order()

    # -- housekeeping ----------------------------------------------------------------------------

    def is_needed(self, job_is_over: bool) -> bool:
        """Whether something would be lost with this process, idle as it is. Under the lock."""
        return self.obligations.any_left(job_is_over)

    def _on_idle(self) -> None:
        if self.releases.is_due:
            self.releases.drain()
        self.unseen.look_round()
        self.actors.forget_searches()
        self.store.tick()
        self._keeps_memory |= shrink(self.refs.objects) | shrink(self.submission.tasks)
        if self._keeps_memory and len(self.refs.objects) < _FEW_OBJECTS:
            # Not while many live: what is made in their midst would stay there when they are gone.
            self._keeps_memory = False
            give_back_memory()
        if self.task_events.is_due:
            self.send_task_events()

    def send_task_events(self) -> None:
        """Tell the GCS what ran since we last did. Under the lock."""
        for batch in self.task_events.take():
            self.link.send(batch)

    # -- messages --------------------------------------------------------------------------------

    def _from_peer(self, connection: Connection | SelfTalk, messages: list[Any]) -> None:
        sender: Peer = connection.context
        results = self.results
        worked = False
        for message in messages:
            try:
                kind = type(message)
                if kind is Result:
                    worked = True
                    results.take_result(sender, message)
                elif kind is Results:
                    worked = True
                    results.take_results(sender, message)
                else:
                    handler = self.on_peer_message.get(kind)
                    if handler is None:
                        raise self._misdirected(kind, f"core worker {sender.address.hex()[:8]}")
                    handler(sender, message)
            except Exception as error:
                self._contain(sender, message, error)
        if worked and sender.leased is not None:
            self.leases.after_results(sender.leased)
        if self.refs.outbox:
            self.perform_effects()

    def _contain(self, sender: Peer, message: Any, error: Exception) -> None:
        """A handler raised: that costs the one message, and whoever waits for its answer is told."""
        name = f"core worker {sender.address.hex()[:8]}"
        self.reactor.containment.contain(error, f"handling {type(message).__name__}", name)
        if isinstance(message, peer.PushTask | peer.CallActor):
            reason = RaySystemError(
                f"it could not be taken on by its worker: {type(error).__name__}: {error}"
            )
            payload = dump_error(reason)
            sender.send(peer.Results(message.seq, [payload], failed=True))
        elif isinstance(message, peer.Result | peer.Results):
            self.results.untaken(sender, message, error)

    def _unsent(self, receiver: Peer, message: Message) -> None:
        """It could not be encoded, and whoever waits for what it asked or answered must not wait for ever."""
        reason = "could not be sent: it is too large, or holds text that UTF-8 cannot encode"
        if isinstance(message, peer.PushTask | peer.CallActor):
            payload = dump_error(RaySystemError(f"{message.name or message.task_id.hex()} {reason}"))
            answer = peer.Results(message.seq, [payload], failed=True)
            self.results.take_results(receiver, answer)
            if receiver.leased is not None:
                self.leases.after_results(receiver.leased)
            self.perform_effects()
        elif isinstance(message, peer.Result | peer.Results | peer.Yielded):
            payload = dump_error(RaySystemError(f"the result, or the error, of this call {reason}"))
            answer = peer.Results(message.seq, [payload], failed=True)
            if isinstance(message, peer.Results):
                if message.items[:1] == [payload]:
                    return  # that could not be sent either
                answer.contained, answer.leaving = message.contained, message.leaving
            if not isinstance(message, peer.Result):
                answer.hold = message.hold
            receiver.send(answer)
        elif isinstance(message, peer.ObjectValue):
            receiver.send(peer.ObjectGone(message.object_id, f"it {reason}"))

    def _from_raylet(self, message: Any) -> None:
        handler = self.on_raylet_message.get(type(message))
        if handler is None:
            raise self._misdirected(type(message), "the raylet")
        handler(message)
        if self.refs.outbox:
            self.perform_effects()

    def _misdirected(self, kind: type, sender: str) -> Misdirected:
        what = "a driver" if self.is_driver else "a worker"
        return Misdirected(f"{kind.__name__} from {sender} is not for {what}")

    def _worker_died(self, message: node.WorkerDied) -> None:
        self.peers.died(message.worker, message.certificate)
        self.store.own.died(message.worker)
        if message.had_slabs:
            self._heard_of(message.worker)

    def _heard_of(self, dead: Address) -> None:
        """The raylet asks whether we still use what that process had lent us."""
        self.link.send(node.DeathHeard(dead))

    def _introduced(self, message: node.PeerIntroduced) -> None:
        self.peers.introduced(message.peer, message.generation)

    def _peer_gone(self, gone: Peer) -> None:
        if self._shut:
            return
        if gone.leased is not None:
            self.leases.worker_lost(gone)
        if gone.actor is not None:
            self.actors.peer_gone(gone.actor, gone.reason if gone.given_up else "")
        if not gone.given_up:  # perhaps it had died before we asked for it: then no WorkerDied comes
            self.store.own.died(gone.address)
        reason = gone.certificate.describe() if gone.certificate is not None else gone.reason
        self.objects.lost(self.refs.peer_gone(gone.address, reason))
        self.perform_effects()

    def _raylet_lost(self, reason: str) -> None:
        """Nothing that was promised will come, and nothing more can be asked for: say so, never wait."""
        if self._shut:
            return
        self.store.end_writing(0)  # nobody will read it
        self._on_raylet_lost(reason)
        self.put = self.submit_task = self.submit_call = self._refuse  # type: ignore[method-assign]
        self._lose_promised()

    def _lose_promised(self) -> None:
        self.unseen.tell_no_more()
        self.outcomes.lose_streams(self.link.gone())
        self.objects.lose_promised(self.link.gone())

    def _refuse(self, *_: Any, **__: Any) -> Any:
        """Stands in for what needs a cluster when there is none any more."""
        raise self.link.gone()

    # -- the end ---------------------------------------------------------------------------------

    def abandon(self) -> None:
        """In a fork of this process: let go of our copies of its descriptors; say and touch nothing."""
        self._shut = True
        for connection in (self.link.connection, *self.peers.connections()):
            connection.abandon()
        self.reactor.abandon()
        self.store.abandon()

    def shut(self) -> None:
        """Close everything; every wait ends. Idempotent."""
        if self._shut:
            return
        self._shut = True
        self.unseen.tell_all()
        self.reactor.shut()
        with self.lock:
            self.peers.close()
            self.link.close()
            self._lose_promised()
            self.futures.close()
            self.forked_views.close()
            self.refs.objects.clear()
            released.clear()
        self.reactor.close()
        self.store.close()

    @property
    def is_shut(self) -> bool:
        return self._shut

    @property
    def pid(self) -> int:
        return os.getpid()
