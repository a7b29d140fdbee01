"""cancel(): finding the work, wherever it is, and stopping it there."""

from __future__ import annotations

from functools import partial

from beamlet.base.ids import ActorId, Address, TaskId, actor_of_task, is_nil_actor, task_of_object
from beamlet.base.stack_room import FOR_A_CALL
from beamlet.core_worker.owning.object_record import PENDING
from beamlet.core_worker.owning.ports import Ref
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.submitting.actors import ActorAccess
from beamlet.core_worker.submitting.key_state import LeasedWorker
from beamlet.core_worker.submitting.outcomes import Outcomes
from beamlet.core_worker.submitting.pending import PendingTask
from beamlet.core_worker.submitting.ports import PeerBook
from beamlet.core_worker.submitting.raylets import Raylets
from beamlet.core_worker.submitting.task_submitter import TaskSubmitter
from beamlet.protocol.node import ForceCancel
from beamlet.protocol.peer import CancelTask
from beamlet.rpc.turns import SharedReactor

#: How long a worker that was told to drop a task by force may take before the raylet ends it.
FORCE_AFTER_S = 0.2


class Cancelling:
    """``cancel`` is called by users' threads without the core worker's lock, all else under it."""

    def __init__(
        self,
        reactor: SharedReactor,
        raylets: Raylets,
        peers: PeerBook,
        refs: ReferenceCounter,
        releases: Releases,
        outcomes: Outcomes,
        submitter: TaskSubmitter[Peer],
        actors: ActorAccess,
    ) -> None:
        self._reactor = reactor
        self._raylets = raylets
        self._peers = peers
        self._refs = refs
        self._releases = releases
        self._outcomes = outcomes
        self._submitter = submitter
        self._actors = actors

    def cancel(self, ref: Ref, force: bool, recursive: bool) -> None:
        """See ``beamlet.cancel``. Raises ValueError for ``force`` on an actor's call."""
        if force and not is_nil_actor(actor_of_task(task_of_object(ref._id))):
            raise ValueError(
                "force=True is not supported for actor calls: it would end the actor. Use kill()."
            )
        if FOR_A_CALL.may_lack():
            FOR_A_CALL.demand()
        if self._reactor.is_in_the_middle():
            self._reactor.put_off(partial(self._cancel, ref, force, recursive))
            return
        with self._reactor.lock:
            self._cancel(ref, force, recursive)
            self._reactor.flush()

    def _cancel(self, ref: Ref, force: bool, recursive: bool) -> None:
        task_id = task_of_object(ref._id)
        actor_id = actor_of_task(task_id)
        record = self._refs.objects.get(ref._id)
        if record is None or record.state != PENDING:
            return
        if record.owner:
            self._peers.get(Address(record.owner)).send(CancelTask(task_id, force, recursive))
        elif is_nil_actor(actor_id):
            self.cancel_task(task_id, force, recursive)
        else:
            self._cancel_call(actor_id, task_id, recursive)
        self._releases.perform()

    def cancel_task(self, task_id: TaskId, force: bool, recursive: bool) -> None:
        """A task of ours: queued here, waiting for arguments, or at a worker."""
        task = self._outcomes.tasks.get(task_id)
        if task is None:
            return
        task.unwanted = True
        if task.unresolved:
            self._outcomes.cancel(task)
        elif not task.seq:
            self._submitter.remove(task)
            self._outcomes.cancel(task)
        elif (worker := self._submitter.worker_of(task)) is not None:
            worker.link.send(CancelTask(task_id, force, recursive))
            if force:
                self._reactor.call_later(FORCE_AFTER_S, lambda: self._force(task, worker))

    def _force(self, task: PendingTask, worker: LeasedWorker[Peer]) -> None:
        """Asking was no use: code that never returns to the interpreter hears nothing."""
        if worker.in_flight.get(task.seq) is not task:
            return
        raylet = self._raylets.get(worker.lease.node)
        if raylet is not None and next(iter(worker.in_flight)) == task.seq:
            raylet.send(ForceCancel(worker.lease, task.spec.task_id, task.spec.name))
        else:  # another runs before it, or has just ended: that one is not to die for it
            self._reactor.call_later(FORCE_AFTER_S, lambda: self._force(task, worker))

    def cancel_children(self, parent: TaskId, force: bool) -> None:
        """Stop those that the running task ``parent`` has submitted, and theirs."""
        tasks = self._outcomes.tasks
        for child in [task_id for task_id, task in tasks.items() if task.spec.parent == parent]:
            self.cancel_task(child, force, True)

    def _cancel_call(self, actor_id: ActorId, task_id: TaskId, recursive: bool) -> None:
        link = self._actors.links.get(actor_id)
        call = self._actors.find_call(link, task_id) if link is not None else None
        if link is None or call is None:
            return
        call.unwanted = True
        if not call.seq:
            link.drop(call)
            self._outcomes.cancel(call)
            self._actors.settle(link)
        elif link.link is not None:
            link.link.send(CancelTask(task_id, False, recursive))
