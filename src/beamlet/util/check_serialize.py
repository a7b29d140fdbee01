"""``inspect_serializability``: will it travel, and if not, what in it will not, and what to do."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple, TextIO

import cloudpickle

from beamlet.api.argument_table import checked
from beamlet.base.own_code import for_users
from beamlet.serialization.unpicklable import find_culprit, remedy


class FailureTuple(NamedTuple):
    """Something that cannot be pickled, how to get at it, and in whom it was found."""

    obj: Any
    path: str
    parent: Any


@for_users
def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Whether ``base_obj`` can be sent to tasks and actors, and what in it prevents that; prints a report.

    name: what to call it in the report. depth: taken for Ray's sake; the path is followed to its end.

    >>> inspect_serializability([1, 2], name="numbers")
    numbers can be pickled.
    (True, set())
    """
    function = "util.inspect_serializability"
    checked(function, "name", name)
    checked(function, "depth", depth)
    out = checked(function, "print_file", print_file) or sys.stdout
    name = name or getattr(base_obj, "__name__", None) or str(base_obj)
    try:
        cloudpickle.dumps(base_obj)
    except Exception as error:
        path, culprit = find_culprit(base_obj, name)
        kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}".removeprefix("builtins.")
        print(f"{name} cannot be pickled: {error}", file=out)
        print(f"  {path} is what prevents it: {culprit!r}, a {kind}.", file=out)
        print(f"  {remedy(culprit)}", file=out)
        return False, {_Failure(culprit, path, base_obj)}
    print(f"{name} can be pickled.", file=out)
    return True, set()


class _Failure(FailureTuple):
    """In a set by identity: what cannot be pickled often cannot be hashed either."""

    __slots__ = ()

    def __hash__(self) -> int:
        return hash((id(self.obj), self.path))
