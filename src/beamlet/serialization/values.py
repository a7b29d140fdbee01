"""Values of users as bytes: how they are pickled, and in which three shapes they travel.

    plain    a pickle and nothing else; begins with byte 0x80             the hot path
    packed   msgpack of ``Packed``: out-of-band buffers, contained references, errors, raw bytes
    stored   the same parts laid out in the arena (object_store/layout.py); never copied through a message

``dumps`` decides between plain and ``Serialized``; only atoms of the language skip cloudpickle.
Source: PEP 574 for out-of-band buffers.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from beamlet.protocol.message import ContainedRef
from beamlet.serialization.arrays import put_together, take_apart
from beamlet.serialization.decorated import Pickler
from beamlet.serialization.refs import contained_sink
from beamlet.serialization.unpickling import loads_counted

#: Larger values go to the object store. Ray's max_direct_call_object_size.
INLINE_MAX_BYTES = 100 * 1024
#: All arguments of a detached actor's constructor: the GCS keeps them, as long as the actor lives.
DETACHED_INLINE_MAX_BYTES = 4 << 20
#: Buffers smaller than this are cheaper inside the pickle.
_BUFFER_MIN_BYTES = 4096

VALUE = 0
ERROR = 1
RAW_BYTES = 2
RAW_BYTEARRAY = 3
ARRAY = 4

#: First byte of a plain pickle (protocol 2 and later); packed values begin otherwise.
PICKLE_MARK = 0x80
_ATOMS = frozenset({int, float, bool, str, bytes, type(None), complex})
_PROTOCOL = 5


class Packed(msgspec.Struct, array_like=True):
    """The packed shape of a small value."""

    kind: int
    inband: bytes
    buffers: list[bytes]
    contained: list[ContainedRef]


class Serialized(msgspec.Struct):
    """A value taken apart, not yet placed anywhere."""

    kind: int
    inband: bytes
    buffers: list[memoryview]
    contained: list[ContainedRef]
    #: The references of ``contained``, to live until they are counted: pickling may have made them.
    alive: list[object] = []

    @property
    def total_bytes(self) -> int:
        return len(self.inband) + sum(len(buffer) for buffer in self.buffers)


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Packed).decode


def dumps(value: Any) -> bytes | Serialized:
    """Serialize; ``bytes`` when the result is plain and small enough to inline.

    Raises whatever the value's pickling raises.
    """
    if type(value) in _ATOMS:
        if (type(value) is bytes or type(value) is str) and len(value) > INLINE_MAX_BYTES // 4:
            return _dumps_large_atom(value)
        return pickle.dumps(value, _PROTOCOL)
    if type(value) is bytearray and len(value) > _BUFFER_MIN_BYTES:
        return Serialized(RAW_BYTEARRAY, b"", [memoryview(value)], [])
    if type(value) not in _registered:
        parts = take_apart(value, _BUFFER_MIN_BYTES)
        if parts is not None:
            return Serialized(ARRAY, parts[0], [parts[1]], [])
    serialized = serialize(value)
    if serialized.buffers or serialized.contained or len(serialized.inband) > INLINE_MAX_BYTES:
        return serialized
    return serialized.inband


def _dumps_large_atom(value: bytes | str) -> bytes | Serialized:
    if type(value) is bytes:
        return Serialized(RAW_BYTES, b"", [memoryview(value)], [])
    inband = pickle.dumps(value, _PROTOCOL)
    return inband if len(inband) <= INLINE_MAX_BYTES else Serialized(VALUE, inband, [], [])


def serialize(value: Any, kind: int = VALUE) -> Serialized:
    """Pickle ``value`` with its buffers out of band, noting the references inside it."""
    buffers: list[memoryview] = []

    def keep_out_of_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:
            return True  # not contiguous: leave it in the pickle
        if raw.nbytes < _BUFFER_MIN_BYTES:
            return True
        buffers.append(raw)
        return False

    file = io.BytesIO()
    with contained_sink() as contained:
        _Pickler(file, _PROTOCOL, buffer_callback=keep_out_of_band).dump(value)
    return Serialized(kind, file.getvalue(), buffers, list(contained), contained.alive)


class _Pickler(Pickler):
    """cloudpickle with the serializers that users registered (``util.register_serializer``)."""

    def reducer_override(self, obj: Any) -> Any:
        if _registered:
            custom = _registered.get(type(obj))
            if custom is not None:
                serializer, deserializer = custom
                return _rebuild_custom, (deserializer, serializer(obj))
        return super().reducer_override(obj)


_registered: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {}


def register_serializer(
    cls: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]
) -> None:
    """Use ``serializer``/``deserializer`` for instances of exactly ``cls`` that this process sends."""
    _registered[cls] = (serializer, deserializer)


def deregister_serializer(cls: type) -> None:
    _registered.pop(cls, None)


def _rebuild_custom(deserializer: Callable[[Any], Any], state: Any) -> Any:
    return deserializer(state)


def pack(serialized: Serialized) -> bytes:
    """The packed shape, for values small enough to travel in a message."""
    buffers = [bytes(buffer) for buffer in serialized.buffers]
    if serialized.kind == VALUE and not buffers and not serialized.contained:
        return serialized.inband
    return _pack(Packed(serialized.kind, serialized.inband, buffers, serialized.contained))


def serialize_error(error: BaseException) -> Serialized:
    """An exception as a result, with the references inside it: whoever sends it holds them."""
    return serialize(error, ERROR)


def dump_error(error: BaseException) -> bytes:
    """The payload of an error of our own making, which refers to no objects."""
    return pack(serialize_error(error))


def is_error(payload: bytes) -> bool:
    return bool(payload) and payload[0] != PICKLE_MARK and payload[1] == ERROR


def is_plain(payload: bytes) -> bool:
    return payload[0] == PICKLE_MARK


def loads_plain(payload: bytes) -> Any:
    return pickle.loads(payload)


def unpack(payload: bytes) -> Packed:
    """The parts of a payload that is not plain."""
    return _unpack(payload)


def contained_of(payload: bytes) -> list[ContainedRef]:
    return [] if payload[0] == PICKLE_MARK else _unpack(payload).contained


def rebuild(
    kind: int, inband: bytes | memoryview, buffers: Sequence[Any], contained: Sequence[ContainedRef] = ()
) -> Any:
    """The value from its parts. ``buffers`` are what arrays will view: writable ones make writable arrays.

    contained: the references inside, which are counted: should it raise, those not made are let go.
    """
    if kind == RAW_BYTES:
        return bytes(buffers[0])
    if kind == RAW_BYTEARRAY:
        return bytearray(buffers[0])
    if kind == ARRAY:
        return put_together(inband, buffers[0])
    if contained or kind == ERROR:  # what is left closed in an error of ours may hold some, too
        return loads_counted(inband, buffers, contained)
    return pickle.loads(inband, buffers=buffers)


def rebuild_packed(packed: Packed) -> Any:
    # bytearray: arrays rebuilt over it are writable and private.
    buffers = [bytearray(buffer) for buffer in packed.buffers]
    return rebuild(packed.kind, packed.inband, buffers, packed.contained)
