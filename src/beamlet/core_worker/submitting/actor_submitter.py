"""Calls of actors' methods on their way: order, incarnations, what is sent again. Sans-IO.

One ActorLink per actor that this process calls:

    WAITING ──ALIVE──▶ CONNECTING ──connected──▶ READY
       ▲                                            │ connection lost
       └────────── RESTARTING ◀── LOST ◀────────────┘
                                   └──▶ DEAD   (from any state)

Calls of one caller run in submission order: they leave on one connection in order, a call whose
arguments are not ready holds back those behind it (unless the actor runs calls out of order anyway), and
calls that survive a restart are sent again before any newer one.

A call in flight when the actor dies is sent to the next incarnation if it has retries left, else it fails
with the cause, which comes with the GCS's ActorUpdate.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Protocol

from beamlet.base.ids import ActorId, Address
from beamlet.core_worker.submitting.pending import Pending
from beamlet.protocol.gcs import ActorUpdate
from beamlet.protocol.message import Message


class LinkState(enum.Enum):
    WAITING = "waiting for the actor to start"
    CONNECTING = "connecting to the actor"
    READY = "ready"
    LOST = "connection lost, cause not known yet"
    DEAD = "dead"


class Link(Protocol):
    def send(self, message: Message) -> None: ...


class ActorLink:
    """What one process knows of one actor it calls."""

    __slots__ = (
        "actor_id",
        "address",
        "death",
        "holds_handle",
        "in_flight",
        "incarnation",
        "interrupted",
        "link",
        "max_pending_calls",
        "max_task_retries",
        "name",
        "next_seq",
        "ordered",
        "queue",
        "state",
        "subscribed",
    )

    def __init__(self, actor_id: ActorId, name: str) -> None:
        self.actor_id = actor_id
        #: Class name, for messages.
        self.name = name
        self.state = LinkState.WAITING
        self.address = Address(b"")
        self.incarnation = -1
        self.link: Link | None = None
        self.next_seq = 1
        #: Sent, by seq, unanswered.
        self.in_flight: dict[int, Pending] = {}
        #: Not sent, in order.
        self.queue: deque[Pending] = deque()
        #: Were in flight without retries when the connection broke; fail as soon as the cause is known.
        self.interrupted: list[Pending] = []
        #: The update that said DEAD.
        self.death: ActorUpdate | None = None
        self.max_task_retries = 0
        self.max_pending_calls = -1
        #: False for threaded and asyncio actors.
        self.ordered = True
        self.subscribed = False
        #: We count the actor's handle while calls are unanswered, so that it finishes them.
        self.holds_handle = False

    @property
    def pending_count(self) -> int:
        return len(self.in_flight) + len(self.queue)

    # -- calls -----------------------------------------------------------------------------------

    def submit(self, call: Pending) -> bool:
        """Send or queue ``call``; False if the actor is dead (see ``death``)."""
        if self.state is LinkState.READY and not call.unresolved and not (self.queue and self.ordered):
            self._push(call)
            return True
        if self.state is LinkState.DEAD:
            return False
        self.queue.append(call)
        return True

    def _push(self, call: Pending) -> None:
        seq = self.next_seq
        self.next_seq = seq + 1
        call.message.seq = seq
        self.in_flight[seq] = call
        assert self.link is not None
        self.link.send(call.message)

    def drain(self) -> None:
        """Send what may go: a dependency became ready, or the connection did."""
        if self.state is not LinkState.READY:
            return
        if self.ordered:
            while self.queue and not self.queue[0].unresolved:
                self._push(self.queue.popleft())
        else:
            waiting = deque(call for call in self.queue if call.unresolved)
            ready = [call for call in self.queue if not call.unresolved]
            self.queue = waiting
            for call in ready:
                self._push(call)

    def answered(self, seq: int) -> Pending | None:
        """The call that ``seq`` answers; None if it was given up already."""
        return self.in_flight.pop(seq, None)

    def send_again(self, call: Pending) -> None:
        """Another attempt of a call that failed and may be retried: ahead of what is queued."""
        call.message.attempt += 1
        self.queue.appendleft(call)
        self.drain()

    def remove(self, call: Pending) -> bool:
        """Take back a call that was not sent (cancel)."""
        if call in self.queue:
            self.queue.remove(call)
            self.drain()
            return True
        return False

    # -- life cycle ------------------------------------------------------------------------------

    def update(self, update: ActorUpdate) -> tuple[Address | None, list[Pending]]:
        """News from the GCS: (address to connect to or None, calls that fail because of it)."""
        if update.incarnation < self.incarnation or self.state is LinkState.DEAD:
            return None, []
        if update.state == "DEAD":
            return None, self._die(update)
        if update.state == "RESTARTING":
            self._disconnect()
            self.state = LinkState.WAITING
            failed, self.interrupted = self.interrupted, []
            return None, failed
        if update.state == "ALIVE" and update.incarnation > self.incarnation:
            self._disconnect()
            self.incarnation = update.incarnation
            self.address = update.address
            self.state = LinkState.CONNECTING
            failed, self.interrupted = self.interrupted, []
            return update.address, failed
        return None, []

    def connected(self, link: Link) -> None:
        """The connection to ``address`` is there."""
        if self.state is LinkState.CONNECTING:
            self.link = link
            self.state = LinkState.READY
            self.drain()

    def lost(self) -> None:
        """The connection broke, or could not be made; the GCS will say why."""
        if self.state in (LinkState.READY, LinkState.CONNECTING):
            self._disconnect()
            self.state = LinkState.LOST

    def _disconnect(self) -> None:
        """Sort what was in flight into what is sent again and what fails."""
        self.link = None
        again: list[Pending] = []
        for call in self.in_flight.values():
            if call.retries_left and not call.cancelled:
                call.retries_left -= call.retries_left > 0
                call.message.attempt += 1
                again.append(call)
            else:
                self.interrupted.append(call)
        self.in_flight.clear()
        self.queue.extendleft(reversed(again))

    def _die(self, update: ActorUpdate) -> list[Pending]:
        self.state = LinkState.DEAD
        self.death = update
        self.link = None
        failed = [*self.interrupted, *self.in_flight.values(), *self.queue]
        self.interrupted = []
        self.in_flight.clear()
        self.queue.clear()
        return failed

    def check_invariants(self) -> None:
        assert (self.link is not None) == (self.state is LinkState.READY)
        assert not self.in_flight or self.state is LinkState.READY
        if self.state is LinkState.READY and self.queue and self.ordered:
            assert self.queue[0].unresolved, "a call could be sent and is not"
        if self.state is LinkState.DEAD:
            assert not [*self.queue, *self.in_flight.values(), *self.interrupted]
