"""Calls of actors' methods on their way: order, incarnations, what is sent again. Sans-IO.

One ActorLink per actor that this process calls:

    WAITING ──ALIVE──▶ CONNECTING ──connected──▶ READY
                           ▲                        │ connection lost
                           └─── RESTARTING ◀── LOST ◀┘
                                                └──▶ DEAD   (from any state)

Calls of one caller run in submission order: they leave on one connection in order, a call whose
arguments are not ready holds back those behind it (unless the actor runs calls out of order anyway), and
calls that survive a restart are sent again before any newer one.

A call in flight when the actor dies is sent to the next incarnation if it has retries left, else it fails
with the cause, which comes with the GCS's ActorUpdate.  While an actor restarts, calls that may not be sent
twice are not accepted either: nobody knows how long it takes, nor whether it comes back.  An actor whose
process dies before it has been ALIVE is still WAITING: none of its calls can have run.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Generic, Protocol, TypeVar

from beamlet.base.ids import ActorId, Address, TaskId, actor_handle_object
from beamlet.core_worker.submitting.pending import PendingCall
from beamlet.protocol.gcs import ActorUpdate
from beamlet.protocol.message import Message
from beamlet.protocol.peer import CallActor


class LinkState(enum.Enum):
    WAITING = "waiting for the actor to start"
    CONNECTING = "connecting to the actor"
    READY = "ready"
    LOST = "connection lost, cause not known yet"
    RESTARTING = "being started again"
    DEAD = "dead"


class Link(Protocol):
    def send(self, message: Message) -> None: ...


L = TypeVar("L", bound=Link)


class ActorLink(Generic[L]):
    """What one process knows of one actor it calls."""

    __slots__ = (
        "_index",
        "actor_id",
        "address",
        "death",
        "dropped_count",
        "handle",
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
        "result_sizes",
        "state",
        "stumbled",
        "subscribed",
    )

    def __init__(self, actor_id: ActorId, name: str) -> None:
        self.actor_id = actor_id
        #: Whose references are the actor's handles.
        self.handle = actor_handle_object(actor_id)
        #: Class name, for messages.
        self.name = name
        self.state = LinkState.WAITING
        self.address = Address(b"")
        self.incarnation = -1
        self.link: L | None = None
        self.next_seq = 1
        #: Sent, by seq, unanswered.
        self.in_flight: dict[int, PendingCall] = {}
        #: Not sent, in order. Calls among them that are settled (cancelled) or were sent are passed over.
        self.queue: deque[PendingCall] = deque()
        #: Such calls in ``queue``.
        self.dropped_count = 0
        #: Calls that were looked for (``find``) and those looked at meanwhile; it may know too many.
        self._index: dict[TaskId, PendingCall] = {}
        #: Were in flight without retries when the connection broke; fail as soon as the cause is known.
        #: They keep their ``seq``: that they may have run is all that is known of them.
        self.interrupted: list[PendingCall] = []
        #: Why it has not started at the last attempt, for messages.
        self.stumbled = ""
        #: The update that said DEAD.
        self.death: ActorUpdate | None = None
        self.max_task_retries = 0
        self.max_pending_calls = -1
        #: Of methods whose last result was worth a place in our slab: how large it was.
        self.result_sizes: dict[str, int] = {}
        #: False for threaded and asyncio actors.
        self.ordered = True
        self.subscribed = False
        #: We count the actor's handle while calls are unanswered, so that it finishes them.
        self.holds_handle = False

    @property
    def pending_count(self) -> int:
        return len(self.in_flight) + len(self.queue) - self.dropped_count

    @property
    def is_owed(self) -> bool:
        """A call has no answer, be it that nothing can come but the reason."""
        return bool(self.pending_count or self.interrupted)

    def waiting(self) -> list[PendingCall]:
        """What is not sent, in order."""
        return [call for call in self.queue if not (call.settled or call.seq)]

    # -- calls -----------------------------------------------------------------------------------

    def submit(self, call: PendingCall) -> bool:
        """Send or queue ``call``; False if that cannot be: it is dead (see ``death``), or restarts."""
        if self.state is LinkState.READY and not call.unresolved and not (self.queue and self.ordered):
            self._push(call)
            return True
        if self.state is LinkState.DEAD or (self.state is LinkState.RESTARTING and not _may_wait(call)):
            return False
        self.queue.append(call)
        return True

    def _push(self, call: PendingCall) -> None:
        call.seq = seq = self.next_seq
        self.next_seq = seq + 1
        self.in_flight[seq] = call
        assert self.link is not None
        spec = call.spec
        method = spec.method
        self.link.send(
            CallActor(
                seq,
                spec.task_id,
                method.name,
                method.num_returns,
                spec.payload,
                call.deps,
                spec.nested,
                call.attempt,
                method.group,
                method.shown_as,
                method.stream_limit,
                call.lend_to(self.address) if call.places else None,
            )
        )

    def drain(self) -> None:
        """Send what may go: a dependency became ready, or the connection did."""
        if self.state is not LinkState.READY:
            return
        if self.ordered:
            while self.queue:
                if self.queue[0].settled:
                    self.queue.popleft()
                    self.dropped_count -= 1
                elif self.queue[0].unresolved:
                    return
                else:
                    self._push(self.queue.popleft())
        else:
            waiting = self.waiting()
            self._keep([call for call in waiting if call.unresolved])
            for call in waiting:
                if not call.unresolved:
                    self._push(call)

    def resolved(self, call: PendingCall) -> None:
        """The arguments of a call are there. Costs the same wherever in the queue it stands."""
        if self.ordered or self.state is not LinkState.READY:
            self.drain()
        else:
            self._push(call)
            self._passed_over()

    def _passed_over(self) -> None:
        """A call of the queue does not belong there any more."""
        self.dropped_count += 1
        if self.dropped_count * 2 > len(self.queue):
            self._keep(self.waiting())

    def _keep(self, calls: list[PendingCall]) -> None:
        """These are what is queued."""
        self.queue.clear()
        self.queue.extend(calls)
        self.dropped_count = 0

    def answered(self, seq: int) -> PendingCall | None:
        """The call that ``seq`` answers; None if it was given up already."""
        return self.in_flight.pop(seq, None)

    def send_again(self, call: PendingCall) -> None:
        """Another attempt of a call that failed and may be retried: ahead of what is queued."""
        if self.dropped_count:
            self._keep(self.waiting())  # it may stand there from its first attempt
        call.attempt += 1
        call.seq = 0
        self.queue.appendleft(call)
        self.drain()

    def find(self, task_id: TaskId) -> PendingCall | None:
        """The call of that id, if it is unanswered. To find all of many costs one walk through them."""
        call = self._index.get(task_id)
        if call is None:
            for calls in (reversed(self.queue), reversed(self.in_flight.values())):
                for new in calls:  # what came since the last look stands at the ends
                    if new.spec.task_id in self._index:
                        break
                    self._index[new.spec.task_id] = new
            call = self._index.get(task_id)
        if call is None:
            self._index.update((c.spec.task_id, c) for c in (*self.in_flight.values(), *self.queue))
            call = self._index.get(task_id)
        return call if call is not None and not call.settled else None

    def drop(self, call: PendingCall) -> None:
        """Settle a call that is queued. Costs the same wherever in the queue it stands."""
        assert not call.seq, "it was pushed"
        call.settled = True
        self._passed_over()
        if self.ordered:
            self.drain()

    def forget_index(self) -> None:
        """What it knows may be answered by now, and would be kept."""
        self._index.clear()

    # -- life cycle ------------------------------------------------------------------------------

    def update(self, update: ActorUpdate) -> tuple[Address | None, list[PendingCall]]:
        """News from the GCS: (address to connect to or None, calls that fail because of it)."""
        if update.incarnation < self.incarnation or self.state is LinkState.DEAD:
            return None, []
        if update.state == "DEAD":
            return None, self._die(update)
        if update.state == "RESTARTING":
            self.stumbled = update.cause
        if update.state == "RESTARTING" and self.state is LinkState.WAITING:
            return None, []  # what was never sent waits for its start as before
        if update.state == "RESTARTING":
            self._disconnect()
            self.state = LinkState.RESTARTING
            waiting = self.waiting()
            self._keep([call for call in waiting if call.unresolved or _may_wait(call)])
            failed = [*self.interrupted, *(c for c in waiting if not (c.unresolved or _may_wait(c)))]
            self.interrupted = []
            return None, failed
        if update.state == "ALIVE" and update.incarnation > self.incarnation:
            self._disconnect()
            self.incarnation = update.incarnation
            self.address = update.address
            self.state = LinkState.CONNECTING
            failed, self.interrupted = self.interrupted, []
            return update.address, failed
        return None, []

    def connected(self, link: L) -> None:
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
        if self.dropped_count:
            self._keep(self.waiting())
        again: list[PendingCall] = []
        for call in self.in_flight.values():
            if call.retries_left and not call.unwanted:
                call.seq = 0
                call.retries_left -= call.retries_left > 0
                call.attempt += 1
                again.append(call)
            else:
                self.interrupted.append(call)
        self.in_flight.clear()
        self.queue.extendleft(reversed(again))

    def _die(self, update: ActorUpdate) -> list[PendingCall]:
        self.state = LinkState.DEAD
        self.death = update
        self.link = None
        failed = [*self.interrupted, *self.in_flight.values(), *self.waiting()]
        self.interrupted = []
        self.in_flight.clear()
        self._keep([])
        self._index.clear()
        return failed

    def check_invariants(self) -> None:
        assert (self.link is not None) == (self.state is LinkState.READY)
        assert not self.in_flight or self.state is LinkState.READY
        if self.state is LinkState.READY and self.queue and self.ordered:
            assert self.queue[0].unresolved, "a call could be sent and is not"
            assert not self.queue[0].settled
        assert self.dropped_count == sum(call.settled or call.seq > 0 for call in self.queue)
        assert all(call.seq == seq for seq, call in self.in_flight.items())
        assert len({id(call) for call in self.queue}) == len(self.queue), "a call is queued twice"
        if self.state is LinkState.DEAD:
            assert not [*self.queue, *self.in_flight.values(), *self.interrupted]


def _may_wait(call: PendingCall) -> bool:
    """Whether it may be sent to an incarnation after the one it was meant for."""
    return call.spec.method.max_task_retries != 0
