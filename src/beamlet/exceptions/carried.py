"""Exceptions across processes: how one becomes bytes and comes back as the same type with the same state.

Python rebuilds an unpickled exception as ``cls(*args)``.  That breaks every class whose ``__init__`` takes
something else than what it hands to ``Exception.__init__``, and it loses ``__cause__``.  Here ``__init__``
of a Python class is not run again; args, attributes, slots, what C keeps (``errno``, ``name``, …), notes
and the explicit cause are put back as they were.  Classes with a ``__reduce__`` of their own know better
and are left to it.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import Any

import cloudpickle

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: set on every class made by a `class` statement
#: AttributeError and NameError keep the object at fault for "did you mean"; it may be anything, of any size.
_NOT_CARRIED = frozenset({"__dict__", "__weakref__", "obj"})
_STOP_VALUE: Any = vars(StopIteration)["value"]
_Descriptor = MemberDescriptorType | GetSetDescriptorType
_Reduced = tuple[Callable[..., Any], tuple[Any, ...]]


def dumps(error: BaseException) -> bytes:
    """Pickle an exception and whatever exceptions it holds. Raises what pickling its parts raises."""
    buffer = io.BytesIO()
    _for_exceptions(pickler)(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(error)
    return buffer.getvalue()


def loads(data: bytes) -> BaseException:
    """Back from ``dumps``. Raises what importing its class or rebuilding its attributes raises."""
    error = unpickle(data)
    assert isinstance(error, BaseException), f"not an exception: {type(error)}"
    return error


#: Set by ``serialization/remote_error.py``, which knows of references inside.
unpickle: Callable[[bytes], Any] = pickle.loads
#: Set by the same file, which knows more kinds of classes.
pickler: Any = cloudpickle.Pickler


@lru_cache(maxsize=2)
def _for_exceptions(base: Any) -> Any:
    """``base``, which is one of cloudpickle's picklers, with our way of pickling exceptions."""

    class ExceptionPickler(base):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, BaseException) and not _reduces_itself(type(obj)):
                return reduce(obj)
            return super().reducer_override(obj)

    return ExceptionPickler


def _reduces_itself(cls: type) -> bool:
    return isinstance(cls.__reduce__, FunctionType) or isinstance(cls.__reduce_ex__, FunctionType)


def reduce(error: BaseException) -> _Reduced:
    """What ``__reduce__`` of an exception should return; also right for plain ``pickle``."""
    state = (
        args_of(error),
        dict(vars(error)),
        dict(_members(error)),
        error.__cause__,
        error.__suppress_context__,
    )
    return rebuild, (type(error), shape_of(error), *state)


def args_of(error: BaseException) -> tuple[Any, ...]:
    """What it was made with, past any ``args`` of the class's own, which is code of users."""
    return BaseException.args.__get__(error)  # type: ignore[attr-defined,no-any-return]


def shape_of(error: BaseException) -> tuple[Any, ...]:
    """What C wants to know at creation: of a group its message and members, of all others nothing."""
    return (error.message, list(error.exceptions)) if isinstance(error, BaseExceptionGroup) else ()


def rebuild(
    cls: type[BaseException],
    shape: tuple[Any, ...],
    args: tuple[Any, ...],
    attributes: dict[str, Any],
    members: dict[str, Any],
    cause: BaseException | None,
    suppress_context: bool,
) -> BaseException:
    error = blank(cls, shape)
    BaseException.args.__set__(error, args)  # type: ignore[attr-defined]
    vars(error).update(attributes)
    set_members(error, members)
    # Past any __setattr__ of the class's own, such as a frozen dataclass's.
    object.__setattr__(error, "__cause__", cause)
    object.__setattr__(error, "__suppress_context__", suppress_context)
    return error


def blank(cls: type[BaseException], shape: tuple[Any, ...]) -> BaseException:
    """An instance on which no Python ``__new__`` or ``__init__`` has run; TypeError if C allows none."""
    native = [base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE]
    # The base with most fields decides the layout; of equals, C accepts the one the class is built on.
    for base in sorted(native, key=lambda base: -base.__basicsize__):
        make: Any = base.__new__
        try:
            error: BaseException = make(cls, *shape)
        except TypeError:
            continue
        if isinstance(error, StopIteration):
            # Its __init__ would have: `yield from` and `await` take the value unasked and crash at NULL.
            _STOP_VALUE.__set__(error, None)
        return error
    raise TypeError(f"no native base of {cls.__qualname__} can make an instance of it")


def without_unpicklable(error: BaseException) -> BaseException:
    """A copy whose parts can all be pickled: a text stands for each that cannot."""
    copy = blank(type(error), shape_of(error))
    BaseException.args.__set__(copy, tuple(_or_text(arg) for arg in args_of(error)))  # type: ignore[attr-defined]
    vars(copy).update({name: _or_text(value) for name, value in vars(error).items()})
    set_members(copy, {name: _or_text(value) for name, value in _members(error)})
    return copy


def _or_text(value: Any) -> Any:
    try:
        cloudpickle.dumps(value)
    except Exception:
        return f"<{type(value).__qualname__}: cannot be pickled>"
    return value


def copy_members(source: BaseException, target: BaseException) -> None:
    """Give ``target``, of a derived class, what ``source`` keeps outside its ``__dict__``."""
    set_members(target, dict(_members(source)))


def set_members(error: BaseException, members: dict[str, Any]) -> None:
    for name, descriptor in _descriptors(type(error)):
        if name in members:
            try:
                descriptor.__set__(error, members[name])
            except (AttributeError, TypeError):
                continue  # read-only, such as a group's message: blank() has set it


def _members(error: BaseException) -> Iterator[tuple[str, Any]]:
    """Values in slots and C fields below BaseException: ``errno``, ``StopIteration.value``, …"""
    for name, descriptor in _descriptors(type(error)):
        try:
            value = descriptor.__get__(error, type(error))
        except AttributeError:
            continue  # never set
        # C takes None for unset and shows it when it is set ("[Errno 2] no: None"); of slots None is a value.
        if value is not None or descriptor.__objclass__.__flags__ & _HEAP_TYPE:
            yield name, value


def _descriptors(cls: type[BaseException]) -> Iterator[tuple[str, _Descriptor]]:
    for base in cls.__mro__:
        if issubclass(base, BaseException) and base not in (BaseException, BaseExceptionGroup):
            for name, found in vars(base).items():
                if isinstance(found, _Descriptor) and name not in _NOT_CARRIED:
                    yield name, found
