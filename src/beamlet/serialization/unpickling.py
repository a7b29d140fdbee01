"""Unpickling what holds references, so that one that fails halfway gives back what was counted for it.

Whoever decodes a value counts the references inside before it is unpickled, for each becomes an ObjectRef
that takes one of these counts, and whose death is a count less.  Users' code may raise in the middle.  The
references that came before it died, or live on in what it keeps; those behind it were never made, and nobody
would ever count them down.

So when that happens the pickle is read once more, with a stand-in for everything but references, and those
that the unpickler has not made are let go here.  Pickles inside pickles are their own readers' affair: too
high a count keeps an object for too long, one too low frees it under its holder.
"""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Sequence
from typing import Any

from beamlet.base.ids import ObjectId
from beamlet.protocol.message import ContainedRef
from beamlet.serialization.refs import close_counted, open_counted, released, take_counted

_MODULE = "beamlet.api.object_ref"
_CLASS = "ObjectRef"
#: How pickles name the function that makes a reference.
_ARRIVES = (_MODULE, "_arrive")


def loads_counted(
    data: bytes | memoryview, buffers: Sequence[Any] = (), contained: Sequence[ContainedRef] = ()
) -> Any:
    """``pickle.loads`` of what holds references.

    contained: what was counted for it; of a part of a value, that is among what was counted for the whole.
    """
    if not contained:
        return _loads(data, buffers)
    outer = open_counted(contained)
    try:
        return _loads(data, buffers)
    finally:
        close_counted(outer)


def _loads(data: bytes | memoryview, buffers: Sequence[Any]) -> Any:
    unpickler = pickle.Unpickler(io.BytesIO(data), buffers=buffers)
    try:
        return unpickler.load()
    except BaseException:
        not_made = _references_in(data, buffers) - _made_by(unpickler)
        # Only what is left: a pickle inside may have been loaded more often than it was counted.
        released.extend(object_id for object_id in not_made.elements() if take_counted(object_id))
        raise
    finally:
        del unpickler  # a traceback would keep it, and it all that was made


def _made_by(unpickler: pickle.Unpickler) -> Counter[ObjectId]:
    """Every object that a pickle makes is noted in its reader's memo."""
    memo: Any = unpickler.memo
    return Counter(made._id for made in memo.copy().values() if _is_reference(type(made)))


def _is_reference(kind: type) -> bool:
    return (kind.__module__, kind.__name__) == (_MODULE, _CLASS)


def _references_in(data: bytes | memoryview, buffers: Sequence[Any]) -> Counter[ObjectId]:
    reader = _Reader(io.BytesIO(data), buffers=buffers)
    try:
        reader.load()
    except Exception:
        return Counter()  # no pickle at all, or one that needs more than stand-ins: nothing is known of it
    return reader.found


class _Reader(pickle.Unpickler):
    """Makes nothing, runs nobody's code, and notes the references."""

    def __init__(self, file: io.BytesIO, buffers: Sequence[Any]) -> None:
        super().__init__(file, buffers=buffers)
        self.found: Counter[ObjectId] = Counter()

    def find_class(self, module: str, name: str) -> Any:
        return self._note if (module, name) == _ARRIVES else _Anything

    def _note(self, object_id: ObjectId, owner: bytes) -> Any:
        self.found[object_id] += 1
        return _Anything


class _Stand(type):
    """What may be done to what a pickle makes, done to a class that stands for all of it."""

    def __call__(cls, *_: Any, **__: Any) -> Any:
        return cls

    def __setitem__(cls, key: Any, value: Any) -> None: ...


class _Anything(metaclass=_Stand):
    def __new__(cls, *_: Any, **__: Any) -> Any:
        return cls

    @staticmethod
    def __setstate__(state: Any) -> None: ...

    @staticmethod
    def append(item: Any) -> None: ...

    @staticmethod
    def extend(items: Any) -> None: ...

    @staticmethod
    def add(item: Any) -> None: ...
