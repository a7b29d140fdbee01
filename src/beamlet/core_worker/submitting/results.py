"""Answers on their way in: which task or call a message answers, and whether that is run again."""

from __future__ import annotations

from beamlet.base.class_names import is_worth_retrying
from beamlet.base.ids import ObjectId, actor_of_task, is_nil_actor, task_of_object
from beamlet.core_worker.owning.borrowing import ResultsGuard
from beamlet.core_worker.owning.object_record import FREED, INLINE, PENDING
from beamlet.core_worker.owning.objects import ObjectAccess
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.streams import Streams
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.submitting.actors import ActorAccess
from beamlet.core_worker.submitting.leases import Leases
from beamlet.core_worker.submitting.outcomes import Outcomes
from beamlet.core_worker.submitting.pending import PendingCall, PendingTask
from beamlet.exceptions import RaySystemError
from beamlet.protocol.node import StoredByDead
from beamlet.protocol.peer import Result, Results, Yielded


class ResultTaker:
    """Handlers run under the core worker's lock."""

    def __init__(
        self,
        refs: ReferenceCounter,
        objects: ObjectAccess,
        streams: Streams,
        outcomes: Outcomes,
        leases: Leases,
        actors: ActorAccess,
    ) -> None:
        self._refs = refs
        self._objects = objects
        self._streams = streams
        self._outcomes = outcomes
        self._tasks = outcomes.tasks
        self._leases = leases
        self._submitter = leases.submitter
        self._actors = actors

    def take_result(self, sender: Peer, result: Result) -> None:
        """The common answer: one small value."""
        link, worker = sender.actor, sender.leased
        work: PendingTask | PendingCall | None
        if link is not None:
            work = link.in_flight.pop(result.seq, None)  # as ``answered`` does
        elif worker is not None:
            work = self._submitter.take_result(worker, result.seq, result.busy_us)
            if work is not None:
                self._tasks.pop(work.spec.task_id, None)
        else:
            work = None
        if work is None:
            return
        try:
            record = work.returns[0]
            if record.state != FREED:
                record.payload = result.payload
                record.state = INLINE
                if record.waiters is not None:
                    self._objects.notify(record)
            if work.held:
                self._refs.remove_submitted(work.held)
            if work.places:
                self._outcomes.returned(work, sender.address, 0, link.result_sizes if link else None)
                self._outcomes.let_places_go(work)
        except Exception as error:
            self._fail(work, error)
            raise
        if link is not None and not link.in_flight and not link.queue:
            self._actors.settle(link)

    def untaken(self, sender: Peer, answer: Result | Results, error: Exception) -> None:
        """The handler of an answer raised before it took it: whoever waits for it is told."""
        link = sender.actor
        if link is not None:
            work: PendingTask | PendingCall | None = link.answered(answer.seq)
        else:
            work = self._task_answered(sender, answer.seq, 0)
        if work is not None:
            self._outcomes.returned(work, sender.address, 0, link.result_sizes if link else None)
            if type(answer) is Results:
                self._outcomes.discard(work, answer)
                self._refs.settle(ResultsGuard(sender.address, answer.hold))
            self._fail(work, error)
            if link is not None:
                self._actors.settle(link)

    def _fail(self, work: PendingTask | PendingCall, error: Exception) -> None:
        reason = f"the answer of its worker could not be taken: {type(error).__name__}: {error}"
        self._outcomes.fail(work, RaySystemError(f"{work.spec.name} has ended, but {reason}"))

    def _task_answered(self, sender: Peer, seq: int, busy_us: int) -> PendingTask | None:
        worker = sender.leased
        if worker is None:
            return None
        task = self._submitter.take_result(worker, seq, busy_us)
        if task is not None:
            self._tasks.pop(task.spec.task_id, None)
        return task

    def take_results(self, sender: Peer, results: Results) -> None:
        """The general answer."""
        guard = ResultsGuard(sender.address, results.hold)
        link, worker = sender.actor, sender.leased
        if link is not None:
            call = link.answered(results.seq)
            if call is not None:
                self._outcomes.returned(call, sender.address, _size_of(results), link.result_sizes)
            if call is not None and not _is_retried(call, results):
                self._outcomes.answered(call, results, guard)
                self._actors.settle(link)
                return
            self._refs.settle(guard)  # nobody will see this answer, or what it refers to
            if call is not None:
                link.send_again(call)
        elif worker is not None:
            worker.leaving = worker.leaving or results.leaving
            task = self._task_answered(sender, results.seq, results.busy_us)
            if task is not None:
                self._outcomes.returned(task, sender.address, _size_of(results))
            if task is not None and not _is_retried(task, results):
                self._outcomes.answered(task, results, guard)
                return
            self._refs.settle(guard)
            if task is not None:
                self._leases.run_again(task)
        else:
            self._refs.settle(guard)

    def take_yield(self, sender: Peer, message: Yielded) -> None:
        """An item of a generator that goes on."""
        link, worker = sender.actor, sender.leased
        work: PendingTask | PendingCall | None = None
        if link is not None:
            work = link.in_flight.get(message.seq)
        elif worker is not None:
            work = worker.in_flight.get(message.seq)
        stream = self._outcomes.streams.get(work.spec.task_id) if work is not None else None
        if work is not None and stream is not None:
            self._streams.take(sender, stream, message, work.attempt)
        else:
            self._refs.settle(ResultsGuard(sender.address, message.hold))

    def stored_by_dead(self, message: StoredByDead) -> None:
        """What a dead process stored for us: it may have died before it could say so."""
        for object_id in message.object_ids:
            stream = self._outcomes.streams.get(task_of_object(object_id))
            if stream is not None:
                self._streams.stored_by_dead(stream, object_id, message.node)
            elif self._is_asked_again(object_id):
                self._refs.discard_stored(object_id, message.node)
            else:
                self._refs.stored_by_dead(object_id, message.node)

    def _is_asked_again(self, object_id: ObjectId) -> bool:
        """Whether it is a call's that nobody answered: of the actor's next process we hear only later, and
        what the dead one made must not pass for what that will make. (Of tasks: ``Leases.worker_lost``.)"""
        record = self._refs.objects.get(object_id)
        is_promised = record is not None and record.state == PENDING
        return is_promised and not is_nil_actor(actor_of_task(task_of_object(object_id)))


def _size_of(results: Results) -> int:
    """Bytes of the one value that it carries, if that lies in shared memory."""
    item = results.items[0] if len(results.items) == 1 else b""
    return 0 if isinstance(item, bytes) else item.size


def _is_retried(work: PendingTask | PendingCall, results: Results) -> bool:
    """Whether a failed attempt is followed by another, which this uses up."""
    wanted = results.failed and work.retries_left and not work.unwanted
    if not wanted or not is_worth_retrying(work.spec.retry_exceptions, results.error_types):
        return False
    work.retries_left -= work.retries_left > 0
    return True
