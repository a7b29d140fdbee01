"""References inside values, and references let go: the two hooks between pickling and counting.

``ObjectRef.__reduce__`` (api/object_ref.py) reports each reference it pickles to the sink that the
serializer opened; ``ObjectRef.__del__`` reports its death to ``released``.  Both may run at any time in any
thread, so they only append.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from beamlet.base.ids import ObjectId
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


class _Local(threading.local):
    sink: Noted | None = None


_local = _Local()


@contextmanager
def contained_sink() -> Iterator[Noted]:
    """Collect the references that this thread pickles meanwhile."""
    outer = _local.sink
    sink = Noted()
    _local.sink = sink
    try:
        yield sink
    finally:
        _local.sink = outer


@contextmanager
def trial() -> Iterator[None]:
    """Pickling that may fail and be done in another way: what a failed attempt met is forgotten."""
    sink = _local.sink
    before = len(sink) if sink is not None else 0
    try:
        yield
    except BaseException:
        if sink is not None:
            del sink[before:]
            del sink.alive[before:]
        raise


def note_contained(object_id: bytes, owner: bytes, ref: object = None) -> bool:
    """Called while pickling ``ref``; False when no serializer of ours is at work (plain pickle)."""
    sink = _local.sink
    if sink is None:
        return False
    sink.append((object_id, owner))
    sink.alive.append(ref)
    return True
