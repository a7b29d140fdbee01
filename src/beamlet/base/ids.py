"""Identifiers: what they are made of and how one names another.

Inside Beamlet an id is plain ``bytes`` with a distinct static type (``NewType``): hashing and comparing
cost what bytes cost, and mypy still keeps a TaskId out of an ObjectId's place.  The classes users meet
(``beamlet.ObjectRef``, ``beamlet.ActorID`` …) live in ``api/``.

    JobId     4    a counter, little endian
    ActorId  16    12 unique + JobId           (nil actor: 12 × 0xff + JobId)
    TaskId   24     8 unique + ActorId
    ObjectId 28    TaskId + 4-byte index       (returns count from 1, puts from PUT_INDEX_BASE)
    NodeId, WorkerId, LeaseId … 28 random bytes; PlacementGroupId 18

A child's TaskId is a pure function of its parent's TaskId, of the attempt of the parent that makes it, and of
the parent's submission counter.  A task that is run again names its results as it did the first time, for
they are the same objects, and what it makes otherwise: calls of the attempt that died may still run, and what
it stored may still be read, both on behalf of another owner.
"""

from __future__ import annotations

import os
from typing import NewType

from beamlet.base.digest import digest

JobId = NewType("JobId", bytes)
ActorId = NewType("ActorId", bytes)
TaskId = NewType("TaskId", bytes)
ObjectId = NewType("ObjectId", bytes)
NodeId = NewType("NodeId", bytes)
WorkerId = NewType("WorkerId", bytes)
PlacementGroupId = NewType("PlacementGroupId", bytes)
FunctionKey = NewType("FunctionKey", bytes)
#: Where a core worker can be reached: NodeId + WorkerId. Opaque to everyone but ``worker_of``/``node_of``.
Address = NewType("Address", bytes)

JOB_ID_BYTES = 4
ACTOR_ID_BYTES = 16
TASK_ID_BYTES = 24
OBJECT_ID_BYTES = 28
UNIQUE_ID_BYTES = 28
PLACEMENT_GROUP_ID_BYTES = 18

#: Indexes below are a task's returns, from here on what it ``put``.
PUT_INDEX_BASE = 1 << 24

_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1


def new_node_id() -> NodeId:
    return NodeId(os.urandom(UNIQUE_ID_BYTES))


def new_worker_id() -> WorkerId:
    return WorkerId(os.urandom(UNIQUE_ID_BYTES))


def job_id_of_int(number: int) -> JobId:
    return JobId(number.to_bytes(JOB_ID_BYTES, "little"))


def nil_actor_id(job: JobId) -> ActorId:
    """The actor part of ids that belong to no actor."""
    return ActorId(b"\xff" * (ACTOR_ID_BYTES - JOB_ID_BYTES) + job)


def is_nil_actor(actor: ActorId) -> bool:
    return actor[: ACTOR_ID_BYTES - JOB_ID_BYTES] == b"\xff" * (ACTOR_ID_BYTES - JOB_ID_BYTES)


def driver_task_id(job: JobId) -> TaskId:
    """The task a driver's own code counts as: 8 × 0xff + nil actor."""
    return TaskId(b"\xff" * 8 + nil_actor_id(job))


def own_task_id(worker: WorkerId, job: JobId) -> TaskId:
    """The task that a process's code counts as when it runs no task.

    Unlike ``driver_task_id`` it differs from process to process and session to session, so that what is named
    after it never meets a namesake: a reference of an earlier session may die in this one.
    """
    return TaskId(worker[:8] + nil_actor_id(job))


def actor_creation_task_id(actor: ActorId) -> TaskId:
    return TaskId(b"\x00" * 8 + actor)


def actor_of_task(task: TaskId) -> ActorId:
    return ActorId(task[8:24])


def attempt_id(task: TaskId, attempt: int) -> TaskId:
    """What is made by this attempt of a task (counting from 0) is named after this."""
    if not attempt:
        return task
    return TaskId(digest(task + attempt.to_bytes(8, "little"), 8) + task[8:])


def job_of_actor(actor: ActorId) -> JobId:
    return JobId(actor[12:16])


def job_of_task(task: TaskId) -> JobId:
    return JobId(task[20:24])


def task_of_object(object_id: ObjectId) -> TaskId:
    return TaskId(object_id[:TASK_ID_BYTES])


def index_of_object(object_id: ObjectId) -> int:
    return int.from_bytes(object_id[TASK_ID_BYTES:], "little")


def return_id(task: TaskId, index: int) -> ObjectId:
    """The id of a task's ``index``-th return value, counting from 1."""
    return ObjectId(task + index.to_bytes(4, "little"))


#: ``task + FIRST_RETURN`` is ``return_id(task, 1)``, without the arithmetic: the hot path's spelling.
FIRST_RETURN = (1).to_bytes(4, "little")


def put_id(task: TaskId, counter: int) -> ObjectId:
    """The id of the ``counter``-th object that a task put, counting from 1."""
    return ObjectId(task + (PUT_INDEX_BASE + counter).to_bytes(4, "little"))


def actor_handle_object(actor: ActorId) -> ObjectId:
    """The object whose reference count is the number of an actor's handles."""
    return return_id(actor_creation_task_id(actor), 1)


def make_address(node: NodeId, worker: WorkerId) -> Address:
    return Address(node + worker)


def node_of(address: Address) -> NodeId:
    return NodeId(address[:UNIQUE_ID_BYTES])


def worker_of(address: Address) -> WorkerId:
    return WorkerId(address[UNIQUE_ID_BYTES:])


class ChildIds:
    """Names the children of one attempt of a task: the n-th call of ``next_*`` always gives the same id.

    Uniqueness rests on 64 bits: a hash of the parent plus a full-period step per child.
    Not thread-safe; the core worker's lock guards it.
    """

    __slots__ = ("_base", "_count", "_named_after", "_nil_actor", "parent")

    def __init__(self, parent: TaskId, attempt: int = 0) -> None:
        self.parent = parent
        self._named_after = attempt_id(parent, attempt)
        self._nil_actor = nil_actor_id(job_of_task(parent))
        self._base = int.from_bytes(digest(self._named_after, 8), "little")
        self._count = 0

    def next_task(self) -> TaskId:
        """The next child that is a plain task."""
        self._base = base = (self._base + _GOLDEN) & _MASK64
        return TaskId(base.to_bytes(8, "little") + self._nil_actor)

    def next_call(self, actor: ActorId) -> TaskId:
        """The next child that is a call of ``actor``'s method."""
        self._base = base = (self._base + _GOLDEN) & _MASK64
        return TaskId(base.to_bytes(8, "little") + actor)

    def next_actor(self) -> ActorId:
        self._count += 1
        unique = digest(self._named_after + self._count.to_bytes(8, "little"), 12)
        return ActorId(unique + job_of_task(self.parent))


def short(raw: bytes) -> str:
    """Eight hex digits that tell ids apart in logs and messages."""
    return raw[:4].hex()
