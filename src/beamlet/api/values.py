"""get, put, wait, cancel: what users do with references."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, overload

from beamlet.api import advising, backend
from beamlet.api.argument_table import checked
from beamlet.api.call_sites import call_site
from beamlet.api.generators import ObjectRefGenerator
from beamlet.api.object_ref import ObjectRef
from beamlet.api.option_rules import a_kind, brief
from beamlet.base.deferring import deferred, deliver, lets_through
from beamlet.base.own_code import for_users, hide_our_frames
from beamlet.core_worker.owning.selecting import KEPT_FROM, Mark, mark_of
from beamlet.serialization.unpicklable import explain_unpicklable

T = TypeVar("T")


@overload
def get(object_refs: ObjectRef[T], timeout: float | None = None, *, _use_object_store: bool = False) -> T: ...
@overload
def get(
    object_refs: Sequence[ObjectRef[T]], timeout: float | None = None, *, _use_object_store: bool = False
) -> list[T]: ...
@lets_through
def get(object_refs: Any, timeout: float | None = None, *, _use_object_store: bool = False) -> Any:
    """Wait for values.

    object_refs: an ObjectRef, or a list of them. timeout: seconds; 0 polls; None or -1 waits for ever.
    Raises what the task raised (its own class stays catchable), GetTimeoutError, ValueError for a tuple or
    anything else, TypeError for a list element that is no reference.

    >>> import beamlet as ray
    >>> ray.get([ray.put(1), ray.put("two")])
    [1, 'two']
    """
    try:
        core = backend._current or backend.current()
        if _use_object_store is not False:
            checked("get", "_use_object_store", _use_object_store)
        if type(object_refs) is ObjectRef:
            if timeout is not None:
                timeout = checked("get", "timeout", timeout)
            value = core.get_one(object_refs, timeout)
            if advising.watching is not None:
                advising.watching.got(value)
            if deferred:
                deliver()
            return value
        if type(object_refs) is ObjectRefGenerator:
            return object_refs
        if not isinstance(object_refs, list):
            raise ValueError(
                f"Invalid type of object refs, {type(object_refs)}, is given. 'object_refs' must either be a "
                f"single ObjectRef or a list of ObjectRefs{_instead_of(object_refs)}."
            )
        if timeout is not None:
            timeout = checked("get", "timeout", timeout)
        if not object_refs:
            return []
        if set(map(type, object_refs)) != {ObjectRef}:
            _refuse_element("get", object_refs)
        values = core.get(object_refs, timeout)
        if deferred:
            deliver()
        return values
    except BaseException as error:
        hide_our_frames(error)
        interrupted = backend.cancels_interrupted and isinstance(error, KeyboardInterrupt)
        # Our parameter and the argument of this call: whoever else holds it can ask again.
        if interrupted and sys.getrefcount(object_refs) <= 2:
            _cancel_unreachable(object_refs)
        raise


def _cancel_unreachable(object_refs: Any) -> None:
    """The user gave up a ``get`` (Ctrl-C) of references that nobody else holds: nobody can want their values.

    object_refs is not held elsewhere, but what is in a list may be.
    """
    core = backend.current_or_none()
    if core is None:
        return
    if isinstance(object_refs, ObjectRef):
        core.cancel(object_refs, False, True)
    elif isinstance(object_refs, list):
        for ref in object_refs:
            # The list, the loop's variable, and the argument of getrefcount.
            if isinstance(ref, ObjectRef) and sys.getrefcount(ref) <= 3:
                core.cancel(ref, False, True)


@lets_through
def put(value: T, *, _owner: Any = None, _tensor_transport: Any = None) -> ObjectRef[T]:
    """Store a value once; a reference to pass to any number of tasks.

    Raises TypeError for an ObjectRef or something that cannot be pickled (naming the path to it), and
    ObjectStoreFullError.
    """
    try:
        if isinstance(value, ObjectRef):
            raise TypeError(
                "Calling 'put' on an ObjectRef is not allowed: it already refers to a stored value."
            )
        if _owner is not None:
            raise ValueError(f"put(_owner={brief(_owner)}): the process that puts a value owns it, always")
        core = backend._current or backend.current()
        try:
            ref = core.put(value, call_site())
        except Exception as error:
            explain_unpicklable(error, (value,), {}, "put", ("value",))
            raise
        if deferred:
            deliver()
        return ref  # type: ignore[no-any-return]
    except BaseException as error:
        hide_our_frames(error)
        raise


@lets_through
def wait(
    ray_waitables: list[ObjectRef[T]],
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]:
    """Wait until ``num_returns`` of the references have values, or errors.

    Returns (ready, not ready), each in the given order; never more than ``num_returns`` ready ones.
    timeout: seconds; None waits for ever. Raises TypeError for anything but a list of references,
    ValueError for duplicates, an impossible ``num_returns`` or a negative timeout.
    """
    global _last_rest
    try:
        core = backend._current or backend.current()
        if isinstance(ray_waitables, ObjectRef):
            raise TypeError("wait() expected a list of ray.ObjectRef, got a single ray.ObjectRef: pass [ref]")
        if not isinstance(ray_waitables, list):
            raise TypeError(f"wait() expected a list of ObjectRefs, got {a_kind(ray_waitables)}")
        if timeout is not None:
            timeout = checked("wait", "timeout", timeout)
        if type(num_returns) is not int or num_returns < 1:
            num_returns = checked("wait", "num_returns", num_returns)
        if fetch_local is not True:
            checked("wait", "fetch_local", fetch_local)
        if not ray_waitables:
            return [], []
        if num_returns > len(ray_waitables):
            raise ValueError(f"num_returns is {num_returns}, but the list has only {len(ray_waitables)}")
        is_known = len(ray_waitables) >= KEPT_FROM and _last_rest == mark_of(ray_waitables)
        if not is_known and _holds_generators(ray_waitables):
            return core.streams.wait(ray_waitables, num_returns, timeout)
        try:
            ready, rest = core.wait(ray_waitables, num_returns, timeout, fetch_local)
        except AttributeError:  # something was put into a list of ours that is no reference
            if _holds_generators(ray_waitables):
                return core.streams.wait(ray_waitables, num_returns, timeout)
            raise
        if len(rest) >= KEPT_FROM:
            _last_rest = mark_of(rest)
        if deferred:
            deliver()
        return ready, rest
    except BaseException as error:
        hide_our_frames(error)
        raise


@for_users
def cancel(
    ray_waitable: ObjectRef[Any] | ObjectRefGenerator[Any], *, force: bool = False, recursive: bool = True
) -> None:
    """Stop the task that makes this value; getting it then raises TaskCancelledError.

    A queued task never runs; a running one gets a KeyboardInterrupt, and with ``force`` its worker is ended.
    A finished one is left alone. recursive: the task's children too. Raises TypeError for anything but a
    reference, ValueError for ``force`` on an actor's call.
    """
    if isinstance(ray_waitable, ObjectRefGenerator):
        ray_waitable = ray_waitable.completed()
    if not isinstance(ray_waitable, ObjectRef):
        raise TypeError(f"cancel() expected an ObjectRef, got {a_kind(ray_waitable)}; for actors use kill()")
    force, recursive = checked("cancel", "force", force), checked("cancel", "recursive", recursive)
    backend.current().cancel(ray_waitable, force, recursive)


#: Marks the list that ``wait`` returned last. Programs pass it back again and again, and looking at each of
#: thousands of references every time would be most of the work. A list that was changed without
#: its mark changing is looked at when something in it turns out to be no reference.
_last_rest: Mark | None = None


def _holds_generators(refs: list[Any]) -> bool:
    """Whether generators are among them. Raises for what is neither, and for duplicates."""
    kinds = set(map(type, refs))
    if not kinds <= {ObjectRef, ObjectRefGenerator}:
        _refuse_element("wait", refs)
    # Equal references are usually the same object, and identity is cheap to compare for long lists.
    if len(set(refs)) != len(refs):
        raise ValueError("wait() requires a list of unique ObjectRefs: some appear more than once")
    return ObjectRefGenerator in kinds


def _instead_of(given: object) -> str:
    """What to write instead, where that is plain."""
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping):
        return ": write get(list(…))"
    if isinstance(given, Mapping):
        return ": write get(list(….values()))"
    return ": call .remote(…) first" if callable(getattr(given, "remote", None)) else ""


def _refuse_element(name: str, refs: list[Any]) -> None:
    for index, ref in enumerate(refs):
        if not isinstance(ref, ObjectRef) and not (name == "wait" and isinstance(ref, ObjectRefGenerator)):
            raise TypeError(
                f"Attempting to call `{name}` on the value {brief(ref)}, which is not an ObjectRef: "
                f"element {index} of the list is {a_kind(ref)}"
            )
