"""Tasks and calls on their way out, answers on their way in.

``.remote()`` → arguments → dependencies resolved → submitter (task_submitter / actor_submitter) → a peer.
Answer → values set, waiters told, argument references let go; failure → retry or error value.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from beamlet.base.class_names import RetryRule, is_worth_retrying
from beamlet.base.ids import FIRST_RETURN, Address, FunctionKey, ObjectId, TaskId, return_id
from beamlet.core_worker.owning.borrowing import Guard, ResultsGuard
from beamlet.core_worker.owning.object_record import FREED, INLINE, PENDING, STORED, ObjectRecord
from beamlet.core_worker.owning.streams import DYNAMIC, STREAMING, Stream
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.submitting.actor_submitter import ActorLink
from beamlet.core_worker.submitting.pending import Pending
from beamlet.core_worker.submitting.task_submitter import SchedulingKey
from beamlet.exceptions import CallSite
from beamlet.protocol.message import ContainedRef
from beamlet.protocol.peer import CallActor, InlineDep, PushTask, Result, Results, StoredAt, StoreDep, Yielded
from beamlet.serialization.arguments import NO_ARGUMENTS, Slot, dumps_plain, serialize_arguments
from beamlet.serialization.refs import released
from beamlet.serialization.unpicklable import explain_unpicklable
from beamlet.serialization.values import (
    INLINE_MAX_BYTES,
    Serialized,
    contained_of,
    dump_error,
    dumps,
    is_error,
    pack,
)

if TYPE_CHECKING:
    from beamlet.core_worker.core_worker import CoreWorker

#: Messages queued on one connection before ``.remote()`` itself sends them.
_FLUSH_COUNT = 64
#: A connection that sent nothing for this long is written at once: nobody else is about to.
_FLUSH_QUIET_S = 100e-6
#: ``.remote()`` waits while a worker leaves this much unread: a slow reader slows its writer.
_BACKLOG_MAX_BYTES = 64 << 20
#: Dropped references are collected before they are counted down, so that counting is paid per batch.
_RELEASE_BATCH = 128


#: What a generator task that ended well "returns".
_NONE = pickle.dumps(None, 5)


#: Stands in a message for a dependency that is still awaited.
_UNRESOLVED = InlineDep(b"")


class TaskTemplate(msgspec.Struct):
    """What all calls of one remote function with the same options have in common."""

    function: FunctionKey
    name: str
    num_returns: int
    key: SchedulingKey
    resources: dict[str, int]
    max_retries: int
    retry_exceptions: RetryRule
    #: The worker is replaced after this many runs of the function; 0: never.
    max_calls: int = 0
    #: Generators: most items yielded and not consumed; negative: no limit.
    stream_limit: int = -1
    #: Names of the positional parameters, for messages.
    parameters: tuple[str, ...] = ()


class MethodTemplate(msgspec.Struct):
    """What all calls of one actor method with the same options have in common."""

    name: str
    num_returns: int
    max_task_retries: int
    retry_exceptions: RetryRule = False
    group: str = ""
    shown_as: str = ""
    stream_limit: int = -1
    parameters: tuple[str, ...] = ()


class Prepared(msgspec.Struct):
    """Arguments ready to travel, but for dependencies still to be filled in."""

    payload: bytes
    #: Top-level references, by slot; alive as long as this.
    deps: list[Any] = []
    nested: list[ContainedRef] = []
    #: References made here for large arguments; they live until the task is submitted.
    temporary: list[Any] = []


class Submission:
    """Everything a core worker asked others to do."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self._refs = core.refs
        self._make_ref = core.make_ref
        #: Unanswered tasks by id, for cancel. Calls of actors are found through their links.
        self.tasks: dict[TaskId, Pending] = {}

    # -- out -------------------------------------------------------------------------------------

    def submit_task(
        self,
        template: TaskTemplate,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        call_site: CallSite | None = None,
    ) -> Any:
        """Have a function run somewhere; its reference(s): one, a list, or None for num_returns 0."""
        prepared = self.prepare(args, kwargs, template.name, template.parameters)
        core = self._core
        with core.lock:
            if len(released) > _RELEASE_BATCH:
                core.drain_released()
            context = core.context()
            task_id = context.children.next_task()
            message = PushTask(
                0, task_id, template.function, template.name, template.num_returns, prepared.payload
            )
            message.resources = template.resources
            if template.max_calls:
                message.max_calls = template.max_calls
            refs, returns = self._new_returns(task_id, template.num_returns, call_site)
            pending = Pending(
                message, returns, (), template.max_retries, template.retry_exceptions, template.key
            )
            if template.num_returns == STREAMING:
                message.stream_limit = template.stream_limit
                pending.stream, refs = self._new_stream(task_id, template.stream_limit, refs)
            pending.call_site = call_site
            pending.parent = context.task_id
            self.tasks[task_id] = pending
            if prepared.deps or prepared.nested:
                self.hold(pending, prepared)
            if not pending.unresolved and not pending.cancelled:
                self._push_task(pending)
        return refs

    def _push_task(self, pending: Pending) -> None:
        worker = self._core.tasks.submit(pending)
        if worker is not None:
            self._flush_soon(worker.link)  # type: ignore[arg-type]

    def submit_call(
        self,
        link: ActorLink,
        method: MethodTemplate,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        call_site: CallSite | None = None,
    ) -> Any:
        """Have an actor's method run; as ``submit_task``."""
        payload = NO_ARGUMENTS
        prepared: Prepared | None = None
        if args or kwargs:
            plain = dumps_plain(args, kwargs)
            if plain is None:
                name = method.shown_as or f"{link.name}.{method.name}"
                prepared = self.prepare(args, kwargs, name, method.parameters)
                payload = prepared.payload
            else:
                payload = plain
        core = self._core
        with core.lock:
            if len(released) > _RELEASE_BATCH:
                core.drain_released()
            task_id = core.context().children.next_call(link.actor_id)
            message = CallActor(0, task_id, method.name, method.num_returns, payload)
            if method.group:
                message.group = method.group
            if method.num_returns == 1:
                object_id = ObjectId(task_id + FIRST_RETURN)
                record = self._refs.new_owned(object_id)
                record.call_site = call_site
                returns: Sequence[ObjectRecord] = (record,)
                refs: Any = self._make_ref(object_id, core.address)
            else:
                refs, returns = self._new_returns(task_id, method.num_returns, call_site)
            pending = Pending(message, returns, (), method.max_task_retries, method.retry_exceptions, link)
            if method.num_returns == STREAMING:
                message.stream_limit = method.stream_limit
                pending.stream, refs = self._new_stream(task_id, method.stream_limit, refs)
            if prepared is not None and (prepared.deps or prepared.nested):
                self.hold(pending, prepared)
            if not link.holds_handle:
                core.actors.hold_handle(link)
            if pending.cancelled:
                pass  # an argument is an error already: its result is on the way
            elif not link.submit(pending):
                core.actors.fail_dead(link, [pending])
            elif link.link is not None:
                self._flush_soon(link.link)  # type: ignore[arg-type]
        return refs

    def _new_returns(
        self, task_id: TaskId, count: int, call_site: CallSite | None
    ) -> tuple[Any, Sequence[ObjectRecord]]:
        refs, records = [], []
        indices = range(1, count + 1)
        if count == STREAMING:  # the items come later; this one says that it is over
            indices = range(1)
        elif count == DYNAMIC:
            indices = range(1, 2)
        for index in indices:
            object_id = return_id(task_id, index)
            record = self._refs.new_owned(object_id)
            record.call_site = call_site
            records.append(record)
            refs.append(self._make_ref(object_id, self._core.address))
        return (refs[0] if len(refs) == 1 and count <= 1 else refs if count else None), records

    def _new_stream(self, task_id: TaskId, limit: int, completion: Any) -> tuple[Stream, Any]:
        stream = Stream(task_id, limit)
        return stream, self._core.make_generator(self._core.streams, stream, completion)

    def _flush_soon(self, peer: Peer) -> None:
        """Write now if the line was quiet or much is queued; else leave it to whoever waits next."""
        connection = peer.connection
        if connection is None:
            return
        if connection.queued_count >= _FLUSH_COUNT or monotonic() - connection.last_flush > _FLUSH_QUIET_S:
            connection.flush()
            if connection.has_backlog and connection.backlog_bytes > _BACKLOG_MAX_BYTES:
                self._core.wait_for_room(connection)
        else:
            self._core.reactor.ask_flush()

    # -- arguments -------------------------------------------------------------------------------

    def prepare(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, parameters: tuple[str, ...] = ()
    ) -> Prepared:
        """Serialize the arguments; without the lock, in the caller's thread."""
        if not args and not kwargs:
            return Prepared(NO_ARGUMENTS)
        payload = dumps_plain(args, kwargs)
        if payload is not None:
            return Prepared(payload)
        deps: list[Any] = []
        ref_type = self._make_ref

        def cut_out(value: Any) -> Any:
            if type(value) is ref_type:
                deps.append(value)
                return Slot(len(deps) - 1)
            return value

        args = tuple(cut_out(arg) for arg in args)
        kwargs = {key: cut_out(arg) for key, arg in kwargs.items()}
        payload = dumps_plain(args, kwargs) if deps else None
        if payload is not None:
            return Prepared(payload, deps)
        try:
            serialized = serialize_arguments(args, kwargs)
            temporary: list[Any] = []
            if serialized.total_bytes > INLINE_MAX_BYTES:
                args, kwargs = self._store_large(args, kwargs, cut_out, temporary, name)
                serialized = serialize_arguments(args, kwargs)
        except Exception as error:
            explain_unpicklable(error, args, kwargs, name, parameters)
            raise
        return Prepared(pack(serialized), deps, serialized.contained, temporary)

    def _store_large(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        cut_out: Callable[[Any], Any],
        temporary: list[Any],
        name: str,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace arguments too large for a message by references to stored copies."""

        def store_if_large(value: Any) -> Any:
            if type(value) is Slot:
                return value
            data = dumps(value)
            if type(data) is bytes and len(data) <= INLINE_MAX_BYTES // 8:
                return value
            if isinstance(data, Serialized) and data.total_bytes <= INLINE_MAX_BYTES // 8:
                return value
            self._core.advisor.large_argument(value, data, name)
            ref = self._core.put(value)
            temporary.append(ref)
            return cut_out(ref)

        return (
            tuple(store_if_large(arg) for arg in args),
            {key: store_if_large(arg) for key, arg in kwargs.items()},
        )

    def hold(self, pending: Pending, prepared: Prepared) -> None:
        """Count what the arguments refer to until the answer, and fill in what is known of it."""
        held = [ref._id for ref in prepared.deps]
        held += [ObjectId(object_id) for object_id, _ in prepared.nested]
        self._refs.add_submitted(held)
        pending.held = held
        message = pending.message
        message.nested = prepared.nested
        if prepared.deps:
            message.deps = [_UNRESOLVED] * len(prepared.deps)
            for slot, ref in enumerate(prepared.deps):
                self._resolve(pending, slot, ref._id)

    def _resolve(self, pending: Pending, slot: int, object_id: ObjectId) -> None:
        record = self._refs.objects[object_id]
        if record.state != PENDING:
            self._fill_in(pending, slot, object_id, record)
            return
        pending.unresolved += 1

        def ready(record: ObjectRecord) -> None:
            pending.unresolved -= 1
            self._fill_in(pending, slot, object_id, record)
            if not pending.unresolved and not pending.cancelled:
                self._resolved(pending)

        self._core.objects.when_ready(object_id, record, ready)

    def _fill_in(self, pending: Pending, slot: int, object_id: ObjectId, record: ObjectRecord) -> None:
        """Write the dependency into the message; a failed one fails the task with the original error."""
        owner = Address(record.owner) or self._core.address
        if record.state == INLINE:
            dep: InlineDep | StoreDep = InlineDep(record.payload)
            if is_error(record.payload):
                self._core.unseen.seen(object_id)
                self._fail_for_argument(pending, record.payload, object_id)
        elif record.state == STORED and record.node is not None:
            dep = StoreDep(object_id, owner, record.node)
        else:
            self._fail_for_argument(
                pending, dump_error(self._core.objects.decoder.loss_of(object_id, record))
            )
            return
        deps = pending.message.deps
        assert isinstance(deps, list), "hold() made it, so that it could be filled in"
        deps[slot] = dep

    def _fail_for_argument(self, pending: Pending, error: bytes, argument: ObjectId | None = None) -> None:
        """Its argument is an error: that is its result too. Deferred, because it is not submitted yet."""
        if pending.cancelled:
            return
        pending.cancelled = True
        self._core.reactor.call_soon(lambda: self._give_error(pending, error, argument))

    def _give_error(self, pending: Pending, error: bytes, argument: ObjectId | None) -> None:
        route = pending.route
        if isinstance(route, ActorLink):
            route.remove(pending)
            self._core.actors.settle(route)
        elif not isinstance(route, SchedulingKey):
            self._core.actors.argument_failed(pending, error)
        guard = self._refs.guard_copies(argument) if argument is not None else None
        self.finish_with(pending, error, guard)
        if guard is not None:
            self._refs.settle(guard)
            self._core.perform_effects()

    def _resolved(self, pending: Pending) -> None:
        route = pending.route
        if isinstance(route, ActorLink):
            route.drain()
        elif isinstance(route, SchedulingKey):
            self._push_task(pending)
        else:
            route(pending)

    # -- in --------------------------------------------------------------------------------------

    def take_result(self, peer: Peer, result: Result) -> None:
        """The common answer: one small value."""
        pending = self._pop(peer, result.seq, result.busy_us)
        if pending is None:
            return
        record = pending.returns[0]
        if record.state != FREED:
            record.payload = result.payload
            record.state = INLINE
            if record.waiters is not None:
                self._core.objects.notify(record)
        if pending.held:
            self._refs.remove_submitted(pending.held)
        link = peer.actor
        if link is not None and not link.in_flight and not link.queue:
            self._core.actors.settle(link)

    def _pop(self, peer: Peer, seq: int, busy_us: int) -> Pending | None:
        link = peer.actor
        if link is not None:
            return link.answered(seq)
        worker = peer.leased
        if worker is None:
            return None
        pending = self._core.tasks.take_result(worker, seq, busy_us)
        if pending is not None:
            self.tasks.pop(pending.message.task_id, None)
        return pending

    def take_results(self, peer: Peer, results: Results) -> None:
        """The general answer."""
        if results.leaving and peer.leased is not None:
            peer.leased.leaving = True
        pending = self._pop(peer, results.seq, results.busy_us)
        guard = ResultsGuard(peer.address, results.hold)
        if pending is None:
            self._refs.settle(guard)
            return
        if results.failed and self._worth_retrying(pending, results):
            self._refs.settle(guard)  # nobody will see this error, or what it refers to
            self._retry(pending)
            return
        error = results.items[0] if results.failed else None
        assert error is None or isinstance(error, bytes), "errors are never stored"
        last: dict[ObjectId, ObjectRecord] = {}
        if pending.stream is not None:
            inside = results.contained[0] if results.contained else ()
            last = self._core.streams.end(pending.stream, error, inside, guard, pending.returns[0].call_site)
            results.items = [error or _NONE]
        if error is not None:
            self._tell_if_unseen(pending, error, last)
        contained = results.contained or [[]] * len(results.items)
        for index, item in enumerate(results.items):
            record = pending.returns[index]
            if record.state == FREED:
                if type(item) is StoredAt:
                    object_id = return_id(pending.message.task_id, index + 1)
                    self._refs.discard_stored(object_id, item.node)
                continue
            if type(item) is StoredAt:
                self._refs.set_stored(record, item.node, item.size, contained[index], guard)
            else:
                self._refs.set_inline(record, item, contained[index], guard)  # type: ignore[arg-type]
        self._refs.settle(guard)
        for record in pending.returns:
            self._core.objects.notify(record)
        if pending.held:
            self._refs.remove_submitted(pending.held)
        link = peer.actor
        if link is not None and not link.in_flight and not link.queue:
            self._core.actors.settle(link)

    def _tell_if_unseen(self, pending: Pending, error: bytes, last: dict[ObjectId, ObjectRecord]) -> None:
        """``last``: the item by which a generator's user sees it; return 0 says that the task is over."""
        message = pending.message
        first = 0 if pending.stream is not None else 1
        ids = [return_id(message.task_id, first + index) for index in range(len(pending.returns))]
        name = message.name or getattr(message, "method", "a task")
        self._core.unseen.failed(name, [*ids, *last], [*pending.returns, *last.values()], error)

    def take_yield(self, peer: Peer, message: Yielded) -> None:
        """An item of a generator that goes on."""
        link, worker = peer.actor, peer.leased
        in_flight = link.in_flight if link is not None else worker.in_flight if worker is not None else {}
        pending = in_flight.get(message.seq)
        if pending is not None and pending.stream is not None:
            self._core.streams.take(peer, pending.stream, message)
        else:
            self._refs.settle(ResultsGuard(peer.address, message.hold))

    def _worth_retrying(self, pending: Pending, results: Results) -> bool:
        if not pending.retries_left or not pending.retry_exceptions or pending.cancelled:
            return False
        return is_worth_retrying(pending.retry_exceptions, results.error_types)

    def _retry(self, pending: Pending) -> None:
        pending.retries_left -= pending.retries_left > 0
        route = pending.route
        if isinstance(route, ActorLink):
            route.send_again(pending)
        else:
            pending.message.attempt += 1
            self.tasks[pending.message.task_id] = pending
            self._core.tasks.requeue([pending])

    # -- ends ------------------------------------------------------------------------------------

    def fail(self, pending: Pending, error: BaseException) -> None:
        self.finish_with(pending, dump_error(error))

    def finish_with(self, pending: Pending, payload: bytes, guard: Guard | None = None) -> None:
        """Every return value of ``pending`` is this error; ``guard``: what its references came under."""
        contained = contained_of(payload)
        self.tasks.pop(pending.message.task_id, None)
        for record in pending.returns:
            if record.state == PENDING:
                self._refs.set_inline(record, payload, contained, guard)
                self._core.objects.notify(record)
        if pending.stream is not None:
            self._core.streams.end(pending.stream, payload, contained, guard)
        held, pending.held = pending.held, ()
        if held:
            self._refs.remove_submitted(held)

    def crashed(self, tasks: list[Pending], error: Callable[[Pending], BaseException]) -> None:
        """The worker that had ``tasks`` (oldest first) died: only the first can have been running."""
        again: list[Pending] = []
        for position, task in enumerate(tasks):
            if task.cancelled:
                continue
            if position == 0:
                if not task.retries_left:
                    self.fail(task, error(task))
                    continue
                task.retries_left -= task.retries_left > 0
                task.message.attempt += 1
            again.append(task)
        self._core.tasks.requeue(again)
