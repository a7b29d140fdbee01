"""Work that has arrived in a worker and has not begun. Sans-IO, but for the Waiter that idle threads bring.

Threads take from the head, owners steal from the tail.  One queue per concurrency group; its ``crew`` are the
threads that serve it.

What is cancelled is marked and passed over, so that taking out all of many costs one walk through them; who
never looks for anything pays nothing for that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from beamlet.core_worker.executing.crew import Crew
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

    __slots__ = ("_found", "_removed_count", "crew", "items")

    def __init__(self) -> None:
        #: In order. Removed ones in it are passed over; the first is none.
        self.items: deque[Item] = deque()
        #: By task id, what stood in ``items`` when somebody last looked for something; None: it was removed.
        #: What is not in it came later.
        self._found: dict[bytes, Item | None] = {}
        #: Removed ones in ``items``.
        self._removed_count = 0
        self.crew = Crew(lambda: bool(self.items))

    def put(self, item: Item) -> None:
        """Queue it, and let a thread know."""
        self.items.append(item)
        crew = self.crew
        if crew.idle or crew.may_start:
            crew.help_wanted()

    def take(self, thread: Waiter, woken: bool = False) -> Item | None:
        """The next item; None: ``thread`` will be completed when there is one for it.

        woken: it just was, or was started.
        """
        crew = self.crew
        if woken:
            crew.is_waking = False
        if not self.items or not (crew.is_alone or crew.may_take(thread)):
            crew.rest(thread)
            return None
        item = self.items.popleft()
        if self._found:
            self._taken(item)
        if self.items and (crew.idle or crew.may_start):
            crew.help_wanted()
        return item

    def pop(self) -> Item | None:
        """The next item, for a thread that does not wait for one."""
        if not self.items:
            return None
        item = self.items.popleft()
        if self._found:
            self._taken(item)
        return item

    def _taken(self, item: Item) -> None:
        """It is not in ``items`` any more."""
        self._found.pop(_id_of(item), None)
        while self.items and self._is_removed(self.items[0]):
            self._pass_over(self.items.popleft())

    def _is_removed(self, item: Item) -> bool:
        return self._found.get(_id_of(item), item) is None

    def _pass_over(self, item: Item) -> None:
        del self._found[_id_of(item)]
        self._removed_count -= 1

    def steal(self, thief: Peer, most: int) -> list[int]:
        """Take up to ``most`` of ``thief``'s tasks from the tail; their seqs."""
        seqs: list[int] = []
        kept: list[Item] = []
        while self.items and len(seqs) < most:
            item = self.items.pop()
            sender, message = item
            if self._found and self._is_removed(item):
                self._pass_over(item)
            elif sender is thief and isinstance(message, PushTask):
                seqs.append(message.seq)
                self._found.pop(message.task_id, None)
            else:
                kept.append(item)
        self.items.extend(reversed(kept))
        return seqs

    def take_out(self, is_wanted: Callable[[Item], bool]) -> list[Item]:
        """Take out all of a kind."""
        items = self.in_order()
        self._keep([item for item in items if not is_wanted(item)])
        return [item for item in items if is_wanted(item)]

    def in_order(self) -> list[Item]:
        """All that waits."""
        return [item for item in self.items if not self._is_removed(item)]

    def _keep(self, items: list[Item]) -> None:
        self.items.clear()
        self.items.extend(items)
        self._found.clear()
        self._removed_count = 0

    def find(self, task_id: bytes) -> Item | None:
        """The work of that id, if it has not begun. To find all of many costs one walk through them."""
        if task_id not in self._found:
            for item in reversed(self.items):  # what came since the last look stands at the end
                name = _id_of(item)
                if name in self._found:
                    break
                if name:
                    self._found[name] = item
        return self._found.get(task_id)

    def remove_task(self, task_id: bytes) -> Item | None:
        """Take out the work of that id, if it has not begun (cancel). Costs the same wherever it stands."""
        item = self.find(task_id)
        if item is None:
            return None
        self._found[task_id] = None
        self._removed_count += 1
        if self._removed_count * 2 > len(self.items):
            self._keep(self.in_order())
        else:
            while self._is_removed(self.items[0]):
                self._pass_over(self.items.popleft())
        return item

    def __len__(self) -> int:
        return len(self.items) - self._removed_count


def _id_of(item: Item) -> bytes:
    """The task's id; orders have none."""
    message = item[1]
    return message.task_id if isinstance(message, Pushed) else b""
