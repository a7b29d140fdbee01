"""cancel(): finding the task, wherever it is, and stopping it there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from beamlet.base.ids import ActorId, Address, TaskId, actor_of_task, is_nil_actor
from beamlet.core_worker.owning.object_record import PENDING
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.submitting.pending import Pending
from beamlet.exceptions import TaskCancelledError
from beamlet.protocol.peer import CancelTask

if TYPE_CHECKING:
    from beamlet.core_worker.core_worker import CoreWorker


def cancel(core: CoreWorker, ref: Any, force: bool, recursive: bool) -> None:
    """See ``beamlet.cancel``. Raises ValueError for ``force`` on an actor's call."""
    task_id = TaskId(ref._id[:24])
    actor_id = actor_of_task(task_id)
    if force and not is_nil_actor(actor_id):
        raise ValueError("force=True is not supported for actor calls: it would end the actor. Use kill().")
    with core.lock:
        record = core.refs.objects.get(ref._id)
        if record is None or record.state != PENDING:
            return
        if record.owner:
            core.peers.get(Address(record.owner)).send(CancelTask(task_id, force, recursive))
        elif is_nil_actor(actor_id):
            cancel_task(core, task_id, force, recursive)
        else:
            _cancel_call(core, actor_id, task_id, recursive)
        core.perform_effects()
        core.reactor.flush()


def cancel_task(core: CoreWorker, task_id: TaskId, force: bool, recursive: bool) -> None:
    """A task of ours: queued here, waiting for arguments, or at a worker. Under the lock."""
    pending = core.submission.tasks.get(task_id)
    if pending is None:
        return
    pending.retries_left = 0
    if pending.unresolved or core.tasks.remove(pending):
        pending.cancelled = True
        core.submission.fail(pending, TaskCancelledError(task_id.hex()))
        return
    for state in core.tasks.keys.values():
        for worker in state.workers:
            if any(flying is pending for flying in worker.in_flight.values()):
                worker.link.send(CancelTask(task_id, force, recursive))


def _cancel_call(core: CoreWorker, actor_id: ActorId, task_id: TaskId, recursive: bool) -> None:
    link = core.actors.links.get(actor_id)
    if link is None:
        return
    waiting: list[Pending] = [call for call in link.queue if call.message.task_id == task_id]
    for call in waiting:
        link.remove(call)
        core.submission.fail(call, TaskCancelledError(task_id.hex()))
    core.actors.settle(link)
    for call in link.in_flight.values():
        if call.message.task_id == task_id:
            call.retries_left = 0
    if not waiting and isinstance(link.link, Peer):
        link.link.send(CancelTask(task_id, False, recursive))
