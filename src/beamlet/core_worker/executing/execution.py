"""What others push to this worker: queued, run by its threads; stolen, cancelled or ended on the way.

    arrived, control, from raylet ──▶ Work (queues) ──▶ serve / run_next ──▶ run(item) ──▶ Answers

Handlers run under the core worker's lock in whichever thread reads the sockets; ``serve`` is the life of a
thread that runs user code.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial

from beamlet.base.ids import TaskId
from beamlet.core_worker.context import TaskContext
from beamlet.core_worker.executing.answers import Answers
from beamlet.core_worker.executing.blocked import BlockedThreads
from beamlet.core_worker.executing.crew import LOOK_S
from beamlet.core_worker.executing.execution_queue import ExecutionQueue, Item, Order, Pushed
from beamlet.core_worker.executing.ports import OwnTasks
from beamlet.core_worker.executing.producers import Producers
from beamlet.core_worker.executing.work import Work
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.peers import Peer
from beamlet.processes.prompt_thread import PromptThread, can_start
from beamlet.protocol import node
from beamlet.protocol.peer import CallActor, CancelTask, HandedBack, PushTask, StealTasks
from beamlet.rpc.turns import SharedReactor, Waiter

#: For so long a worker in a hurry goes on with what it runs.
_HURRIED_S = 0.1
#: When a cancelled task that has not heard of it is interrupted again: at first, and at longest.
_AGAIN_S = 0.02
_AGAIN_MAX_S = 1.0


class Execution:
    """The executing side of a worker. ``run(item)`` runs one item in the calling thread."""

    def __init__(
        self,
        reactor: SharedReactor,
        link: NodeLink,
        work: Work,
        answers: Answers,
        producers: Producers,
        blocked: BlockedThreads,
        own_tasks: OwnTasks,
        run: Callable[[Item], None],
    ) -> None:
        self._reactor = reactor
        self._lock = reactor.lock
        self._link = link
        self._work = work
        self._queue = work.queue
        self._answers = answers
        self._producers = producers
        self._blocked = blocked
        self._own_tasks = own_tasks
        self._run = run

    # -- arrivals (under the lock) ---------------------------------------------------------------

    def task_arrived(self, sender: Peer, task: PushTask) -> None:
        if self._blocked.count:
            # It would wait behind a task that waits, perhaps for this very one.
            sender.send(HandedBack([task.seq], True))
        else:
            self._queue.put((sender, task))

    def call_arrived(self, sender: Peer, call: CallActor) -> None:
        work = self._work
        if work.takes_turns:
            self._queue.put((sender, call))
        elif work.loop is not None:
            work.loop.deliver((sender, call))
        else:
            work.queue_of(call).put((sender, call))

    def steal(self, sender: Peer, message: StealTasks) -> None:
        sender.send(HandedBack(self._queue.steal(sender, message.most)))

    def order_arrived(self, order: Order) -> None:
        """To be followed after the work that is queued."""
        if self._work.loop is not None:
            self._work.loop.take_order(order)
        else:
            self._queue.put((None, order))

    def exit_asked(self, order: node.ExitWorker) -> None:
        if order.optional and self._own_tasks.is_needed(order.job_is_over):
            self._link.send(node.Staying())
        elif order.graceful:
            self.order_arrived(order)
            if order.hurried:
                self._reactor.call_later(_HURRIED_S, self._end_amid_calls)
        else:
            os._exit(0)

    def _end_amid_calls(self) -> None:
        """What keeps it is none of its clean-up: that has not begun."""
        if self._work.running or self._work.is_constructing:
            os._exit(0)

    def peer_gone(self, peer: Peer) -> None:
        """Nobody waits for these any more: an owner that dies takes its tasks with it."""
        for queue in self._work.queues:
            queue.take_out(lambda item: item[0] is peer and type(item[1]) is not CallActor)
        self._producers.owner_gone(peer)
        self._answers.receiver_gone(peer)

    # -- cancelling (under the lock) -------------------------------------------------------------

    def cancel(self, sender: Peer, message: CancelTask) -> None:
        queued = self._work.remove(message.task_id)
        if queued is not None:
            self._answers.send_cancelled(*queued)
            return
        loop = self._work.loop
        context = self._work.running.get(message.task_id)
        if context is None and loop is not None and loop.is_to_begin(message.task_id):
            loop.cancel(message.task_id)
            return
        if context is None:
            self._own_tasks.cancel_task(TaskId(message.task_id), message.force, message.recursive)
            self._work.cancel_if_it_begins(message.task_id)
            return
        context.cancelled = True
        if message.recursive:
            self._own_tasks.cancel_children(message.task_id, message.force)
        if message.force:
            reason = f"cancel(force=True) of task {context.name}"
            self._link.send(node.ExitedOnPurpose(reason, message.task_id))
            self._reactor.flush()
            os._exit(1)
        self._producers.drop(message.task_id)
        if loop is not None:
            loop.cancel(message.task_id)
        elif self._work.takes_turns and context.thread == threading.main_thread().ident:
            self._interrupt(context, _AGAIN_S)

    def _interrupt(self, context: TaskContext, again_s: float) -> None:
        """Break sleeps and reads as well as loops: a signal's handler raises in the main thread.

        Again until that has happened: a signal that comes between the interpreter's last look for one and a
        system call does not end that call.
        """
        if context.heard or self._work.running.get(context.task_id) is not context:
            return
        signal.pthread_kill(context.thread, signal.SIGINT)
        later_s = min(2 * again_s, _AGAIN_MAX_S)
        self._reactor.call_later(again_s, lambda: self._interrupt(context, later_s))

    # -- running (no lock) -----------------------------------------------------------------------

    def serve(self, queue: ExecutionQueue, woken: bool = False) -> None:
        """Run what comes until the process ends. One thread's life; ``woken``: it was started for an item."""
        reactor, run = self._reactor, self._run
        lock = reactor.bare_lock  # to take something queues nothing
        work, waiter = self._work, Waiter()
        has_item = False
        while True:
            with lock:
                item = queue.take(waiter, woken)
                if (item is not None) is not has_item:
                    has_item = not has_item
                    work.in_hand += 1 if has_item else -1
            if item is None:
                if not reactor.wait(waiter):
                    return
                waiter.remaining = 1
                woken = True
                continue
            woken = False
            try:
                run(item)
            except Exception as error:
                self._failed(item, error)

    def serve_with(self, queue: ExecutionQueue, count: int, name: str) -> None:
        """Let up to ``count`` threads of their own serve ``queue``, started when there is work for them."""
        with self._lock:
            queue.crew.allow(count, _Threads(self._reactor, partial(self.serve, queue, True), name))

    def _failed(self, item: Item, error: Exception) -> None:
        """A mistake of ours in running ``item``: whoever waits for it learns so, and the thread goes on."""
        sender, message = item
        if sender is not None and isinstance(message, Pushed):
            self._work.running.pop(message.task_id, None)
            self._answers.send_failure(sender, message, error)
        else:
            self._reactor.containment.contain(error, f"following {type(message).__name__}")

    def run_next(self) -> bool:
        """Run the oldest item that is queued, in the calling thread; False if there is none.

        What ``serve`` does in a loop, for whoever drives a worker without threads.
        """
        with self._lock:
            item = next((item for queue in self._work.queues if (item := queue.pop()) is not None), None)
        if item is None:
            return False
        try:
            self._run(item)
        except Exception as error:
            self._failed(item, error)
        return True


class _Threads:
    """Of this process, for one crew. ``life``: what each does."""

    def __init__(self, reactor: SharedReactor, life: Callable[[], None], name: str) -> None:
        self._reactor = reactor
        self._life = life
        self._name = name
        self._numbers = itertools.count()
        self.now = reactor.now
        self._has_said = False

    def start(self) -> bool:
        thread = PromptThread(target=self._life, name=f"{self._name}-{next(self._numbers)}", daemon=True)
        is_started = can_start(thread)
        if not is_started and not self._has_said:
            self._has_said = True
            reason = "the system has no thread for it (ulimit -u, or pids.max of its control group)"
            print(
                f"{thread.name} could not be started: {reason}; until it has, others do its work",
                file=sys.stderr,
            )
        return is_started

    def look_later(self, look: Callable[[], None], after_s: float = LOOK_S) -> None:
        self._reactor.call_later(after_s, look)
        if not self._reactor.is_dispatching:
            self._reactor.ask_flush()  # whoever leads may have meant to sleep for longer
