"""ObjectRef: a future value, wherever it is.

Built in C (a msgspec Struct) because programs make millions of them.  An instance counts as one local
reference: whoever constructs one tells the reference counter, ``__del__`` tells it back.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import msgspec

from beamlet.api import backend
from beamlet.api.call_sites import call_site
from beamlet.api.option_rules import a_kind, brief
from beamlet.base.ids import OBJECT_ID_BYTES, Address, ObjectId, job_of_task, task_of_object
from beamlet.base.own_code import for_users
from beamlet.exceptions import CallSite
from beamlet.serialization.refs import note_contained, released, take_counted

if TYPE_CHECKING:
    import concurrent.futures

T_co = TypeVar("T_co", covariant=True)

logger = logging.getLogger("beamlet")
_release = released.append
_NIL = ObjectId(b"\xff" * OBJECT_ID_BYTES)
#: Lines that used a reference as a condition, and were told.
_tested_for_truth: set[CallSite] = set()


@for_users
def _refuse_bare_id() -> Any:
    raise TypeError(
        "an ObjectRef is not made from an id alone, which keeps no value: "
        "ObjectRef.from_binary(ref.binary()) and from_hex make another reference where this process has one; "
        "else pass the reference itself"
    )


class ObjectRef(msgspec.Struct, Generic[T_co], frozen=True, weakref=True, repr_omit_defaults=True):
    """A reference to a value that a task, an actor or ``put`` makes.

    Get the value with ``beamlet.get(ref)`` or ``await ref``; pass the reference to tasks and actors, which
    receive the value.  The value is kept as long as a reference to it exists anywhere.
    """

    _id: ObjectId
    #: Who makes a reference has counted it, or the value would go with the copy.
    if TYPE_CHECKING:
        _owner: Address
    else:
        _owner: Address = msgspec.field(default_factory=_refuse_bare_id)

    def __del__(self) -> None:
        try:
            self._owner  # noqa: B018 — one that was refused has none, and was never counted
        except AttributeError:
            return
        _release(self._id)

    # -- naming ----------------------------------------------------------------------------------

    @classmethod
    @for_users
    def from_binary(cls, id_bytes: bytes) -> ObjectRef[Any]:
        """Another reference to what a reference in this process refers to, by its ``binary()``.

        Raises ValueError for an id that no reference here has: by its id alone, nobody can find a value.
        """
        if not isinstance(id_bytes, bytes):
            raise TypeError(f"an ObjectRef is made from bytes, not from {a_kind(id_bytes)} {brief(id_bytes)}")
        core = backend.current()
        owner = core.owner_of(ObjectId(id_bytes))
        if owner is None:
            raise ValueError(
                f"no reference of this process has the id {brief(id_bytes)}: an id does not keep its value, "
                "nor say where it is. Pass the reference itself."
            )
        ref: ObjectRef[Any] = core.adopt_ref(ObjectId(id_bytes), owner)
        return ref

    @classmethod
    @for_users
    def from_hex(cls, hex_id: str) -> ObjectRef[Any]:
        """As ``from_binary``, by its ``hex()``."""
        try:
            raw = bytes.fromhex(hex_id)
        except (TypeError, ValueError) as error:
            raise type(error)(f"an ObjectRef: {brief(hex_id)} is not a string of hex digits") from None
        return cls.from_binary(raw)

    @classmethod
    def nil(cls) -> ObjectRef[Any]:
        """The reference to nothing."""
        return cls(_NIL, Address(b""))

    def binary(self) -> bytes:
        return self._id

    def hex(self) -> str:
        return self._id.hex()

    def __repr__(self) -> str:
        return f"ObjectRef({self._id.hex()})"

    def is_nil(self) -> bool:
        return self._id == _NIL

    def size(self) -> int:
        """Bytes of the id (28), as in Ray."""
        return len(self._id)

    def task_id(self) -> Any:
        from beamlet.api.public_ids import TaskID

        return TaskID(task_of_object(self._id))

    def job_id(self) -> Any:
        from beamlet.api.public_ids import JobID

        return JobID(job_of_task(task_of_object(self._id)))

    def owner_address(self) -> bytes:
        return self._owner

    def call_site(self) -> str:
        """ "file:line" where the value was asked for, if this process asked for it."""
        return str(backend.current().call_site_of(self._id))

    # -- waiting ---------------------------------------------------------------------------------

    def future(self) -> concurrent.futures.Future[T_co]:
        """A concurrent.futures.Future of the value. Cancelling it does not cancel the task."""
        future: concurrent.futures.Future[T_co] = backend.current().future_of(self)
        return future

    def as_future(self, _internal: bool = False) -> Any:
        """An asyncio future of the value, on the running loop."""
        import asyncio

        return asyncio.wrap_future(self.future())

    def __await__(self) -> Generator[Any, None, T_co]:
        waiting: Generator[Any, None, T_co] = backend.current().await_ref(self).__await__()
        return waiting

    def _on_completed(self, callback: Any) -> None:
        """Call ``callback(value or exception)`` when ready, in no particular thread."""

        def done(future: concurrent.futures.Future[Any]) -> None:
            error = future.exception()
            callback(future.result() if error is None else error)

        self.future().add_done_callback(done)

    # -- travelling ------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        if self._id == _NIL:
            return _nil, ()  # nobody owns or counts it
        if not note_contained(self._id, self._owner, self):
            # Plain pickle, out of our sight: nobody can count these copies, so the value stays for good.
            backend.current().pin_for_good(self)
        return _arrive, (self._id, self._owner)

    def __copy__(self) -> ObjectRef[T_co]:
        return self

    def __deepcopy__(self, memo: Any) -> ObjectRef[T_co]:
        return self

    # -- not a value -----------------------------------------------------------------------------

    def __bool__(self) -> bool:
        site = call_site()
        if site not in _tested_for_truth:
            _tested_for_truth.add(site)
            logger.warning(
                "%s: an ObjectRef is always true, whatever its value will be. Test beamlet.get(ref), or "
                "`ref is not None`.",
                site,
            )
        return True

    if not TYPE_CHECKING:  # a checker shall say so itself

        @for_users
        def __getattr__(self, name):
            if name.startswith("_"):  # Python and libraries look for these in everything
                raise AttributeError(f"'ObjectRef' object has no attribute {name!r}", name=name, obj=self)
            text = _misuse(self, f"has no attribute {name!r}", f"beamlet.get(ref).{name}")
            raise AttributeError(text, name=name, obj=self)

        @for_users
        def __setitem__(self, key, value):
            _misused(self, f"cannot be assigned to with [{brief(key)}]")

        @for_users
        def __iter__(self):
            _misused(self, "is not iterable")

        @for_users
        def __contains__(self, item):
            _misused(self, "does not support `in`")

        @for_users
        def __len__(self):
            _misused(self, "has no length")

        @for_users
        def __getitem__(self, key):
            _misused(self, f"cannot be indexed with [{brief(key)}]")

        @for_users
        def add_done_callback(self, *args, **kwargs):
            """What ``asyncio.wait([ref])`` asks for first."""
            _misused(self, "is not an asyncio future (ref.as_future() makes one)")

        @for_users
        def __call__(self, *args, **kwargs):
            _misused(self, "is not callable")


def _nil() -> ObjectRef[Any]:
    return ObjectRef.nil()


def _arrive(object_id: ObjectId, owner: Address) -> ObjectRef[Any]:
    """A reference comes out of a pickle."""
    if take_counted(object_id):
        return ObjectRef(object_id, owner)
    ref: ObjectRef[Any] = backend.current().adopt_ref(object_id, owner)
    return ref


def _misused(ref: ObjectRef[Any], what: str) -> NoReturn:
    raise TypeError(_misuse(ref, what, "beamlet.get(ref)"))


def _misuse(ref: ObjectRef[Any], what: str, instead: str) -> str:
    site = ref.call_site() if backend.is_connected() else ""
    made = f" from {site}" if site else ""
    return (
        f"ObjectRef {ref.hex()[:16]}…{made} {what}: it stands for a value that may not exist yet. "
        f"Use {instead}, await ref, or pass the ref to another task."
    )


def _refuse(symbol: str) -> Any:
    @for_users
    def operate(self: ObjectRef[Any], other: Any = None) -> NoReturn:
        _misused(self, f"does not support {symbol}")

    return operate


for _name, _symbol in (
    ("add", "+"), ("sub", "-"), ("mul", "*"), ("truediv", "/"), ("floordiv", "//"), ("mod", "%"),
    ("pow", "**"), ("matmul", "@"), ("and", "&"), ("or", "|"), ("xor", "^"),
    ("lshift", "<<"), ("rshift", ">>"),
):  # fmt: skip
    setattr(ObjectRef, f"__{_name}__", _refuse(_symbol))
    setattr(ObjectRef, f"__r{_name}__", _refuse(_symbol))
for _name, _symbol in (("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">=")):
    setattr(ObjectRef, f"__{_name}__", _refuse(_symbol))
for _name in ("int", "float", "complex", "round", "abs"):
    setattr(ObjectRef, f"__{_name}__", _refuse(f"{_name}()"))
for _name, _symbol in (("neg", "-ref"), ("pos", "+ref"), ("invert", "~ref"), ("index", "use as an index")):
    setattr(ObjectRef, f"__{_name}__", _refuse(_symbol))

#: Ray's older name.
ObjectID = ObjectRef
