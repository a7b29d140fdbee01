"""The id classes that users meet: ``beamlet.NodeID``, ``beamlet.JobID`` …

Inside Beamlet ids are plain bytes (``base/ids.py``); these wrap them where they are shown or passed by users.
Sizes, and which id is a part of which, are Ray's:

    JobID      4    a counter, little endian
    ActorID   16    12 unique + JobID
    TaskID    24     8 unique + ActorID
    ObjectID  28    TaskID + index           (ObjectID is another name of ObjectRef)
    PlacementGroupID 18                      14 unique + JobID
    NodeID, WorkerID, UniqueID, FunctionID, ActorClassID, ClusterID 28
"""

from __future__ import annotations

import builtins
import os
from typing import ClassVar, Self

from beamlet.api.argument_table import integer
from beamlet.api.object_ref import ObjectRef
from beamlet.api.option_rules import a_kind, brief
from beamlet.base import ids

ObjectID = ObjectRef


class BaseID:
    """An identifier of a fixed size; immutable, hashable, picklable. Ids of different kinds are never equal.

    >>> NodeID.nil()
    NodeID(ffffffffffffffffffffffffffffffffffffffffffffffffffffffff)
    >>> NodeID.from_hex("ab" * 28) == NodeID(b"\\xab" * 28)
    True
    """

    __slots__ = ("_raw",)

    SIZE: ClassVar[int] = ids.UNIQUE_ID_BYTES
    _raw: bytes

    def __init__(self, id: bytes) -> None:
        if not isinstance(id, bytes):
            raise TypeError(f"{type(self).__name__} is made from bytes, not from {a_kind(id)}: {brief(id)}")
        if len(id) != self.SIZE:
            raise ValueError(
                f"{type(self).__name__} needs {self.SIZE} bytes, got {len(id)}. "
                "Hex digits go through from_hex()."
            )
        object.__setattr__(self, "_raw", id)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    @classmethod
    def from_binary(cls, id_bytes: bytes) -> Self:
        return cls(id_bytes)

    @classmethod
    def from_hex(cls, hex_id: str) -> Self:
        """The id whose ``hex()`` is ``hex_id``. Raises ValueError for other text, else TypeError."""
        try:
            raw = bytes.fromhex(hex_id)
        except (TypeError, ValueError) as problem:
            raise type(problem)(f"{cls.__name__}: {brief(hex_id)} is not a string of hex digits") from None
        if len(raw) != cls.SIZE:
            raise ValueError(
                f"{cls.__name__} needs {2 * cls.SIZE} hex digits, got {len(hex_id)}: {brief(hex_id)}"
            )
        return cls(raw)

    @classmethod
    def from_random(cls) -> Self:
        """A new id that nothing has."""
        return cls(os.urandom(cls.SIZE))

    @classmethod
    def nil(cls) -> Self:
        """The id of nothing: all bytes 0xff."""
        return cls(b"\xff" * cls.SIZE)

    @classmethod
    def size(cls) -> int:
        return cls.SIZE

    def binary(self) -> bytes:
        return self._raw

    def hex(self) -> str:
        return self._raw.hex()

    def is_nil(self) -> bool:
        return self._raw == b"\xff" * self.SIZE

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._raw.hex()})"

    def __hash__(self) -> int:
        return hash(self._raw)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._raw == self._raw

    def __reduce__(self) -> tuple[type[Self], tuple[bytes]]:
        return type(self), (self._raw,)

    def _not_nil(self) -> None:
        if self.is_nil():
            raise ValueError(f"{type(self).__name__} is nil, and does not belong to anything")


class UniqueID(BaseID):
    """28 bytes that name something once."""

    __slots__ = ()


class NodeID(UniqueID):
    __slots__ = ()


class WorkerID(UniqueID):
    __slots__ = ()


class FunctionID(UniqueID):
    __slots__ = ()


class ActorClassID(UniqueID):
    __slots__ = ()


class ClusterID(UniqueID):
    __slots__ = ()


class JobID(BaseID):
    """A driver's number in its cluster.

    >>> JobID.from_int(1).hex()
    '01000000'
    >>> JobID.from_int(5).int()
    5
    """

    __slots__ = ()
    SIZE = ids.JOB_ID_BYTES

    @classmethod
    def from_int(cls, value: builtins.int) -> Self:
        """Raises TypeError for what is no int, ValueError for one that no job can have."""
        number = integer(0, 2 ** (8 * ids.JOB_ID_BYTES) - 1)
        try:
            return cls(ids.job_id_of_int(number(value)))
        except (TypeError, ValueError) as problem:
            raise type(problem)(f"JobID.from_int({brief(value)}): the number {problem}") from None

    def int(self) -> builtins.int:
        return builtins.int.from_bytes(self._raw, "little")


class ActorID(BaseID):
    """
    >>> ActorID(bytes(12) + JobID.from_int(7).binary()).job_id
    JobID(07000000)
    """

    __slots__ = ()
    SIZE = ids.ACTOR_ID_BYTES

    @property
    def job_id(self) -> JobID:
        """The job that created the actor."""
        return JobID(ids.job_of_actor(ids.ActorId(self._raw)))


class TaskID(BaseID):
    """
    >>> TaskID.for_driver_task(JobID.from_int(1)).job_id()
    JobID(01000000)
    """

    __slots__ = ()
    SIZE = ids.TASK_ID_BYTES

    @classmethod
    def for_driver_task(cls, job_id: JobID) -> Self:
        """The task that a driver's own code counts as."""
        return cls(ids.driver_task_id(ids.JobId(job_id.binary())))

    @classmethod
    def for_actor_creation_task(cls, actor_id: ActorID) -> Self:
        """The task that is the constructor's call."""
        return cls(ids.actor_creation_task_id(ids.ActorId(actor_id.binary())))

    def actor_id(self) -> ActorID:
        """The actor whose method this is; of a plain task, a placeholder. Raises ValueError if nil."""
        self._not_nil()
        return ActorID(ids.actor_of_task(ids.TaskId(self._raw)))

    def job_id(self) -> JobID:
        """Raises ValueError if nil."""
        self._not_nil()
        return JobID(ids.job_of_task(ids.TaskId(self._raw)))


class PlacementGroupID(BaseID):
    __slots__ = ()
    SIZE = ids.PLACEMENT_GROUP_ID_BYTES

    @classmethod
    def of(cls, job_id: JobID) -> Self:
        """A new id of a group that belongs to ``job_id``."""
        return cls(os.urandom(cls.SIZE - JobID.SIZE) + job_id.binary())
