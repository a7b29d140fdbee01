"""How submitted work ends: its results get their values, who waits is told, what it held is let go."""

from __future__ import annotations

from typing import Any

from beamlet.base.ids import FunctionKey, ObjectId, TaskId, return_id
from beamlet.core_worker.owning.borrowing import Guard, ResultsGuard
from beamlet.core_worker.owning.object_record import FREED, PENDING, STORED, ObjectRecord
from beamlet.core_worker.owning.objects import ObjectAccess
from beamlet.core_worker.owning.own_slab import OwnSlab, Place
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.streams import Stream, Streams
from beamlet.core_worker.owning.unseen import UnseenErrors
from beamlet.core_worker.submitting.arguments import FailedArgument
from beamlet.core_worker.submitting.pending import Pending, PendingTask
from beamlet.exceptions import RaySystemError, TaskCancelledError
from beamlet.protocol.peer import InRoom, Results, StoredAt
from beamlet.serialization.remote_error import dump_made
from beamlet.serialization.values import contained_of, dump_error

#: What a generator task that ended well "returns".
_NONE = b"\x80\x05N."


class Outcomes:
    """Guarded by the core worker's lock."""

    def __init__(
        self,
        refs: ReferenceCounter,
        objects: ObjectAccess,
        streams: Streams,
        unseen: UnseenErrors,
        own: OwnSlab,
    ) -> None:
        self._refs = refs
        self._objects = objects
        self._streams = streams
        self._unseen = unseen
        self._own = own
        #: Of functions whose last result was worth a place in our slab: how large it was.
        self.result_sizes: dict[FunctionKey, int] = {}
        #: Unanswered tasks. Calls of actors are found through their links.
        self.tasks: dict[TaskId, PendingTask] = {}
        #: Where the items of generator tasks and calls go, while they are unanswered.
        self.streams: dict[TaskId, Stream] = {}

    def fail(self, work: Pending[Any], error: BaseException) -> None:
        """Every return value of ``work`` is this error of our own making. Told if nobody asks for it."""
        self.finish_with(work, dump_error(error), is_told=True)

    def finish_with(
        self, work: Pending[Any], payload: bytes, guard: Guard | None = None, is_told: bool = False
    ) -> None:
        """Every return value of ``work`` is this error; ``guard``: what its references came under.

        is_told: it is, if nobody asks for it.
        """
        contained = contained_of(payload)
        work.settled = True
        task_id = work.spec.task_id
        self.tasks.pop(task_id, None)
        stream = self.streams.get(task_id)
        last: dict[ObjectId, ObjectRecord] = {}
        if stream is not None:
            last = self._streams.end(stream, payload, contained, guard, work.spec.call_site)
        if is_told:
            self._keep_unseen(work, payload, last)
        self.streams.pop(task_id, None)
        for record in work.returns:
            if record.state == PENDING:
                self._refs.set_inline(record, payload, contained, guard)
                self._objects.notify(record)
        self._let_go(work)

    def cancel(self, work: Pending[Any]) -> None:
        """``cancel`` was asked for, and nothing runs any more."""
        self.finish_with(work, dump_made(TaskCancelledError, work.spec.task_id.hex()))

    def fail_for(self, work: Pending[Any], argument: FailedArgument) -> None:
        """It never runs: the error that one of its arguments is, is its result too."""
        guard = self._refs.guard_copies(argument.object_id) if argument.object_id is not None else None
        self.finish_with(work, argument.payload, guard, is_told=True)
        if guard is not None:
            self._refs.settle(guard)

    def lose_streams(self, error: BaseException) -> None:
        """Nobody will make their items any more: ``error`` is the last of each."""
        payload = dump_error(error)
        while self.streams:
            _, stream = self.streams.popitem()
            self._streams.end(stream, payload)

    def answered(self, work: Pending[Any], results: Results, guard: ResultsGuard) -> None:
        """The executor's answer is the outcome; if that cannot be, the outcome says so."""
        try:
            try:
                self._take(work, results, guard)
            finally:
                self._refs.settle(guard)
        except Exception as error:
            self.discard(work, results)
            reason = f"the answer of its worker could not be taken: {type(error).__name__}: {error}"
            self.fail(work, RaySystemError(f"{work.spec.name} has ended, but {reason}"))
            raise
        for record in work.returns:
            self._objects.notify(record)
        self._let_go(work)

    def discard(self, work: Pending[Any], results: Results) -> None:
        """What its worker stored for it and was not taken is nobody's."""
        for index, item in enumerate(results.items):
            is_taken = index < len(work.returns) and work.returns[index].state == STORED
            if type(item) is StoredAt and not is_taken:
                self._refs.discard_stored(return_id(work.spec.task_id, index + 1), item.node)

    def _take(self, work: Pending[Any], results: Results, guard: ResultsGuard) -> None:
        task_id = work.spec.task_id
        error = results.items[0] if results.failed else None
        assert error is None or isinstance(error, bytes), "errors are never stored"
        stream = self.streams.get(task_id)
        #: The item by which a generator's user sees its error.
        last: dict[ObjectId, ObjectRecord] = {}
        if stream is not None:
            inside = results.contained[0] if results.contained else ()
            last = self._streams.end(stream, error, inside, guard, work.returns[0].call_site)
            results.items = [error or _NONE]
        contained = results.contained or [[]] * len(results.items)
        if error is not None:
            self._keep_unseen(work, error, last)
            results.items = [error] * len(work.returns)
            contained = contained[:1] * len(work.returns)
        elif len(results.items) != len(work.returns):
            raise ValueError(f"{len(results.items)} values came for {len(work.returns)} results")
        for index, record in enumerate(work.returns):
            item = results.items[index]
            if record.state == FREED:
                if type(item) is StoredAt:
                    self._refs.discard_stored(return_id(task_id, index + 1), item.node)
            elif type(item) is StoredAt:
                self._refs.set_stored(record, (item.node,), item.size, contained[index], guard)
            elif type(item) is InRoom:
                self._refs.set_stored(
                    record, (), item.size, contained[index], guard, self._moved_in(work, item.size)
                )
            else:
                self._refs.set_inline(record, item, contained[index], guard)  # type: ignore[arg-type]
        self.streams.pop(task_id, None)

    def _keep_unseen(self, work: Pending[Any], error: bytes, last: dict[ObjectId, ObjectRecord]) -> None:
        """Its error is told if nobody asks for a result of it, and at once if it has none (num_returns=0)."""
        first = 0 if work.spec.task_id in self.streams else 1  # return 0 says that a generator is over
        ids = [return_id(work.spec.task_id, first + index) for index in range(max(1, len(work.returns)))]
        records = work.returns or [ObjectRecord(state=FREED, call_site=work.spec.call_site)]
        self._unseen.failed(work.spec.name, [*ids, *last], [*records, *last.values()], error)

    def _let_go(self, work: Pending[Any]) -> None:
        held, work.held = work.held, ()
        if held:
            self._refs.remove_submitted(held)
        if work.places:
            self.let_places_go(work)

    # -- places in our slab ----------------------------------------------------------------------

    def returned(
        self, work: Pending[Any], executor: bytes, size: int, sizes: dict[Any, int] | None = None
    ) -> None:
        """An attempt has ended: its executor uses nothing of ours any more. ``size``: of its stored result.

        The next call of its kind is given room for as much.
        """
        if work.places:
            self._own.answered(work.places, executor)
        if size or work.room is not None:
            kind = work.spec.method.name if sizes is not None else work.spec.template.function
            known = self.result_sizes if sizes is None else sizes
            if self._own.may_hold(size):
                known[kind] = size
            else:
                known.pop(kind, None)

    def let_places_go(self, work: Pending[Any]) -> None:
        places, work.places, work.room = work.places, None, None
        for place in places or ():
            self._own.let_go(place)

    def leave_room(self, work: Pending[Any]) -> None:
        """Its executor may live, and write its result there still: the next attempt must not use that room.

        Nobody does until the raylet says that the executor is dead.
        """
        room, work.room = work.room, None
        if room is not None and work.places is not None:
            work.places.remove(room)
            self._own.let_go(room)

    def _moved_in(self, work: Pending[Any], size: int) -> Place:
        """The room of ``work``, which belongs to its result from now on."""
        room, work.room = work.room, None
        if room is None or work.places is None:
            raise ValueError("its result is said to be in a room that it was not given")
        if not 0 < size <= room.size:
            raise ValueError(f"its result is said to be {size} bytes in a room of {room.size}")
        work.places.remove(room)
        return room
