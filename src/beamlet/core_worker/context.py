"""Which task the calling code belongs to: names for its children, and what get_runtime_context() tells."""

from __future__ import annotations

from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from beamlet.base.ids import ActorId, ChildIds, ObjectId, TaskId, attempt_id, put_id
from beamlet.core_worker.owning.borrowing import ArgumentsGuard
from beamlet.object_store.views import LentView

if TYPE_CHECKING:
    from beamlet.core_worker.peers import Peer


class TaskContext(msgspec.Struct, eq=False):
    """One run of a task, seen from inside. The driver's own code is a task too, one without a name."""

    task_id: TaskId
    name: str = ""
    function_name: str = ""
    resources: dict[str, int] | None = None
    attempt: int = 0
    #: Which thread runs it; 0: it is a coroutine.
    thread: int = 0
    #: Who waits for its answer.
    asker: Peer | None = None
    #: When this run began (monotonic seconds).
    started: float = msgspec.field(default_factory=monotonic)
    cancelled: bool = False
    #: Its thread has been interrupted for that.
    heard: bool = False
    #: Nobody wants the items of the generator that it makes.
    dropped: bool = False
    #: What its arguments' references travel under, if there are any.
    guard: ArgumentsGuard | None = None
    #: Views of arguments that its owner lent for as long as it runs; None if nothing is lent.
    in_place: list[LentView] | None = None
    _children: ChildIds | None = None
    _puts: int = 0

    @property
    def children(self) -> ChildIds:
        """Guarded by the core worker's lock."""
        if self._children is None:
            self._children = ChildIds(self.task_id, self.attempt)
        return self._children

    def next_put(self) -> ObjectId:
        self._puts += 1
        named_after = attempt_id(self.task_id, self.attempt) if self.attempt else self.task_id
        return put_id(named_after, self._puts)

    def next_actor(self) -> ActorId:
        return self.children.next_actor()


#: The task whose code runs in this thread or coroutine. None: the process's base context.
current_task: ContextVar[TaskContext | None] = ContextVar("beamlet_task", default=None)


class Contexts:
    """Whose code is running: the task of the calling thread or coroutine, or the process itself."""

    def __init__(self, base: TaskContext) -> None:
        #: What code outside any task belongs to. Replaced when a worker joins a job or becomes an actor.
        self.base = base

    def current(self) -> TaskContext:
        return current_task.get() or self.base

    def children(self) -> ChildIds:
        """``current().children``, on the way of every call."""
        context = current_task.get() or self.base
        return context._children or context.children
