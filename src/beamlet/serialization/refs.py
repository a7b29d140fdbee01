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


class _Local(threading.local):
    sink: list[ContainedRef] | None = None


_local = _Local()


@contextmanager
def contained_sink() -> Iterator[list[ContainedRef]]:
    """Collect the references that this thread pickles meanwhile."""
    outer = _local.sink
    sink: list[ContainedRef] = []
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
        raise


def note_contained(object_id: bytes, owner: bytes) -> bool:
    """Called while pickling a reference; False when no serializer of ours is at work (plain pickle)."""
    sink = _local.sink
    if sink is None:
        return False
    sink.append((object_id, owner))
    return True
