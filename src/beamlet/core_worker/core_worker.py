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
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import msgspec

from beamlet.base.ids import Address, JobId, NodeId, ObjectId, TaskId, WorkerId, make_address
from beamlet.core_worker.context import TaskContext, current_task
from beamlet.core_worker.functions import FunctionTable
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.owning.borrowing import (
    DeleteStored,
    Freed,
    ReplyMayGo,
    SendAddBorrower,
    SendReleaseHold,
    SendRemoveBorrower,
)
from beamlet.core_worker.owning.objects import ObjectAccess
from beamlet.core_worker.owning.ownership import Ownership
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
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
from beamlet.core_worker.waiting.explaining import Explaining
from beamlet.core_worker.waiting.waits import Waits
from beamlet.exceptions import CallSite, DeadlockError, RaySystemError
from beamlet.protocol import gcs, node, peer
from beamlet.rpc.connection import Connection
from beamlet.rpc.reactor import Reactor
from beamlet.rpc.turns import SharedReactor, Waiter
from beamlet.serialization.refs import released

#: How long a worker waits before it tells the raylet that it is blocked: most waits are shorter.
BLOCKED_AFTER_S = 0.001


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
        sock: socket.socket,
        arena_fd: int,
        context: TaskContext,
        make_ref: Any,
        make_generator: Any,
        on_raylet_lost: Callable[[str], None],
        reactor: SharedReactor | None = None,
    ) -> None:
        self.identity = identity
        self.node_id = identity.node_id
        self.address: Address = make_address(identity.node_id, identity.worker_id)
        self.make_ref = make_ref
        self.make_generator = make_generator
        self.base_context = context
        self._on_raylet_lost = on_raylet_lost
        self._shut = False
        self.reactor = reactor or SharedReactor("beamlet-io", self._on_idle)
        self.lock = self.reactor.lock
        self.link = NodeLink(sock, self.reactor, self._from_raylet, self._raylet_lost, identity.session_dir)
        self.refs = ReferenceCounter(self.address)
        self.peers = PeerTable(self.link, self.reactor, self._from_peer, self._peer_gone)
        self.functions = FunctionTable(self.link)
        self.objects = ObjectAccess(self)
        self.leases = Leases(self)
        self.tasks = TaskSubmitter(self.leases)
        self.submission = Submission(self)
        self.streams = Streams(self)
        self.actors = ActorAccess(self)
        self.ownership = Ownership(self)
        self.unseen = UnseenErrors()
        self.waits = Waits(self)
        self.explaining = Explaining(self)
        self.store = StoreClient(self, arena_fd, identity.arena_bytes, identity.strict_arrays)
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
        self.await_ref = self.objects.await_ref
        self.future_of = self.objects.future_of

    def start(self) -> None:
        self.reactor.start()

    # -- values ----------------------------------------------------------------------------------

    def put(self, value: Any, call_site: CallSite | None = None) -> Any:
        """Store ``value``; a reference to it."""
        return self.make_ref(self.objects.put(value, call_site), self.address)

    def pin_for_good(self, ref: Any) -> None:
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

    def context(self) -> TaskContext:
        """The task that the calling code belongs to."""
        return current_task.get() or self.base_context

    def job_description(self) -> node.JobDescription:
        assert self.job is not None, "a process creates actors only after it joined a job"
        return self.job

    def cancel(self, ref: Any, force: bool, recursive: bool) -> None:
        cancelling.cancel(self, ref, force, recursive)

    # -- waiting ---------------------------------------------------------------------------------

    def block_until(
        self, waiter: Waiter, deadline: float | None, refs: Sequence[Any] = (), needs_all: bool = True
    ) -> bool:
        """Wait without the lock; a worker that waits long gives back its CPU meanwhile.

        refs: what is waited for, needs_all: all of them. Raises DeadlockError when that can never be.
        """
        if self.execution is None:
            return self.explaining.wait(waiter, deadline, refs)
        soon = monotonic() + BLOCKED_AFTER_S
        if deadline is not None and deadline <= soon:
            return self.reactor.wait(waiter, deadline)
        if self.reactor.wait(waiter, soon):
            return True
        objects = [ref._id for ref in refs] if needs_all and deadline is None else []
        with self.execution.blocked(), self.waits.entered(waiter, objects) as wait:
            done = self.reactor.wait(waiter, deadline)
        if wait is not None and wait.verdict:
            raise DeadlockError(wait.verdict)
        return done

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

    def raise_if_shut(self) -> None:
        if self._shut or self.link.connection.closed:
            raise self.link.gone()

    def stale_reference(self, object_id: ObjectId) -> Exception:
        return RaySystemError(
            ValueError(
                f"ObjectRef {object_id.hex()} is not known here: it belongs to an earlier session, which was "
                "shut down, and so was its value"
            )
        )

    # -- housekeeping ----------------------------------------------------------------------------

    def drain_released(self) -> None:
        """Count down the references that died since. Under the lock."""
        while released:
            count = len(released)
            self.refs.release_many([released.popleft() for _ in range(count)])
        self.perform_effects()
        self.unseen.sweep()
        if self.store.unpinned:
            self.store.give_back_pins()

    def is_needed(self) -> bool:
        """Whether other processes use what this one owns, or would lose an actor with it. Under the lock."""
        self.drain_released()
        return bool(self.submission.tasks) or any(
            record.borrowers or record.holds or record.watched
            for record in self.refs.objects.values()
            if not record.owner
        )

    def _on_idle(self) -> None:
        if released or self.store.unpinned:
            self.drain_released()
        if self.task_events.noted:
            self.link.send(self.task_events.take())
        if self.loop_watch is not None:
            self.loop_watch.look()

    def perform_effects(self) -> None:
        """Do what the reference counter asks, in order. Under the lock."""
        while self.refs.outbox:
            for effect in self.refs.take_effects():
                match effect:
                    case SendAddBorrower(owner, token, ids):
                        self.peers.get(owner).send(peer.AddBorrower(token, ids))
                    case SendRemoveBorrower(owner, ids):
                        self.peers.get(owner).send(peer.RemoveBorrower(ids))
                    case SendReleaseHold(executor, hold):
                        self.peers.get(executor).send(peer.ReleaseHold(hold))
                    case DeleteStored(holder, ids):
                        self.link.send(node.DeleteObjects(holder, ids))
                    case ReplyMayGo(reply):
                        self.execution.reply_may_go(reply)
                    case Freed(object_id, owner):
                        self.actors.handle_freed(object_id, owner)

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
            self.objects.close()
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
