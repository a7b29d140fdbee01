"""Arguments on their way out: made into bytes, counted, completed by values still awaited."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from beamlet.base.ids import Address, ObjectId
from beamlet.core_worker.habits import Advisor, NoAdvisor
from beamlet.core_worker.owning.object_record import INLINE, PENDING, STORED, ObjectRecord
from beamlet.core_worker.owning.objects import ObjectAccess
from beamlet.core_worker.owning.own_slab import Place
from beamlet.core_worker.owning.ports import MakeRef, Ref
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.store_client import StoreClient
from beamlet.core_worker.owning.unseen import UnseenErrors
from beamlet.core_worker.submitting.pending import Pending
from beamlet.core_worker.submitting.task_spec import CallSpec, CreationSpec, TaskSpec
from beamlet.protocol.message import ContainedRef
from beamlet.protocol.peer import InlineDep, InPlace, StoreDep
from beamlet.serialization.arguments import NO_ARGUMENTS, Slot, dumps_plain, serialize_arguments
from beamlet.serialization.unpicklable import explain_unpicklable
from beamlet.serialization.values import INLINE_MAX_BYTES, Serialized, dump_error, dumps, is_error, pack

S = TypeVar("S", bound=TaskSpec | CallSpec | CreationSpec)

#: Stands for a dependency that is still awaited.
_UNRESOLVED = InlineDep(b"")


class Prepared(msgspec.Struct):
    """Arguments ready to travel, but for dependencies still to be filled in."""

    payload: bytes
    #: Top-level references, by slot; alive as long as this.
    deps: list[Ref] = []
    nested: list[ContainedRef] = []
    #: References made for large arguments, or by pickling; they live until the task is submitted.
    temporary: list[Any] = []
    #: Large arguments in our own slab, by the slots behind those of ``deps``, and their sizes.
    placed: list[tuple[Place, int]] = []

    def dep_ids(self) -> tuple[ObjectId, ...]:
        return tuple([ref._id for ref in self.deps])


class FailedArgument(msgspec.Struct):
    """Why work cannot run: one of its arguments is this error."""

    payload: bytes
    #: The object that has the error as its value; None: it has no value, ``payload`` says why.
    object_id: ObjectId | None = None


class Arguments:
    """``prepare`` is called without the core worker's lock, all else under it."""

    #: Set by a driver that wants advice.
    advice: Advisor = NoAdvisor()

    def __init__(
        self,
        refs: ReferenceCounter,
        objects: ObjectAccess,
        unseen: UnseenErrors,
        make_ref: MakeRef,
        store: StoreClient,
    ) -> None:
        self._refs = refs
        self._objects = objects
        self._unseen = unseen
        self._store = store
        self._make_ref = make_ref
        #: Failures to be told, in order, while one is being told.
        self._failures: deque[Callable[[], None]] | None = None

    # -- into bytes ------------------------------------------------------------------------------

    def prepare(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str,
        parameters: tuple[str, ...] = (),
        lends: bool = True,
        inline_bytes: int = INLINE_MAX_BYTES,
    ) -> Prepared:
        """Serialize the arguments of ``name``, in the caller's thread.

        lends: whoever runs it is told by us where they are, and tells us when it is done with them.
        inline_bytes: so much, at least, may be in the message.
        Raises what pickling raises, and RaySystemError for a reference of an earlier session.
        """
        if not args and not kwargs:
            return Prepared(NO_ARGUMENTS)
        payload = dumps_plain(args, kwargs)
        if payload is not None:
            return Prepared(payload)
        deps: list[Ref] = []
        ref_type: object = self._make_ref

        def cut_out(value: Any) -> Any:
            if type(value) is ref_type:
                deps.append(value)
                return Slot(len(deps) - 1)
            return value

        args = tuple([cut_out(arg) for arg in args])
        if kwargs:
            kwargs = {key: cut_out(arg) for key, arg in kwargs.items()}
        payload = None
        if deps:
            record_of = self._objects.record_of
            for ref in deps:
                record_of(ref)
            payload = dumps_plain(args, kwargs)
        if payload is not None:
            return Prepared(payload, deps)
        temporary: list[Ref] = []
        placed: list[tuple[Place, int]] = []
        is_large = _is_large if inline_bytes == INLINE_MAX_BYTES else partial(_is_large, most=inline_bytes)
        try:
            try:
                # What is certainly too large is not pickled with the others only to find that out.
                if any(map(is_large, args)) or any(map(is_large, kwargs.values())):
                    args, kwargs, placed = self._store_large(args, kwargs, deps, temporary, name, lends)
                    payload = dumps_plain(args, kwargs)
                    if payload is not None:
                        return Prepared(payload, deps, [], temporary, placed)
                serialized = serialize_arguments(args, kwargs)
                if serialized.total_bytes > inline_bytes and not (temporary or placed):
                    args, kwargs, placed = self._store_large(args, kwargs, deps, temporary, name, lends)
                    serialized = serialize_arguments(args, kwargs)
            except Exception as error:
                explain_unpicklable(error, args, kwargs, name, parameters)
                raise
            if serialized.contained:
                self._objects.require([ObjectId(object_id) for object_id, _ in serialized.contained])
        except BaseException:
            self._store.let_go([place for place, _ in placed])
            raise
        return Prepared(pack(serialized), deps, serialized.contained, [*temporary, *serialized.alive], placed)

    def _store_large(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deps: list[Ref],
        temporary: list[Ref],
        name: str,
        lends: bool,
    ) -> tuple[tuple[Any, ...], dict[str, Any], list[tuple[Place, int]]]:
        """Replace arguments too large for a message by slots for copies in our slab, or by references."""
        large: list[bytes | Serialized] = []
        first = len(deps)

        def cut_if_large(value: Any) -> Any:
            if type(value) is Slot:
                return value
            data = dumps(value)
            size = len(data) if isinstance(data, bytes) else data.total_bytes
            if size <= INLINE_MAX_BYTES // 8:
                return value
            self.advice.large_argument(value, data, name)
            large.append(data)
            return Slot(first + len(large) - 1)

        args = tuple([cut_if_large(arg) for arg in args])
        kwargs = {key: cut_if_large(arg) for key, arg in kwargs.items()}
        placed = None
        if lends and all(isinstance(data, Serialized) and not data.contained for data in large):
            placed = self._store.put_in_place(large)  # type: ignore[arg-type]  # just looked at
        if placed is None:
            owner = self._refs.self_address
            temporary += [self._make_ref(self._objects.put_data(data), owner) for data in large]
            deps += temporary
        return args, kwargs, placed or []

    # -- until the answer --------------------------------------------------------------------------

    def hold(
        self,
        work: Pending[S],
        when_complete: Callable[[Pending[S]], None],
        when_failed: Callable[[Pending[S], FailedArgument], None],
        placed: Sequence[tuple[Place, int]] = (),
    ) -> FailedArgument | None:
        """Count what the arguments refer to until the answer, and fill in the values of those at top level.

        One of the two is called once for work that has ``unresolved`` arguments when this returns.  An
        argument that is an error already is returned: then ``work`` is settled, and neither is called.
        """
        spec = work.spec
        held: Sequence[ObjectId] = spec.deps
        if spec.nested:
            held = [*held, *(ObjectId(object_id) for object_id, _ in spec.nested)]
        work.held = held
        self._refs.add_submitted(held)
        if placed:
            work.places = [*(work.places or ()), *(place for place, _ in placed)]
        if not spec.deps and not placed:
            return None
        deps: list[InlineDep | StoreDep | InPlace] = [_UNRESOLVED] * len(spec.deps)
        deps += [InPlace(place.offset, size) for place, size in placed]
        work.deps = deps
        for slot, object_id in enumerate(spec.deps):
            record = self._refs.objects[object_id]
            must_share = record.place is not None and type(spec) is CreationSpec
            if record.state == PENDING or must_share:
                work.unresolved += 1
                arrived = partial(self._arrived, work, deps, slot, object_id, when_complete, when_failed)
                if must_share:
                    self._objects.share(object_id, record, arrived)
                else:
                    self._objects.when_ready(object_id, record, arrived)
                continue
            failed = self._fill_in(work, deps, slot, object_id, record)
            if failed is not None:
                work.settled = True
                return failed
        return None

    def _arrived(
        self,
        work: Pending[S],
        deps: list[InlineDep | StoreDep | InPlace],
        slot: int,
        object_id: ObjectId,
        when_complete: Callable[[Pending[S]], None],
        when_failed: Callable[[Pending[S], FailedArgument], None],
        record: ObjectRecord,
    ) -> None:
        if record.place is not None and type(work.spec) is CreationSpec and not work.settled:
            # It goes by way of the GCS to whoever becomes the actor: nobody could tell us when it has read.
            arrived = partial(self._arrived, work, deps, slot, object_id, when_complete, when_failed)
            self._objects.share(object_id, record, arrived)
            return
        if work.settled or work.deps is not deps:
            return
        failed = self._fill_in(work, deps, slot, object_id, record)
        if failed is not None:
            # It stays unresolved, for it is told later, and nobody may send it until then.
            work.deps = ()
            self._tell(partial(when_failed, work, failed))
            return
        work.unresolved -= 1
        if not work.unresolved:
            when_complete(work)

    def _tell(self, failure: Callable[[], None]) -> None:
        """A failure fails what waits for its result, and so on: one after another, however long the chain."""
        if self._failures is not None:
            self._failures.append(failure)
            return
        self._failures = deque([failure])
        try:
            while self._failures:
                try:
                    self._failures.popleft()()
                except Exception as error:
                    self._objects.contain(error)
        finally:
            self._failures = None

    def _fill_in(
        self,
        work: Pending[S],
        deps: list[InlineDep | StoreDep | InPlace],
        slot: int,
        object_id: ObjectId,
        record: ObjectRecord,
    ) -> FailedArgument | None:
        """What travels for the argument, or its error."""
        if record.state == INLINE:
            if is_error(record.payload):
                self._unseen.seen(object_id)
                return FailedArgument(record.payload, object_id)
            deps[slot] = InlineDep(record.payload)
        elif (place := record.place) is not None:
            place.wants += 1
            work.places = [*(work.places or ()), place]
            deps[slot] = InPlace(place.offset, record.size)
        elif record.state == STORED:
            owner = Address(record.owner) or self._refs.self_address
            deps[slot] = StoreDep(object_id, owner, list(record.nodes))
        else:
            return FailedArgument(dump_error(self._objects.decoder.loss_of(object_id, record)))
        return None


def shared(deps: Sequence[InlineDep | StoreDep | InPlace]) -> list[InlineDep | StoreDep]:
    """Those of a constructor, which are never lent."""
    return [dep for dep in deps if not isinstance(dep, InPlace)]


def _is_large(value: Any, most: int = INLINE_MAX_BYTES) -> bool:
    kind = type(value)
    if kind is bytes or kind is str or kind is bytearray:
        return len(value) > most
    return kind.__module__ == "numpy" and getattr(value, "nbytes", 0) > most
