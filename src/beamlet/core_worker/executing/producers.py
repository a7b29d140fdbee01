"""Generator tasks that run here: how far their owners have read, and whether they still want more.

A generator with a limit waits for its owner between two items; one whose owner dropped it, or died, is told
to stop at its next item.
"""

from __future__ import annotations

from collections.abc import Callable

from beamlet.core_worker.executing.execution_queue import Pushed
from beamlet.core_worker.executing.work import Work
from beamlet.core_worker.owning.ports import Blocking
from beamlet.core_worker.peers import Peer
from beamlet.rpc.turns import SharedReactor, Waiter

#: The ``stream_limit`` of a generator that was dropped while it was queued.
NONE_WANTED = 0


class Producer:
    """One generator task. Guarded by the core worker's lock, but for reading ``is_dropped``."""

    __slots__ = ("is_dropped", "on_change", "owner", "taken_count")

    def __init__(self, owner: Peer) -> None:
        self.owner = owner
        #: Items that the owner's program has taken.
        self.taken_count = 0
        #: Nobody wants further items.
        self.is_dropped = False
        #: Called when either changes: wakes whoever waits.
        self.on_change: Callable[[], None] | None = None

    def may_go_on(self, needed: int) -> bool:
        return self.taken_count >= needed or self.is_dropped

    def changed(self) -> None:
        if self.on_change is not None:
            self.on_change()


class Producers:
    """All generator tasks that run in this process."""

    def __init__(self, reactor: SharedReactor, blocking: Blocking, work: Work) -> None:
        self._lock = reactor.lock
        self._blocking = blocking
        self._work = work
        self._by_task: dict[bytes, Producer] = {}

    # -- the thread that runs it (no lock) -------------------------------------------------------

    def begin(self, work: Pushed, owner: Peer) -> Producer:
        """Before its first item: the owner may have taken that one before we wait for it."""
        producer = Producer(owner)
        with self._lock:
            self._by_task[work.task_id] = producer
            context = self._work.running.get(work.task_id)
            dropped_early = context is not None and context.dropped
            # An actor begins what is queued also for a caller that died meanwhile: it will take no item.
            producer.is_dropped = work.stream_limit == NONE_WANTED or dropped_early or owner.gone
        return producer

    def end(self, task_id: bytes) -> None:
        """After its last item, or instead of it."""
        with self._lock:
            self._by_task.pop(task_id, None)

    def wait(self, producer: Producer, needed: int) -> None:
        """Until ``needed`` items were taken, or nobody wants more."""
        while True:
            with self._lock:
                if producer.may_go_on(needed):
                    producer.on_change = None
                    return
                waiter = Waiter()
                producer.on_change = waiter.complete
            self._blocking.block_until(waiter, None)

    # -- messages (under the lock) ---------------------------------------------------------------

    def consumed(self, task_id: bytes, count: int) -> None:
        """The owner's program took items."""
        producer = self._by_task.get(task_id)
        if producer is not None:
            producer.taken_count = count
            producer.changed()

    def drop(self, task_id: bytes) -> None:
        """Nobody wants more of it: it stops at its next item, or its first."""
        producer = self._by_task.get(task_id)
        if producer is not None:
            producer.is_dropped = True
            producer.changed()
        elif (queued := self._work.find(task_id)) is not None:
            queued.stream_limit = NONE_WANTED
        elif (context := self._work.running.get(task_id)) is not None:
            context.dropped = True  # its arguments are being made

    def owner_gone(self, owner: Peer) -> None:
        for producer in self._by_task.values():
            if producer.owner is owner:
                producer.is_dropped = True
                producer.changed()

    def __len__(self) -> int:
        return len(self._by_task)
