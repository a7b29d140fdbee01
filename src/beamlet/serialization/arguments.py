"""Arguments of calls: one payload, with top-level references cut out as dependencies.

    payload   b"" for no arguments; else a (plain or packed) value that is a tuple of positional arguments,
              or a list [positional, keyword] when there are keyword arguments
    Slot(i)   stands in it for the i-th dependency: the executor puts the value there

Only references that are themselves an argument are dependencies; those nested deeper stay references.
"""

from __future__ import annotations

import pickle
from typing import Any

import msgspec

from beamlet.serialization.values import INLINE_MAX_BYTES, Serialized, serialize

NO_ARGUMENTS = b""


class Slot(msgspec.Struct, frozen=True):
    """The place of a dependency's value."""

    index: int


#: The payload of calls whose one argument is a dependency: pickling and unpickling it costs 8 µs at each end.
_ONE_SLOT = pickle.dumps((Slot(0),), 5)
#: What plain pickle handles as well as cloudpickle, and much faster.
_ATOMS = frozenset({int, float, bool, type(None), Slot})
#: The same, but for those that are to travel through the store: nobody pickles them to find that out.
_SIZED = frozenset({str, bytes})


def dumps_plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
    """The payload, if all arguments are small atoms; None when they need a closer look."""
    for arg in args:
        if type(arg) not in _ATOMS and (type(arg) not in _SIZED or len(arg) > INLINE_MAX_BYTES):
            return None
    if len(args) == 1 and type(args[0]) is Slot and not args[0].index and not kwargs:
        return _ONE_SLOT
    if kwargs:
        for arg in kwargs.values():
            if type(arg) not in _ATOMS and (type(arg) not in _SIZED or len(arg) > INLINE_MAX_BYTES):
                return None
        payload = pickle.dumps([args, kwargs], 5)
    else:
        payload = pickle.dumps(args, 5)
    return payload if len(payload) <= INLINE_MAX_BYTES else None


def serialize_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Serialized:
    """Arguments in which references were already replaced by Slots."""
    return serialize([args, kwargs] if kwargs else args)


def is_one_slot(payload: bytes) -> bool:
    """The one argument is the one dependency."""
    return payload == _ONE_SLOT


def split(value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the payload unpickled to → (args, kwargs)."""
    if type(value) is list:
        return tuple(value[0]), value[1]
    return value, {}


def fill(
    args: tuple[Any, ...], kwargs: dict[str, Any], values: list[Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Put the dependencies' values into their slots."""
    filled = tuple(values[arg.index] if type(arg) is Slot else arg for arg in args)
    if kwargs:
        kwargs = {k: values[arg.index] if type(arg) is Slot else arg for k, arg in kwargs.items()}
    return filled, kwargs
