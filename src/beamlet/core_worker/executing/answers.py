"""Answers on their way to the owners of tasks: at once, or held.

An answer is held until what its task printed has reached the driver, and until the owners of references that
the task kept know of that.
"""

from __future__ import annotations

from time import monotonic

from beamlet.core_worker.executing.work import Work
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.owning.borrowing import ArgumentsGuard
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.core_worker.peers import Peer
from beamlet.protocol.message import Message
from beamlet.protocol.node import OutputMark
from beamlet.rpc.turns import SharedReactor

_FLUSH_COUNT = 64
_FLUSH_QUIET_S = 200e-6


class HeldAnswer:
    """An answer that waits for ``waits`` acknowledgements."""

    __slots__ = ("message", "receiver", "waits")

    def __init__(self, receiver: Peer, message: Message) -> None:
        self.receiver = receiver
        self.message = message
        self.waits = 0


class Answers:
    """``next_name`` and ``may_go`` are called under the lock, the others without it."""

    def __init__(
        self, reactor: SharedReactor, link: NodeLink, refs: ReferenceCounter, releases: Releases, work: Work
    ) -> None:
        self._lock = reactor.lock
        self._link = link
        self._refs = refs
        self._releases = releases
        self._queue = work.queue
        self._held: dict[int, HeldAnswer] = {}
        self._last_name = 0

    def next_name(self) -> int:
        """A name for an answer that may have to be held."""
        self._last_name += 1
        return self._last_name

    def send(self, receiver: Peer, message: Message) -> None:
        """An answer that nothing holds."""
        with self._lock:
            receiver.send(message)
            self._flush_if_due(receiver)

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
            self._flush_if_due(receiver)

    def may_go(self, name: int) -> None:
        """One of the things a held answer waits for has happened."""
        held = self._held.get(name)
        if held is None:
            return
        held.waits -= 1
        if not held.waits:
            del self._held[name]
            held.receiver.send(held.message)

    def receiver_gone(self, receiver: Peer) -> None:
        """Nobody waits for these any more. Under the lock."""
        self._held = {name: held for name, held in self._held.items() if held.receiver is not receiver}

    def _flush_if_due(self, receiver: Peer) -> None:
        """While more work waits, answers gather; an idle thread flushes before it waits."""
        connection = receiver.connection
        if connection is None or not self._queue.items:
            return
        if connection.queued_count >= _FLUSH_COUNT or monotonic() - connection.last_flush > _FLUSH_QUIET_S:
            connection.flush()
