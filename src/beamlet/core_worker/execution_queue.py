"""Work that has arrived in a worker and has not begun. Sans-IO, but for the Waiter that idle threads bring.

Threads take from the head, owners steal from the tail.  One queue per concurrency group.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from beamlet.protocol.peer import PushTask
from beamlet.rpc.turns import Waiter

#: (who wants the answer, what to run)
Item = tuple[Any, Any]


class ExecutionQueue:
    """Guarded by the core worker's lock."""

    __slots__ = ("_idle", "items")

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self._idle: deque[Waiter] = deque()

    def put(self, item: Item) -> None:
        """Queue it, and let one idle thread know."""
        self.items.append(item)
        if self._idle:
            self._idle.popleft().complete()

    def take(self, waiter: Waiter) -> Item | None:
        """The next item; None: ``waiter`` will be completed when there is one."""
        if self.items:
            return self.items.popleft()
        self._idle.append(waiter)
        return None

    def steal(self, thief: Any, most: int) -> list[int]:
        """Take up to ``most`` of ``thief``'s tasks from the tail; their seqs."""
        seqs: list[int] = []
        kept: list[Item] = []
        while self.items and len(seqs) < most:
            item = self.items.pop()
            if item[0] is thief and type(item[1]) is PushTask:
                seqs.append(item[1].seq)
            else:
                kept.append(item)
        self.items.extend(reversed(kept))
        return seqs

    def remove_task(self, task_id: bytes) -> Item | None:
        """Take out the work of that id, if it has not begun (cancel)."""
        for item in self.items:
            if getattr(item[1], "task_id", None) == task_id:
                self.items.remove(item)
                return item
        return None

    def __len__(self) -> int:
        return len(self.items)
