"""What one scheduling key has: the tasks that queue, the workers that are ours, and how long its tasks take.

Sans-IO. ``task_submitter`` decides what becomes of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from beamlet.core_worker.submitting.pending import PendingTask
from beamlet.core_worker.submitting.task_spec import SchedulingKey
from beamlet.protocol.message import Message
from beamlet.protocol.node import LeaseName

#: Work pushed ahead to one worker, in microseconds of its run time.
PIPELINE_US = 2000.0
#: Tasks pushed ahead to one worker at most.
PIPELINE_MAX = 512
#: What a task costs its worker beside the user's code.
_OVERHEAD_US = 8.0


class Link(Protocol):
    """What carries messages to a worker."""

    def send(self, message: Message) -> None: ...


L = TypeVar("L", bound=Link)


class LeasedWorker(Generic[L]):
    """A worker that is ours to push tasks of one key to."""

    __slots__ = (
        "accelerators",
        "address",
        "asked_at_seq",
        "barren",
        "blocked",
        "idle_since",
        "in_flight",
        "key",
        "lease",
        "leaving",
        "link",
        "next_seq",
        "pid",
        "review_at",
        "reviewed_s",
        "stealing",
    )

    def __init__(self, lease: LeaseName, address: bytes, pid: int, link: L, key: KeyState[L]) -> None:
        self.lease = lease
        self.address = address
        self.pid = pid
        self.link = link
        self.key = key
        #: By ``seq``, oldest first: the first is running, the rest wait behind it.
        self.in_flight: dict[int, PendingTask] = {}
        self.next_seq = 1
        #: When it ran dry (monotonic); 0.0 while it has work.
        self.idle_since = 0.0
        #: It waits in ``get``: nothing more is pushed until it answers something.
        self.blocked = False
        #: A StealTasks to it is unanswered.
        self.stealing = False
        #: It had nothing to give when it was asked last; its next answer or task changes that.
        self.barren = False
        #: ``next_seq`` when the last StealTasks was sent.
        self.asked_at_seq = 0
        #: It takes no more tasks (max_calls).
        self.leaving = False
        self.accelerators: dict[str, list[int]] | None = None
        #: ``next_seq`` at which the shell looks at the pace again, and when it did (monotonic; 0.0: never).
        self.review_at = 1
        self.reviewed_s = 0.0


class KeyState(Generic[L]):
    """Queue, workers and pace of one scheduling key."""

    __slots__ = (
        "ask_again_at",
        "average_us",
        "depth_max",
        "dropped_count",
        "key",
        "queue",
        "requests",
        "workers",
    )

    def __init__(self, key: SchedulingKey) -> None:
        self.key = key
        #: A request was refused: when to ask again for who waits (monotonic); 0.0: none was.
        self.ask_again_at = 0.0
        #: What waits for a worker. Settled tasks in it (cancelled ones) are passed over; the first is none.
        self.queue: deque[PendingTask] = deque()
        #: Settled tasks in ``queue``.
        self.dropped_count = 0
        self.workers: list[LeasedWorker[L]] = []
        #: ``req`` of unanswered lease requests.
        self.requests: dict[int, None] = {}
        #: Moving average of run times; negative while unknown.
        self.average_us = -1.0
        #: Of several at a worker that died, nobody knows which had run; and one that is worn out (max_calls)
        #: may run nothing more.
        self.depth_max = 1 if key.once or key.alone else PIPELINE_MAX

    def name_of_next(self) -> str:
        """The task that one more worker would run: the next in the queue, else one behind another."""
        behind = (task for worker in self.workers for task in worker.in_flight.values())
        task = self.queue[0] if self.queue else next(behind, None)
        return task.spec.name if task is not None else ""

    @property
    def queued_count(self) -> int:
        return len(self.queue) - self.dropped_count

    def take(self) -> PendingTask:
        """The next task off the queue."""
        task = self.queue.popleft()
        if self.dropped_count:
            self._trim()
        return task

    def drop(self, task: PendingTask) -> None:
        """A task of the queue is settled. Costs the same wherever in the queue it stands."""
        task.settled = True
        self.dropped_count += 1
        if self.dropped_count * 2 > len(self.queue):
            kept = [task for task in self.queue if not task.settled]
            self.queue.clear()
            self.queue.extend(kept)
            self.dropped_count = 0
        else:
            self._trim()

    def _trim(self) -> None:
        while self.queue and self.queue[0].settled:
            self.queue.popleft()
            self.dropped_count -= 1

    def put_back(self, tasks: Sequence[PendingTask]) -> None:
        """Before all others, in this order."""
        for task in tasks:
            task.seq = 0
        self.queue.extendleft(reversed(tasks))

    def depth(self) -> int:
        """How many tasks one worker may have at once."""
        if self.average_us < 0:
            return 1
        return max(1, min(self.depth_max, int(PIPELINE_US / (self.average_us + _OVERHEAD_US))))

    def waiting_count(self) -> int:
        """Tasks that nobody is running: queued here, or behind another at a worker."""
        waiting = len(self.queue) - self.dropped_count
        for worker in self.workers:
            if len(worker.in_flight) > 1:
                waiting += len(worker.in_flight) - 1
        return waiting

    def roomiest(self, except_for: LeasedWorker[L] | None = None) -> LeasedWorker[L] | None:
        """The worker with the fewest tasks that may take another."""
        best: LeasedWorker[L] | None = None
        best_load = 0
        for worker in self.workers:
            if worker.blocked or worker.leaving or worker is except_for:
                continue
            load = len(worker.in_flight)
            if not load:
                return worker
            if load < (best_load or self.depth()):
                best, best_load = worker, load
        return best
