"""What others push to this worker: queued, run by its threads, answered; stolen or cancelled on the way.

Handlers (``arrived``, ``control``, ``from_raylet``) run under the core worker's lock in whichever thread
reads
the sockets; ``serve`` is the life of a thread that runs user code.  An answer may be held: until what its
task printed has reached the driver, and until the owners of references it kept know of that.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from beamlet.base.ids import TaskId
from beamlet.core_worker.context import TaskContext
from beamlet.core_worker.executing.execution_queue import ExecutionQueue, Item
from beamlet.core_worker.owning.borrowing import ArgumentsGuard
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.submitting import cancelling
from beamlet.exceptions import TaskCancelledError
from beamlet.protocol import node
from beamlet.protocol.gcs import StartActor
from beamlet.protocol.message import Message
from beamlet.protocol.peer import CallActor, CancelTask, HandedBack, PushTask, Results, StealTasks
from beamlet.rpc.turns import Waiter
from beamlet.serialization.values import dump_error

if TYPE_CHECKING:
    from beamlet.core_worker.core_worker import CoreWorker
    from beamlet.core_worker.executing.output import Output

_FLUSH_COUNT = 64
_FLUSH_QUIET_S = 200e-6


class HeldReply:
    """An answer that waits for ``waits`` acknowledgements."""

    __slots__ = ("message", "receiver", "waits")

    def __init__(self, receiver: Peer, message: Message) -> None:
        self.receiver = receiver
        self.message = message
        self.waits = 0


class Execution:
    """The executing side of a core worker. ``run(item)`` is set by worker_main."""

    def __init__(self, core: CoreWorker, output: Output) -> None:
        self._core = core
        self.output = output
        self.run: Callable[[Item], None] = _nothing_to_run
        self.queue = ExecutionQueue()
        self.groups: dict[str, ExecutionQueue] = {}
        #: Takes calls instead of the queue when the actor runs on an asyncio loop.
        self.deliver_async: Callable[[Item], None] | None = None
        self.on_job: Callable[[node.JobDescription], None] = _ignore_job
        #: What runs now, by task id, with the thread that runs it.
        self.running: dict[bytes, tuple[TaskContext, int, Peer | None]] = {}
        self._held: dict[int, HeldReply] = {}
        self._last_reply = 0
        self._blocked_count = 0
        self._leaving: node.ExitWorker | None = None
        #: Generators with a limit: [items taken so far, the Waiter of the thread that yields].
        self._producers: dict[bytes, list[Any]] = {}
        #: Cancels an asyncio call; set by the async actor.
        self.cancel_async: Callable[[bytes], bool] | None = None

    # -- arrivals (under the lock) ---------------------------------------------------------------

    def arrived(self, sender: Peer, message: PushTask | CallActor) -> None:
        if type(message) is PushTask:
            if self._blocked_count:
                # It would wait behind a task that waits, perhaps for this very one.
                sender.send(HandedBack([message.seq], True))
            else:
                self.queue.put((sender, message))
        elif self.deliver_async is not None:
            self.deliver_async((sender, message))
        else:
            self.queue_of(message).put((sender, message))

    def queue_of(self, message: Any) -> ExecutionQueue:
        return self.groups.get(message.group, self.queue) if message.group else self.queue

    def position_of(self, task_id: bytes) -> int | None:
        """How many calls are ahead of one that has not begun. Under the lock."""
        for queue in (self.queue, *self.groups.values()):
            for position, item in enumerate(queue.items):
                if item[0] is not None and item[1].task_id == task_id:
                    return position + 1
        return None

    def control(self, sender: Peer, message: StealTasks | CancelTask) -> None:
        if isinstance(message, StealTasks):
            sender.send(HandedBack(self.queue.steal(sender, message.most)))
        else:
            self.cancel(sender, message)

    def from_raylet(self, message: Any) -> None:
        if isinstance(message, node.OutputDelivered):
            self.reply_may_go(message.token)
        elif isinstance(message, node.AssignJob):
            self.on_job(message.job)
        elif isinstance(message, StartActor):
            self.queue.put((None, message))
        elif isinstance(message, node.ExitWorker):
            if message.optional and self._core.is_needed():
                self._core.link.send(node.Staying())
            elif message.graceful:
                self._leaving = message
                self.queue.put((None, message))
            else:
                os._exit(0)

    def peer_gone(self, peer: Peer) -> None:
        """Nobody waits for these any more: an owner that dies takes its tasks with it."""
        for queue in (self.queue, *self.groups.values()):
            kept = [item for item in queue.items if item[0] is not peer or type(item[1]) is CallActor]
            queue.items.clear()
            queue.items.extend(kept)

    # -- cancelling (under the lock) -------------------------------------------------------------

    def cancel(self, sender: Peer, message: CancelTask) -> None:
        for queue in (self.queue, *self.groups.values()):
            item = queue.remove_task(message.task_id)
            if item is not None:
                error = dump_error(TaskCancelledError(message.task_id.hex()))
                work = item[1]
                item[0].send(Results(work.seq, [error] * max(1, work.num_returns), failed=True))
                return
        running = self.running.get(message.task_id)
        if running is None:
            cancelling.cancel_task(self._core, TaskId(message.task_id), message.force, message.recursive)
            return
        context, thread, _ = running
        context.cancelled = True
        if message.recursive:
            tasks = self._core.submission.tasks
            for child in [i for i, pending in tasks.items() if pending.parent == message.task_id]:
                cancelling.cancel_task(self._core, child, message.force, True)
        if message.force:
            os._exit(1)
        if self.cancel_async is not None and self.cancel_async(message.task_id):
            return
        if thread == threading.main_thread().ident and self.deliver_async is None:
            # Breaks sleeps and reads as well as loops: a signal's handler raises in the main thread.
            signal.pthread_kill(thread, signal.SIGINT)

    # -- running (no lock) -----------------------------------------------------------------------

    def serve(self, queue: ExecutionQueue) -> None:
        """Run what comes until the process ends. One thread's life."""
        core = self._core
        lock, reactor = core.lock, core.reactor
        woken = False
        while True:
            with lock:
                waiter = Waiter()
                item = queue.take(waiter, woken)
                woken = False
            if item is None:
                if not reactor.wait(waiter):
                    return
                woken = True
                continue
            self.run(item)

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """This thread waits: tell the raylet, and give back what is queued behind."""
        core = self._core
        with core.lock:
            self._blocked_count += 1
            if self._blocked_count == 1:
                core.link.send(node.Blocked())
                self._hand_back_queued()
        try:
            yield
        finally:
            with core.lock:
                self._blocked_count -= 1
                if not self._blocked_count:
                    core.link.send(node.Unblocked())

    def _hand_back_queued(self) -> None:
        handed: dict[int, tuple[Peer, list[int]]] = {}
        for _, _, peer in self.running.values():
            if peer is not None:
                handed[id(peer)] = (peer, [])
        kept: list[Item] = []
        for item in self.queue.items:
            if type(item[1]) is PushTask:
                handed.setdefault(id(item[0]), (item[0], []))[1].append(item[1].seq)
            else:
                kept.append(item)
        self.queue.items.clear()
        self.queue.items.extend(kept)
        for peer, seqs in handed.values():
            if peer.actor is None:
                peer.send(HandedBack(seqs, True))

    # -- generators ------------------------------------------------------------------------------

    def consumed(self, task_id: bytes, count: int) -> None:
        """The owner of a generator took items. Under the lock."""
        waiting = self._producers.get(task_id)
        if waiting is not None:
            waiting[0] = count
            waiting[1].complete()

    def wait_until_consumed(self, task_id: bytes, count: int) -> None:
        """Let a generator with a limit wait until ``count`` of its items were taken."""
        while True:
            with self._core.lock:
                waiting = self._producers.setdefault(task_id, [0, Waiter()])
                if waiting[0] >= count:
                    return
                waiter = waiting[1] = Waiter()
            self._core.block_until(waiter, None)

    # -- answering -------------------------------------------------------------------------------

    def next_reply(self) -> int:
        """A name for an answer that may have to be held. Under the lock."""
        self._last_reply += 1
        return self._last_reply

    def reply(self, receiver: Peer, message: Message) -> None:
        """Send an answer that nothing holds."""
        with self._core.lock:
            receiver.send(message)
            self._flush_if_due(receiver)

    def reply_when_safe(
        self, receiver: Peer, message: Message, guard: ArgumentsGuard | None, printed: bool
    ) -> None:
        """Send an answer once what the task printed is shown and what it kept is registered."""
        core = self._core
        with core.lock:
            held = HeldReply(receiver, message)
            number = guard.reply if guard is not None else self.next_reply()
            if guard is not None:
                core.drain_released()
                if not core.refs.task_finished(guard):
                    held.waits += 1
            if printed:
                held.waits += 1
                core.link.send(node.OutputMark(number))
            if held.waits:
                self._held[number] = held
            else:
                receiver.send(message)
            core.perform_effects()
            self._flush_if_due(receiver)

    def reply_may_go(self, number: int) -> None:
        """One of the things a held answer waits for has happened. Under the lock."""
        held = self._held.get(number)
        if held is None:
            return
        held.waits -= 1
        if not held.waits:
            del self._held[number]
            held.receiver.send(held.message)

    def _flush_if_due(self, receiver: Peer) -> None:
        """While more work waits, answers gather; an idle thread flushes before it waits."""
        connection = receiver.connection
        if connection is None or not self.queue.items:
            return
        if connection.queued_count >= _FLUSH_COUNT or monotonic() - connection.last_flush > _FLUSH_QUIET_S:
            connection.flush()


def _nothing_to_run(item: Item) -> None:
    raise AssertionError(f"no runner was installed for {item[1]!r}")


def _ignore_job(job: node.JobDescription) -> None:
    raise AssertionError(f"no job handler was installed for {job.job_id.hex()}")
