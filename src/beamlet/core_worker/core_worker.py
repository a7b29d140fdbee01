"""The core worker: what makes a process a driver or a worker. Composition and the rules of its lock.

    objects.py      get, put, wait             submission.py   tasks and calls out, answers in
    actors.py       creating, following        ownership.py    serving others what we own
    execution.py    running what we are sent   store_client.py the node's arena
    peers.py        other core workers         node_link.py    our raylet

All state machines are guarded by one lock.  It is never held while user code runs, while unpickling, or while
waiting.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic
from typing import Any

import msgspec

from beamlet.base.ids import Address, JobId, NodeId, ObjectId, TaskId, WorkerId, make_address
from beamlet.core_worker.context import Contexts, TaskContext
from beamlet.core_worker.functions import FunctionTable
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.owning.futures import Futures
from beamlet.core_worker.owning.objects import ObjectAccess
from beamlet.core_worker.owning.ownership import Ownership
from beamlet.core_worker.owning.ports import Blocking, MakeRef, Ref, WaitAdvice
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.core_worker.owning.store_client import StoreClient
from beamlet.core_worker.owning.streams import Streams
from beamlet.core_worker.owning.unseen import UnseenErrors
from beamlet.core_worker.peers import Peer, PeerTable
from beamlet.core_worker.submitting import cancelling
from beamlet.core_worker.submitting.actors import ActorAccess
from beamlet.core_worker.submitting.leases import Leases
from beamlet.core_worker.submitting.submission import Submission
from beamlet.core_worker.submitting.task_submitter import TaskSubmitter
from beamlet.core_worker.task_events import TaskEventBuffer
from beamlet.core_worker.waiting.blocking import DriverBlocking
from beamlet.core_worker.waiting.explaining import Explaining
from beamlet.core_worker.waiting.waits import Waits
from beamlet.exceptions import CallSite
from beamlet.object_store.arena import Arena
from beamlet.protocol import gcs, node, peer
from beamlet.rpc.connection import Connection
from beamlet.rpc.descriptors import Wire
from beamlet.rpc.reactor import Reactor
from beamlet.rpc.turns import SharedReactor, Waiter
from beamlet.serialization.refs import released


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
    """See the module. ``make_ref(id, owner)`` builds the public ObjectRef."""

    def __init__(
        self,
        identity: Identity,
        sock: Wire,
        arena_fd: int,
        context: TaskContext,
        make_ref: MakeRef,
        make_generator: Any,
        on_raylet_lost: Callable[[str], None],
        reactor: SharedReactor | None = None,
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
        self.reactor = reactor or SharedReactor("beamlet-io", self._on_idle)
        self.lock = self.reactor.lock
        self.link = NodeLink(sock, self.reactor, self._from_raylet, self._raylet_lost, identity.session_dir)
        self.refs = ReferenceCounter(self.address)
        self.peers = PeerTable(self.link, self.reactor, self._from_peer, self._peer_gone)
        self.functions = FunctionTable(self.link)
        self.unseen = UnseenErrors()
        self.releases = Releases(self.refs, self.peers, self.link, self.unseen)
        arena = Arena.attach(arena_fd, identity.arena_bytes)
        self.store = StoreClient(
            self.link, self.releases, self.reactor, self.node_id, arena, identity.strict_arrays
        )
        self.objects = ObjectAccess(
            self.refs, self.releases, self.reactor, self.peers, self.store, self.unseen, self.contexts
        )
        self.futures = Futures(self.objects, self.reactor)
        self.ownership = Ownership(self.refs, self.objects, self.unseen)
        self.streams = Streams(self.refs, self.objects, self.reactor, make_ref)
        # Rooms further right still take the core worker; what they use of it is above.
        self.drain_released = self.releases.drain
        self.perform_effects = self.releases.perform
        self.leases = Leases(self)
        self.tasks = TaskSubmitter(self.leases)
        self.submission = Submission(self)
        self.actors = ActorAccess(self)
        self.releases.on_freed = self.actors.handle_freed
        wait_view = (self.peers, self.refs, self.tasks, self.submission, self.actors)
        self.waits = Waits(self.reactor, *wait_view)
        self.explaining = Explaining(self.reactor, self.link, *wait_view)
        self.set_blocking(DriverBlocking(self.reactor, self.link, self.explaining))
        self.task_events = TaskEventBuffer(identity.worker_id)
        #: Set by worker_main: runs what we are sent. A driver has none.
        self.execution: Any = None
        #: Set by worker_main: the actor this process is, or may become.
        self.actor_process: Any = None
        #: Set by an async actor: notices calls that keep its event loop.
        self.loop_watch: Any = None
        #: What the driver gave to ``init(runtime_env=…)``.
        self.runtime_env: dict[str, Any] = {}
        #: What this process's job is, as its workers must know it.
        self.job: node.JobDescription | None = None
        #: Set by the driver: notices habits that cost time (api/advising.py).
        self.advisor: Any = None
        #: Set by the driver: shows what workers print.
        self.on_output: Callable[[node.OutputLines], None] | None = None
        self.on_notice: Callable[[node.Notice], None] | None = None
        # The hot path's shortcuts.
        self.submit_task = self.submission.submit_task
        self.submit_call = self.submission.submit_call
        self.get = self.objects.get
        self.wait = self.objects.wait
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
            record = self.refs.objects.get(ref._id)
            if record is not None:
                record.local += 1

    def adopt_ref(self, object_id: ObjectId, owner: Address) -> Any:
        """A reference came by a way of the user's own (plain pickle)."""
        with self.lock:
            self.refs.found_in_value(None, [(object_id, owner)])
            self.perform_effects()
        return self.make_ref(object_id, owner)

    def call_site_of(self, object_id: ObjectId) -> str:
        record = self.refs.objects.get(object_id)
        return str(record.call_site or "") if record is not None else ""

    def job_description(self) -> node.JobDescription:
        assert self.job is not None, "a process creates actors only after it joined a job"
        return self.job

    def cancel(self, ref: Any, force: bool, recursive: bool) -> None:
        cancelling.cancel(self, ref, force, recursive)

    # -- waiting ---------------------------------------------------------------------------------

    def set_blocking(self, blocking: Blocking) -> None:
        """How this process's threads wait: as a driver's until said otherwise."""
        self.objects.blocking = blocking
        self.block_until = blocking.block_until
        self.raise_if_shut = blocking.raise_if_shut

    def take_advice(self, advisor: WaitAdvice) -> None:
        """``advisor`` wants to see what this process submits and waits for."""
        self.advisor = self.objects.advice = advisor

    def wait_for(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Let the sockets be read until ``condition``. Raises TimeoutError naming ``what``."""
        deadline = monotonic() + timeout_s
        while True:
            with self.lock:
                if condition():
                    return
            self.raise_if_shut()
            if monotonic() > deadline:
                raise TimeoutError(f"waited {timeout_s:g} s for {what}")
            self.reactor.wait(Waiter(), min(deadline, monotonic() + 0.01))

    def wait_for_room(self, connection: Connection) -> None:
        """Let a slow reader catch up. Called under the lock, once."""
        limit = connection.backlog_bytes // 2
        while not connection.closed and connection.backlog_bytes > limit:
            self.reactor.dispatch(self.reactor.poll(0.1))

    # -- housekeeping ----------------------------------------------------------------------------

    def is_needed(self) -> bool:
        """Whether other processes use what this one owns, or would lose an actor with it. Under the lock."""
        self.releases.drain()
        return bool(self.submission.tasks) or any(
            record.borrowers or record.holds or record.watched
            for record in self.refs.objects.values()
            if not record.owner
        )

    def _on_idle(self) -> None:
        if self.releases.is_due:
            self.releases.drain()
        if self.task_events.noted:
            self.link.send(self.task_events.take())
        if self.loop_watch is not None:
            self.loop_watch.look()

    # -- messages --------------------------------------------------------------------------------

    def _from_peer(self, connection: Connection, messages: list[Any]) -> None:
        sender: Peer = connection.context
        submission = self.submission
        worked = False
        for message in messages:
            kind = type(message)
            if kind is peer.Result:
                submission.take_result(sender, message)
                worked = True
            elif kind is peer.CallActor or kind is peer.PushTask:
                self.execution.arrived(sender, message)
            elif kind is peer.Results:
                submission.take_results(sender, message)
                worked = True
            elif kind is peer.Yielded:
                submission.take_yield(sender, message)
            elif kind is peer.Consumed:
                self.execution.consumed(message.task_id, message.count)
            elif kind is peer.HandedBack:
                self.leases.handed_back(sender, message)
            elif kind is peer.CancelTask and self.execution is None:
                cancelling.cancel_task(self, TaskId(message.task_id), message.force, message.recursive)
            elif kind is peer.StealTasks or kind is peer.CancelTask:
                self.execution.control(sender, message)
            elif kind is peer.BlockedOn:
                self.waits.received(message)
            elif kind is peer.AskProgress:
                self.explaining.asked(sender, message)
            elif kind is peer.Progress:
                self.explaining.progress_came(message)
            else:
                self.ownership.handle(sender, message)
        if worked and sender.leased is not None:
            self.leases.after_results(sender.leased)
        if self.refs.outbox:
            self.perform_effects()

    def _from_raylet(self, message: Any) -> None:
        kind = type(message)
        if kind is gcs.ActorUpdate:
            self.actors.updated(message)
        elif kind is node.PeerIntroduced:
            self.peers.adopt(message.peer, self.link.take_socket())
        elif kind is node.WorkerDied:
            self.leases.certified(message.worker, message.certificate)
        elif kind is node.LeaseWanted:
            self.tasks.return_idle(self.reactor.now())
        elif kind is node.OutputLines:
            if self.on_output is not None:
                self.on_output(message)
        elif kind is node.Notice:
            if self.on_notice is not None:
                self.on_notice(message)
        elif kind is node.LeasePending:
            self.leases.pending_reason(message)
        elif self.execution is not None:
            self.execution.from_raylet(message)
        if self.refs.outbox:
            self.perform_effects()

    def _peer_gone(self, gone: Peer) -> None:
        if self._shut:
            return
        if gone.leased is not None:
            self.leases.worker_lost(gone)
        if gone.actor is not None:
            self.actors.peer_gone(gone.actor)
        reason = gone.certificate.describe() if gone.certificate is not None else gone.reason
        self.objects.lost(self.refs.peer_gone(gone.address, reason))
        if self.execution is not None:
            self.execution.peer_gone(gone)
        self.perform_effects()

    def _raylet_lost(self, reason: str) -> None:
        """Nothing that was promised will come, and nothing more can be asked for: say so, never wait."""
        if self._shut:
            return
        self._on_raylet_lost(reason)
        if self.execution is not None:
            return
        self.put = self.submit_task = self.submit_call = self._refuse  # type: ignore[method-assign]
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
        Reactor.close(self.reactor)

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
            self.futures.close()
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
