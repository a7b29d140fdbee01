"""What users have run and bring no frame of theirs: ``ray.remote(time.sleep)``, an inherited ``Queue.get``.

A cancel may interrupt what stands above a frame of users' on the stack, never our own code.  Code of a
library belongs to whoever calls it, and here that would be us; so it is called through a frame in which
nothing can be left half done.  What users wrote is called as it is, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, GeneratorType, MethodType
from typing import Any

from beamlet.base.deferring import lets_through
from beamlet.processes.interrupts import is_library


def interruptible(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, to be called for a user."""
    inner = function.__func__ if type(function) is MethodType else function
    if type(inner) is FunctionType and not is_library(inner.__globals__):
        return function

    @lets_through
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


def interruptible_items(values: Iterable[Any]) -> Iterable[Any]:
    """``values``, to be iterated over for a user."""
    if type(values) is GeneratorType:
        frame = values.gi_frame
        if frame is None or not is_library(frame.f_globals):
            return values
    return _items(values)


@lets_through
def _items(values: Iterable[Any]) -> Iterator[Any]:
    yield from values
