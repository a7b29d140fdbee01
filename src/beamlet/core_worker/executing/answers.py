"""Answers on their way to the owners of tasks: at once, or held.

An answer is held until what its task printed has reached the driver, and until the owners of references that
the task kept know of that.
"""

from __future__ import annotations

from time import monotonic

from beamlet.core_worker.executing.execution_queue import Pushed
from beamlet.core_worker.executing.work import Work
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.owning.borrowing import ArgumentsGuard
from beamlet.core_worker.owning.ports import Sends
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.core_worker.peers import Peer, PeerTable
from beamlet.exceptions import RaySystemError, TaskCancelledError
from beamlet.protocol.message import Message
from beamlet.protocol.node import OutputMark
from beamlet.protocol.peer import Results
from beamlet.rpc.turns import SharedReactor, Waiter
from beamlet.serialization.remote_error import dump_made
from beamlet.serialization.values import dump_error

#: While more work waits, answers gather for so long; the last one leaves at once.
_GATHER_S = 200e-6


class HeldAnswer:
    """An answer that waits for ``waits`` acknowledgements."""

    __slots__ = ("message", "receiver", "waits")

    def __init__(self, receiver: Sends, message: Message, waits: int = 0) -> None:
        self.receiver = receiver
        self.message = message
        self.waits = waits


class Answers:
    """``next_name``, ``hold`` and ``may_go`` are called under the lock, most others without it."""

    def __init__(
        self,
        reactor: SharedReactor,
        link: NodeLink,
        peers: PeerTable,
        refs: ReferenceCounter,
        releases: Releases,
        work: Work,
    ) -> None:
        reactor.quiet_s = _GATHER_S
        self._reactor = reactor
        self._lock = reactor.lock
        self._bare_lock = reactor.bare_lock
        self._peers = peers
        self._link = link
        self._refs = refs
        self._releases = releases
        self._work = work
        self._queued = work.queue.items
        self._held: dict[int, HeldAnswer] = {}
        self._last_name = 0
        #: Threads that answer may wait until the receiver has read; an event loop may not.
        self.may_wait = True
        #: Of a thread in ``send_all``.
        self._emptied: Waiter | None = None

    def next_name(self) -> int:
        """A name for an answer that may have to be held."""
        self._last_name += 1
        return self._last_name

    def send(self, receiver: Peer, message: Message) -> None:
        """An answer that nothing holds."""
        with self._bare_lock:
            receiver.send(message)
            if self._queued or not self._work.takes_turns:
                self._reactor.gather()
            else:
                self._reactor.leave()
        if self._peers.full and self.may_wait:
            self._peers.wait_for_room(receiver)

    def send_when_safe(
        self, receiver: Peer, message: Message, guard: ArgumentsGuard | None, printed: bool
    ) -> None:
        """Send an answer once what the task printed is shown and what it kept is registered."""
        with self._lock:
            held = HeldAnswer(receiver, message)
            name = guard.reply if guard is not None else self.next_name()
            if guard is not None:
                self._releases.drain()
                if not self._refs.task_finished(guard):
                    held.waits += 1
            if printed:
                held.waits += 1
                self._link.send(OutputMark(name))
            if held.waits:
                self._held[name] = held
            else:
                receiver.send(message)
            self._releases.perform()
        if self._peers.full and self.may_wait:
            self._peers.wait_for_room(receiver)

    def hold(self, name: int, receiver: Sends, message: Message) -> None:
        """Until it ``may_go``. Under the lock."""
        self._held[name] = HeldAnswer(receiver, message, 1)

    def send_failure(self, receiver: Peer, work: Pushed, error: Exception) -> None:
        """A mistake of ours in running ``work``: whoever waits for it learns so."""
        name = work.name or work.task_id.hex()
        self._reactor.containment.contain(error, f"running or answering {name}")
        text = f"the worker could not run or answer {name}: {error!r}"
        self.send(receiver, _failure(work, dump_error(RaySystemError(text))))

    def send_cancelled(self, receiver: Peer, work: Pushed) -> None:
        """It never began, and never will. Under the lock."""
        receiver.send(_failure(work, dump_made(TaskCancelledError, work.task_id.hex())))

    def may_go(self, name: int) -> None:
        """One of the things a held answer waits for has happened."""
        held = self._held.get(name)
        if held is None:
            return
        held.waits -= 1
        if not held.waits:
            del self._held[name]
            held.receiver.send(held.message)
            self._tell_if_empty()

    def receiver_gone(self, receiver: Peer) -> None:
        """Nobody waits for these any more. Under the lock."""
        self._held = {name: held for name, held in self._held.items() if held.receiver is not receiver}
        self._tell_if_empty()

    def send_all(self, timeout_s: float) -> None:
        """Wait until nothing is held any more; what still is after ``timeout_s`` leaves all the same.

        Before the end of the process, without the lock: an answer late for its output is better than none.
        """
        with self._lock:
            if self._held:
                self._emptied = Waiter()
        if self._emptied is not None:
            self._reactor.wait(self._emptied, monotonic() + timeout_s)
        with self._lock:
            held, self._held = self._held, {}
            for each in held.values():
                each.receiver.send(each.message)
            self._reactor.flush()

    def _tell_if_empty(self) -> None:
        if self._emptied is not None and not self._held:
            self._emptied.complete()


def _failure(work: Pushed, error: bytes) -> Results:
    """``error`` in place of all that ``work`` was to return."""
    return Results(work.seq, [error], failed=True)
