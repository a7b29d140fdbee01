"""References inside values, and references let go: the hooks between pickling and counting.

``ObjectRef.__reduce__`` (api/object_ref.py) reports each reference it pickles to the sink that the
serializer opened; ``ObjectRef.__del__`` reports its death to ``released``.  Both may run at any time in any
thread, so they only append.

Whoever decodes a value counts what its sink had noted, and opens these counts to the thread that unpickles:
each reference that comes alive takes one (``take_counted``).  One that finds none counts itself.  For what
a pickle inside the value holds is noted once, however often users' code loads that pickle, and wherever.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

from beamlet.base.ids import Address, ObjectId
from beamlet.protocol.message import ContainedRef

#: Ids of ObjectRef instances that died and whose count the core worker has not lowered yet.
released: deque[ObjectId] = deque()


class Noted(list[ContainedRef]):
    """References that were pickled, and in ``alive`` the instances themselves.

    One that pickling made (a ``__reduce__`` that puts something) has no other holder until it is counted.
    """

    __slots__ = ("alive",)

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[object] = []


#: How many references to each object were counted and have not come alive yet.
Counted = dict[ObjectId, int]


class _Local(threading.local):
    sink: Noted | None = None
    counted: Counted | None = None


_local = _Local()


class contained_sink:
    """Collect the references that this thread pickles meanwhile.

    No ``contextmanager``: it sets ``__traceback__`` of what passes, which a class of users may refuse.
    """

    __slots__ = ("_outer",)

    def __enter__(self) -> Noted:
        self._outer = _local.sink
        sink = _local.sink = Noted()
        return sink

    def __exit__(self, *_: object) -> None:
        _local.sink = self._outer


@contextmanager
def out_of_sight() -> Iterator[None]:
    """What is pickled meanwhile is no part of the value that this thread may be in the middle of pickling."""
    outer = _local.sink
    _local.sink = None
    try:
        yield
    finally:
        _local.sink = outer


class trial:
    """Pickling that may fail and be done in another way: what a failed attempt met is forgotten."""

    __slots__ = ("_before", "_sink")

    def __enter__(self) -> None:
        self._sink = sink = _local.sink
        self._before = len(sink) if sink is not None else 0

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        sink = self._sink
        if kind is not None and sink is not None:
            del sink[self._before :]
            del sink.alive[self._before :]


def note_contained(object_id: bytes, owner: bytes, ref: object = None) -> bool:
    """Called while pickling ``ref``; False when no serializer of ours is at work (plain pickle)."""
    sink = _local.sink
    if sink is None:
        return False
    sink.append((object_id, owner))
    sink.alive.append(ref)
    return True


def open_counted(contained: Iterable[ContainedRef]) -> Counted | None:
    """What this thread unpickles may take these; returns what was open before, for ``close_counted``."""
    outer = _local.counted
    counted: Counted = {}
    for object_id, _ in cast("Iterable[tuple[ObjectId, Address]]", contained):
        counted[object_id] = counted.get(object_id, 0) + 1
    _local.counted = counted
    return outer


def close_counted(outer: Counted | None) -> None:
    """What nobody took stays counted for good: users' code may keep the pickle that holds it, and load it."""
    _local.counted = outer


def take_counted(object_id: ObjectId) -> bool:
    """Whether a reference that comes alive in this thread is counted already; it is from now on."""
    counted = _local.counted
    if counted is None:
        return False
    # All of them first, in one step: a signal handler that unpickles in the middle takes none of them twice.
    found = counted.pop(object_id, 0)
    if found > 1:
        counted[object_id] = found - 1
    return found > 0
