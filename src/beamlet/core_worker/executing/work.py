"""What this process was given to do: queued, running, and the actor it is. Empty in drivers.

Guarded by the core worker's lock, but for ``running``, which threads fill and empty as they begin and end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from beamlet.base.ids import actor_creation_task_id
from beamlet.core_worker.context import TaskContext
from beamlet.core_worker.executing.execution_queue import ExecutionQueue, Pushed
from beamlet.core_worker.peers import Peer
from beamlet.protocol.gcs import ActorSpec
from beamlet.protocol.peer import CallActor

if TYPE_CHECKING:
    from beamlet.core_worker.executing.async_actor import AsyncCalls


#: What is asked of an actor to learn that it is there.
READY = "__ray_ready__"
#: Asks it to end, once what it was asked before is done.
TERMINATE = "__ray_terminate__"

#: Threads that begin something at the same time are fewer; most cancels that come too late are forgotten.
_CANCELLED_EARLY_MAX = 64


class Work:
    """One per process."""

    def __init__(self) -> None:
        #: One thread does it all, in the order in which it came.
        self.takes_turns = True
        #: Of the main thread: tasks, and the calls of an actor's default concurrency group.
        self.queue = ExecutionQueue()
        #: Of an actor's other concurrency groups.
        self.groups: dict[str, ExecutionQueue] = {}
        #: Of calls that are answered whatever users' methods do; only where calls may overtake one another.
        self.system: ExecutionQueue | None = None
        #: What runs now, by task id.
        self.running: dict[bytes, TaskContext] = {}
        #: Items that threads have taken from their queues and not answered yet. Under the lock.
        self.in_hand = 0
        #: Cancelled while a thread was just taking it from its queue, or after it had ended: newest last.
        self.cancelled_early: dict[bytes, None] = {}
        #: The actor that this process is.
        self.spec: ActorSpec | None = None
        self.incarnation = 0
        #: Its constructor has not returned yet.
        self.is_constructing = False
        #: Takes the calls instead of the queues when the actor runs on an asyncio loop.
        self.loop: AsyncCalls | None = None

    @property
    def queues(self) -> tuple[ExecutionQueue, ...]:
        named = self.queue, *self.groups.values()
        return named if self.system is None else (*named, self.system)

    def queue_of(self, call: CallActor) -> ExecutionQueue:
        if self.system is not None and call.method == READY:
            return self.system
        return self.groups.get(call.group, self.queue) if call.group else self.queue

    def position_of(self, task_id: bytes) -> int | None:
        """How many calls are ahead of one that has not begun."""
        for queue in self.queues:
            if (item := queue.find(task_id)) is not None:
                return queue.in_order().index(item) + 1
        return None

    def remove(self, task_id: bytes) -> tuple[Peer, Pushed] | None:
        """Take out a task or call that has not begun: who wants its answer, and what it is."""
        for queue in self.queues:
            item = queue.remove_task(task_id)
            if item is not None:
                sender, message = item
                assert sender is not None, "orders have no task id"
                assert isinstance(message, Pushed), "orders have no task id"
                return sender, message
        return None

    def cancel_if_it_begins(self, task_id: bytes) -> None:
        """It is neither queued nor running: a thread that has taken it out finds this when it begins."""
        self.cancelled_early[task_id] = None
        if len(self.cancelled_early) > _CANCELLED_EARLY_MAX:
            del self.cancelled_early[next(iter(self.cancelled_early))]

    def hears_cancel(self, thread: int) -> bool:
        """Whether ``thread``, which a signal interrupts, runs something that was cancelled."""
        for context in list(self.running.values()):
            if context.cancelled and context.thread == thread:
                context.heard = True
                return True
        return False

    def find(self, task_id: bytes) -> Pushed | None:
        """A task or call that has not begun."""
        for queue in self.queues:
            if (item := queue.find(task_id)) is not None:
                assert isinstance(item[1], Pushed), "orders have no task id"
                return item[1]
        return self.loop.find(task_id) if self.loop is not None else None

    def is_creation(self, task_id: bytes) -> bool:
        """Whether that is the constructor which runs here now."""
        return (
            self.spec is not None
            and self.is_constructing
            and task_id == actor_creation_task_id(self.spec.actor_id)
        )
