"""How submitted work ends: its results get their values, who waits is told, what it held is let go."""

from __future__ import annotations

from typing import Any

from beamlet.base.ids import ObjectId, TaskId, return_id
from beamlet.core_worker.owning.borrowing import Guard, ResultsGuard
from beamlet.core_worker.owning.object_record import FREED, PENDING, ObjectRecord
from beamlet.core_worker.owning.objects import ObjectAccess
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.streams import Stream, Streams
from beamlet.core_worker.owning.unseen import UnseenErrors
from beamlet.core_worker.submitting.arguments import FailedArgument
from beamlet.core_worker.submitting.pending import Pending, PendingTask
from beamlet.exceptions import TaskCancelledError
from beamlet.protocol.peer import Results, StoredAt
from beamlet.serialization.remote_error import dump_made
from beamlet.serialization.values import contained_of, dump_error

#: What a generator task that ended well "returns".
_NONE = b"\x80\x05N."


class Outcomes:
    """Guarded by the core worker's lock."""

    def __init__(
        self, refs: ReferenceCounter, objects: ObjectAccess, streams: Streams, unseen: UnseenErrors
    ) -> None:
        self._refs = refs
        self._objects = objects
        self._streams = streams
        self._unseen = unseen
        #: Unanswered tasks. Calls of actors are found through their links.
        self.tasks: dict[TaskId, PendingTask] = {}
        #: Where the items of generator tasks and calls go, while they are unanswered.
        self.streams: dict[TaskId, Stream] = {}

    def fail(self, work: Pending[Any], error: BaseException) -> None:
        """Every return value of ``work`` is this error of our own making."""
        self.finish_with(work, dump_error(error))

    def finish_with(self, work: Pending[Any], payload: bytes, guard: Guard | None = None) -> None:
        """Every return value of ``work`` is this error; ``guard``: what its references came under."""
        contained = contained_of(payload)
        work.settled = True
        task_id = work.spec.task_id
        self.tasks.pop(task_id, None)
        for record in work.returns:
            if record.state == PENDING:
                self._refs.set_inline(record, payload, contained, guard)
                self._objects.notify(record)
        stream = self.streams.pop(task_id, None)
        if stream is not None:
            self._streams.end(stream, payload, contained, guard)
        self._let_go(work)

    def cancel(self, work: Pending[Any]) -> None:
        """``cancel`` was asked for, and nothing runs any more."""
        self.finish_with(work, dump_made(TaskCancelledError, work.spec.task_id.hex()))

    def fail_for(self, work: Pending[Any], argument: FailedArgument) -> None:
        """It never runs: the error that one of its arguments is, is its result too."""
        guard = self._refs.guard_copies(argument.object_id) if argument.object_id is not None else None
        self.finish_with(work, argument.payload, guard)
        if guard is not None:
            self._refs.settle(guard)

    def answered(self, work: Pending[Any], results: Results, guard: ResultsGuard) -> None:
        """The executor's answer is the outcome."""
        task_id = work.spec.task_id
        error = results.items[0] if results.failed else None
        assert error is None or isinstance(error, bytes), "errors are never stored"
        stream = self.streams.pop(task_id, None)
        #: The item by which a generator's user sees its error.
        last: dict[ObjectId, ObjectRecord] = {}
        if stream is not None:
            inside = results.contained[0] if results.contained else ()
            last = self._streams.end(stream, error, inside, guard, work.returns[0].call_site)
            results.items = [error or _NONE]
        if error is not None:
            first = 0 if stream is not None else 1  # return 0 says that a generator is over
            ids = [return_id(task_id, first + index) for index in range(len(work.returns))]
            self._unseen.failed(work.spec.name, [*ids, *last], [*work.returns, *last.values()], error)
        contained = results.contained or [[]] * len(results.items)
        for index, item in enumerate(results.items):
            record = work.returns[index]
            if record.state == FREED:
                if type(item) is StoredAt:
                    self._refs.discard_stored(return_id(task_id, index + 1), item.node)
            elif type(item) is StoredAt:
                self._refs.set_stored(record, (item.node,), item.size, contained[index], guard)
            else:
                self._refs.set_inline(record, item, contained[index], guard)  # type: ignore[arg-type]
        self._refs.settle(guard)
        for record in work.returns:
            self._objects.notify(record)
        self._let_go(work)

    def _let_go(self, work: Pending[Any]) -> None:
        held, work.held = work.held, ()
        if held:
            self._refs.remove_submitted(held)
