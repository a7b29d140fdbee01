"""Work that has arrived in a worker and has not begun. Sans-IO, but for the Waiter that idle threads bring.

Threads take from the head, owners steal from the tail.  One queue per concurrency group; it has threads
started for it when there is work that no thread of its is free for, up to a limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from beamlet.protocol.gcs import StartActor
from beamlet.protocol.node import ExitWorker
from beamlet.protocol.peer import CallActor, PushTask
from beamlet.rpc.turns import Waiter

if TYPE_CHECKING:
    from beamlet.core_worker.peers import Peer

#: Work that its owner pushed and wants answered.
Pushed = PushTask | CallActor
#: What the raylet wants done once the work before it is.
Order = StartActor | ExitWorker
#: (who wants the answer, what to run); nobody waits for the answer to an order.
Item = tuple["Peer | None", Pushed | Order]


class ExecutionQueue:
    """Guarded by the core worker's lock."""

    __slots__ = ("_idle", "_start_thread", "_waking", "items", "threads_left")

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self._idle: deque[Waiter] = deque()
        #: A thread was woken, or started, and has not come for its item yet.
        self._waking = False
        #: How many more threads may be started.
        self.threads_left = 0
        self._start_thread: Callable[[], bool] = _no_more

    def allow_threads(self, count: int, start_thread: Callable[[], bool]) -> None:
        """Up to ``count`` more threads may come; each calls ``take`` with ``woken``.

        start_thread: starts one, or says that none can be had.
        """
        self.threads_left = count
        self._start_thread = start_thread

    def put(self, item: Item) -> None:
        """Queue it, and let an idle thread know."""
        self.items.append(item)
        if self._idle or self.threads_left:
            self._wake_one()

    def _wake_one(self) -> None:
        """One at a time: who comes for an item wakes the next, or has it started, if there is more to do.

        A burst of short calls is then done by the first few threads, instead of waking all of them to fight
        for the interpreter; calls that block still get a thread each.
        """
        if self._waking:
            return
        if self._idle:
            self._waking = True
            self._idle.popleft().complete()
        elif self.threads_left:
            self._waking = self._start_thread()
            self.threads_left = self.threads_left - 1 if self._waking else 0

    def take(self, waiter: Waiter, woken: bool = False) -> Item | None:
        """The next item; None: ``waiter`` will be completed when there is one. ``woken``: it just was."""
        if woken:
            self._waking = False
        if not self.items:
            self._idle.append(waiter)
            return None
        item = self.items.popleft()
        if self.items and (self._idle or self.threads_left):
            self._wake_one()
        return item

    def steal(self, thief: Peer, most: int) -> list[int]:
        """Take up to ``most`` of ``thief``'s tasks from the tail; their seqs."""
        seqs: list[int] = []
        kept: list[Item] = []
        while self.items and len(seqs) < most:
            item = self.items.pop()
            sender, message = item
            if sender is thief and isinstance(message, PushTask):
                seqs.append(message.seq)
            else:
                kept.append(item)
        self.items.extend(reversed(kept))
        return seqs

    def remove_task(self, task_id: bytes) -> Item | None:
        """Take out the work of that id, if it has not begun (cancel)."""
        for item in self.items:
            message = item[1]
            if isinstance(message, Pushed) and message.task_id == task_id:
                self.items.remove(item)
                return item
        return None

    def __len__(self) -> int:
        return len(self.items)


def _no_more() -> bool:
    return False
