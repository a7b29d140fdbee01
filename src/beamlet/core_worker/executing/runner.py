"""Running one task or one actor call: arguments in, user code, results or an error out.

The common case (plain arguments, a small result, nothing printed) goes straight through; everything else,
references, large values, several results, takes the general path below it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from threading import get_ident
from time import time_ns
from typing import Any

from beamlet.base.class_names import class_names
from beamlet.base.ids import NodeId, ObjectId, return_id
from beamlet.core_worker.context import TaskContext, current_task
from beamlet.core_worker.executing.answers import Answers
from beamlet.core_worker.executing.breakpoints import explain_quit
from beamlet.core_worker.executing.devices import show_devices
from beamlet.core_worker.executing.in_place import Lending
from beamlet.core_worker.executing.interruptible import interruptible, interruptible_items
from beamlet.core_worker.executing.output import Output
from beamlet.core_worker.executing.producers import Producers
from beamlet.core_worker.executing.several_results import values_of
from beamlet.core_worker.executing.work import Work
from beamlet.core_worker.functions import FunctionTable
from beamlet.core_worker.owning.borrowing import ArgumentsGuard
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.core_worker.owning.store_client import StoreClient
from beamlet.core_worker.owning.streams import DYNAMIC, DynamicObjectRefGenerator
from beamlet.core_worker.peers import Peer, PeerTable
from beamlet.core_worker.task_events import TaskEventBuffer
from beamlet.exceptions import RayTaskError, TaskCancelledError, UserCodeException
from beamlet.object_store.views import LentView
from beamlet.protocol.message import ContainedRef
from beamlet.protocol.peer import (
    CallActor,
    InlineDep,
    InPlace,
    InRoom,
    PushTask,
    Result,
    Results,
    StoredAt,
    StoreDep,
    Yielded,
)
from beamlet.rpc.turns import SharedReactor
from beamlet.serialization.arguments import NO_ARGUMENTS, fill, is_one_slot, split
from beamlet.serialization.remote_error import capture
from beamlet.serialization.unpicklable import explain_unpicklable
from beamlet.serialization.values import (
    INLINE_MAX_BYTES,
    PICKLE_MARK,
    Serialized,
    dumps,
    loads_plain,
    pack,
    rebuild,
    rebuild_packed,
    serialize_error,
    unpack,
)

_NO_KWARGS: dict[str, Any] = {}


class ActorExit(BaseException):
    """Raised by ``exit_actor()`` in a method: the actor ends, on purpose."""


class Runner:
    """Runs work for one core worker, in any of its threads. ``put``: as in the public API."""

    def __init__(
        self,
        *,
        reactor: SharedReactor,
        node_id: NodeId,
        node_ip: str,
        functions: FunctionTable,
        store: StoreClient,
        refs: ReferenceCounter,
        releases: Releases,
        work: Work,
        answers: Answers,
        peers: PeerTable,
        producers: Producers,
        lending: Lending,
        output: Output,
        events: TaskEventBuffer,
        put: Callable[[Any], Any],
    ) -> None:
        self._reactor = reactor
        self._lock = reactor.lock
        self._node_id = node_id
        self._node_ip = node_ip
        self._functions = functions
        self._store = store
        self._refs = refs
        self._releases = releases
        self._running = work.running
        self._cancelled_early = work.cancelled_early
        self.answers = answers
        self.peers = peers
        self.producers = producers
        self.lending = lending
        self._output = output
        self._put = put
        #: Finished runs by function, where max_calls limits them.
        self._runs: dict[bytes, int] = {}
        #: Shown in errors of actor methods.
        self.actor_repr: str | None = None
        self.actor_id: str | None = None
        self.note = events.note

    # -- tasks -----------------------------------------------------------------------------------

    def run_task(self, sender: Peer, task: PushTask) -> None:
        """Run a function and answer ``sender``."""
        name = task.name
        context = TaskContext(task.task_id, name, name, task.resources, task.attempt, get_ident(), sender)
        token = current_task.set(context)
        running = self._running
        running[task.task_id] = context
        if task.accelerators:
            show_devices(task.accelerators)
        started = time_ns()
        try:
            if self._cancelled_early:
                self._raise_if_cancelled(context)
            function = self._functions.loaded.get(task.function)
            if function is None:
                function = interruptible(self._functions.fetch(task.function, None))
                self._functions.loaded[task.function] = function
            args, kwargs = self.arguments(task, context)
            result = [function(*args, **kwargs)]
            del args, kwargs
            if task.num_returns < 0:
                result = [self.consume(sender, task, result.pop(), context)]
        except BaseException as error:
            self.note(task.task_id, task.name, started, time_ns(), True)
            del running[task.task_id]
            self.answer_error(sender, task, context, error)
        else:
            ended = time_ns()
            self.note(task.task_id, task.name, started, ended, False)
            del running[task.task_id]
            self.answer(sender, task, context, result, max(0, ended - started) // 1000)
        finally:
            if context.in_place is not None:
                self.lending.end(context)
            current_task.reset(token)

    def run_call(self, sender: Peer, call: CallActor, method: Any, shown_as: str) -> None:
        """Run an actor's method and answer ``sender``."""
        context = TaskContext(
            call.task_id, call.name or shown_as, shown_as, None, call.attempt, get_ident(), sender
        )
        token = current_task.set(context)
        running = self._running
        running[call.task_id] = context
        started = time_ns()
        try:
            if self._cancelled_early:
                self._raise_if_cancelled(context)
            args, kwargs = self.arguments(call, context)
            result = [method(*args, **kwargs)]
            del args, kwargs
            if call.num_returns < 0:
                result = [self.consume(sender, call, result.pop(), context)]
        except BaseException as error:
            self.note(call.task_id, shown_as, started, time_ns(), True)
            del running[call.task_id]
            self.answer_error(sender, call, context, error)
        else:
            self.note(call.task_id, shown_as, started, time_ns(), False)
            del running[call.task_id]
            self.answer(sender, call, context, result, 0)
        finally:
            if context.in_place is not None:
                self.lending.end(context)
            current_task.reset(token)

    def _raise_if_cancelled(self, context: TaskContext) -> None:
        """It was cancelled between leaving its queue and beginning."""
        with self._lock:
            if context.task_id in self._cancelled_early:
                del self._cancelled_early[context.task_id]
                raise TaskCancelledError(context.task_id.hex())

    # -- arguments -------------------------------------------------------------------------------

    def arguments(
        self, work: PushTask | CallActor, context: TaskContext
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Decode; ``context.guard`` is there if references may have come along."""
        payload = work.args
        if payload == NO_ARGUMENTS:
            return (), _NO_KWARGS
        if payload[0] == PICKLE_MARK and not work.deps:
            value = loads_plain(payload)
            if type(value) is tuple:
                return value, _NO_KWARGS
            return tuple(value[0]), value[1]
        if not work.nested and _all_plain(payload, work.deps):
            values = [loads_plain(dep.payload) for dep in work.deps]  # type: ignore[union-attr]
            return fill(*split(loads_plain(payload)), values)
        context.guard = self.new_guard(work.nested)
        if any(type(dep) is InPlace for dep in work.deps):
            self.lending.begin(context)
        return self.decode(payload, work.deps, context.guard, context.in_place)

    def new_guard(self, nested: Sequence[ContainedRef]) -> ArgumentsGuard:
        with self._reactor.bare_lock:
            return ArgumentsGuard(self.answers.next_name(), [ObjectId(ref[0]) for ref in nested])

    def decode(
        self,
        payload: bytes,
        deps: Sequence[InlineDep | StoreDep | InPlace],
        guard: ArgumentsGuard,
        lent: list[LentView] | None = None,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments with their dependencies filled in; what they refer to is counted under ``guard``."""
        if is_one_slot(payload):
            return (self._dependency(deps[0], guard, lent),), {}
        args, kwargs = split(self._rebuild(payload, guard) if payload else ())
        if deps:
            values = [self._dependency(dep, guard, lent) for dep in deps]
            args, kwargs = fill(args, kwargs, values)
        return args, kwargs

    def _rebuild(self, payload: bytes, guard: ArgumentsGuard) -> Any:
        if payload[0] == PICKLE_MARK:
            return loads_plain(payload)
        packed = unpack(payload)
        self._count(packed.contained, guard)
        return rebuild_packed(packed)

    def _dependency(
        self, dep: InlineDep | StoreDep | InPlace, guard: ArgumentsGuard, lent: list[LentView] | None
    ) -> Any:
        if isinstance(dep, InlineDep):
            return self._rebuild(dep.payload, guard)
        if isinstance(dep, InPlace):
            assert lent is not None
            stored = self._store.read_lent(dep.offset, dep.size, lent)
        else:
            stored = self._store.read(dep.object_id, dep.owner, dep.nodes)
        self._count(stored.contained, guard)
        return rebuild(stored.kind, stored.inband, stored.buffers, stored.contained)

    def _count(self, contained: list[ContainedRef], guard: ArgumentsGuard) -> None:
        if contained:
            with self._lock:
                self._refs.found_in_arguments(guard, contained)
                self._releases.perform()

    # -- answers ---------------------------------------------------------------------------------

    def answer(
        self,
        sender: Peer,
        work: PushTask | CallActor,
        context: TaskContext,
        result: list[Any],
        busy_us: int,
    ) -> None:
        """Send the value, or why it cannot be sent.

        ``result`` is emptied: nobody else may keep the value alive, or the references in it count as kept.
        """
        value, guard = result.pop(), context.guard
        try:
            if work.num_returns == 1:
                data = dumps(value)
                if (
                    type(data) is bytes
                    and guard is None
                    and not self._output.printed
                    and not (type(work) is PushTask and work.max_calls)
                ):
                    self.answers.send(sender, Result(work.seq, data, busy_us))
                    return
                parts = [data]
                del data
            else:
                # Taking them may run a generator of the user's: what it raises is not about pickling.
                whole, value = value, None
                value = values_of(work, whole)
                del whole
                parts = [dumps(part) for part in value]
            message = self._results(sender, work, parts, guard)
        except BaseException as error:
            self.answer_error(sender, work, context, explained(error, value, context.name))
            return
        message.busy_us = busy_us
        del value, parts
        if context.in_place is not None:
            self.lending.end(context)
        self.answers.send_when_safe(sender, message, guard, self._output.take_printed())

    def _results(
        self,
        sender: Peer,
        work: PushTask | CallActor,
        parts: list[bytes | Serialized],
        guard: ArgumentsGuard | None,
    ) -> Results:
        """The general answer: large parts are stored, references inside are held for the receiver."""
        items: list[bytes | StoredAt | InRoom] = []
        contained: list[list[ContainedRef]] = []
        # What is sealed stays: of several, none is before all are written.
        unsealed: list[ObjectId] | None = [] if len(parts) > 1 else None
        try:
            for index, part in enumerate(parts, 1):
                placed = self.lending.write_in_room(sender, work.room, part) if work.room else None
                items.append(placed or self._item(sender, work, index, part, unsealed))
                contained.append([] if isinstance(part, bytes) else part.contained)
        except BaseException:
            if unsealed:
                with self._lock:
                    self._store.abort(unsealed)
            raise
        if unsealed:
            with self._lock:
                self._store.seal(unsealed)
        message = Results(work.seq, items)
        message.leaving = self._is_worn_out(work)
        if any(contained):
            with self._lock:
                every = [ref for refs in contained for ref in refs]
                message.contained = contained
                message.hold = self._hold(sender, every, guard)
        return message

    def _hold(self, caller: Peer, refs: Iterable[ContainedRef], guard: ArgumentsGuard | None) -> int:
        """What results refer to stays until the caller has it; under the lock. The dead will never say so."""
        return 0 if caller.gone else self._refs.hold_results(caller.address, refs, guard)

    def _item(
        self,
        sender: Peer,
        work: PushTask | CallActor,
        index: int,
        part: bytes | Serialized,
        unsealed: list[ObjectId] | None = None,
    ) -> bytes | StoredAt:
        """A value as it travels: inline, or stored here on behalf of its owner. unsealed: see ``write``."""
        if isinstance(part, bytes):
            return part
        if part.total_bytes <= INLINE_MAX_BYTES:
            return pack(part)
        object_id = return_id(work.task_id, index)
        size = self._store.write(object_id, part, f"result of {work.name}", sender.address, unsealed)
        return StoredAt(self._node_id, size)

    # -- generators ------------------------------------------------------------------------------

    def consume(
        self, sender: Peer, work: PushTask | CallActor, values: Any, context: TaskContext
    ) -> DynamicObjectRefGenerator | None:
        """Run a generator to its end, sending each item; or collect references, in Ray's older form."""
        if work.num_returns == DYNAMIC:
            return DynamicObjectRefGenerator([self._put(value) for value in interruptible_items(values)])
        producer = self.producers.begin(work, sender)
        try:
            for index, value in enumerate(interruptible_items(values), 1):
                self.send_item(sender, work, index, value, context)
                if self.peers.full:
                    self.peers.wait_for_room(sender)
                if work.stream_limit > 0:
                    self.producers.wait(producer, index - work.stream_limit + 1)
                if producer.is_dropped:
                    if isinstance(values, Generator):
                        values.close()
                    break
        finally:
            self.producers.end(work.task_id)
        if context.cancelled:
            raise TaskCancelledError(work.task_id.hex())
        return None

    def send_item(
        self, sender: Peer, work: PushTask | CallActor, index: int, value: Any, context: TaskContext
    ) -> None:
        """One item of a generator. Raises what its pickling raises."""
        try:
            part = dumps(value)
        except Exception as error:
            raise explained(error, value, context.name) from None
        message = Yielded(work.seq, index, self._item(sender, work, index, part))
        with self._lock:
            if not isinstance(part, bytes) and part.contained:
                message.contained = part.contained
                message.hold = self._hold(sender, part.contained, context.guard)
            sender.send(message)
            # Always at once: nobody knows how long the next item takes.
            self._reactor.flush()

    def _is_worn_out(self, work: PushTask | CallActor) -> bool:
        """Whether this was the last run that max_calls allows."""
        if type(work) is not PushTask or not work.max_calls:
            return False
        runs = self._runs[work.function] = self._runs.get(work.function, 0) + 1
        return runs >= work.max_calls

    def answer_error(
        self, sender: Peer, work: PushTask | CallActor, context: TaskContext, error: BaseException
    ) -> None:
        """Send what user code raised; every return value is that error."""
        if isinstance(error, ActorExit) or (isinstance(error, SystemExit) and not context.cancelled):
            raise error  # the process ends, and what ends it is not for the caller to catch
        part = self.error_part(context, error)
        types = class_names(type(retried_for(error)))
        message = Results(work.seq, [pack(part)], failed=True, error_types=types)
        message.leaving = self._is_worn_out(work)
        if part.contained:
            with self._lock:
                message.contained = [part.contained]
                message.hold = self._hold(sender, part.contained, context.guard)
        BaseException.with_traceback(error, None)  # past any __setattr__ of the class's own
        if context.in_place is not None:
            self.lending.end(context)
        self.answers.send_when_safe(sender, message, context.guard, self._output.take_printed())

    def error_part(self, context: TaskContext, error: BaseException) -> Serialized:
        if context.cancelled and isinstance(error, KeyboardInterrupt | SystemExit):
            return serialize_error(TaskCancelledError(context.task_id.hex()))
        if isinstance(error, TaskCancelledError):
            return serialize_error(error)
        return serialize_error(self.captured(context, error))

    def captured(self, context: TaskContext, error: BaseException) -> RayTaskError:
        """What user code raised, as it travels."""
        explain_quit(error)
        return capture(
            error,
            function_name=context.function_name,
            pid=os.getpid(),
            ip=self._node_ip,
            actor_repr=self.actor_repr,
            actor_id=self.actor_id,
        )


def retried_for(error: BaseException) -> BaseException:
    """The error that ``retry_exceptions`` looks at: what came out of a nested ``get`` counts as its cause."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, UserCodeException) and cause.__cause__ is not None:
        return cause.__cause__
    return cause


def _all_plain(payload: bytes, deps: Sequence[InlineDep | StoreDep | InPlace]) -> bool:
    """No references, buffers or stored values anywhere: nothing to count, nothing to fetch."""
    return payload[0] == PICKLE_MARK and all(
        type(dep) is InlineDep and dep.payload[0] == PICKLE_MARK for dep in deps
    )


def explained(error: BaseException, value: Any, name: str) -> BaseException:
    """The error of a result that could not be sent, with the path to what is to blame if that is pickling."""
    try:
        explain_unpicklable(error, (value,), {}, name, result=True)
    except TypeError as better:
        return better.with_traceback(None)  # our frames would be all of it
    return error
