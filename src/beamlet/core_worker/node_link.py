"""A core worker's line to its raylet: requests with one answer each, and what comes unasked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from beamlet.base.stack_room import FOR_A_CALL
from beamlet.exceptions import ClusterGoneError
from beamlet.protocol import gcs, node
from beamlet.protocol.message import Message
from beamlet.rpc.connection import Connection, decoder_for
from beamlet.rpc.descriptors import Wire
from beamlet.rpc.limits import FROM_CORE_WORKER_BYTES, Limits
from beamlet.rpc.turns import IN_THE_MIDDLE, SharedReactor, Waiter

FromRaylet = (
    node.Welcome
    | node.Refused
    | node.AssignJob
    | node.LeaseGranted
    | node.LeaseInfeasible
    | node.LeaseSpillback
    | node.LeaseCancelled
    | node.LeasePending
    | node.LeaseWanted
    | node.PeerConnected
    | node.PeerUnreachable
    | node.PeerIntroduced
    | node.WorkerDied
    | node.StoredByDead
    | node.ExitWorker
    | node.ObjectCreated
    | node.ObjectRefused
    | node.ObjectPinned
    | node.ObjectNotHere
    | node.SlabLeased
    | node.SlabRefused
    | node.SlabWanted
    | node.OutputDelivered
    | node.OutputLines
    | node.Notice
    | node.NodeEnds
    | node.WhyPendingAnswer
    | node.TellEvents
    | gcs.StartActor
    | gcs.Answer
)
# Building it takes milliseconds and most of a megabyte: once, before workers are forked.
decoder_for(FromRaylet)


#: After this long an answer is slow.
SLOW_S = 0.2
#: Questions about the cluster that this process has open at once. Each may be answered with many MiB, and a
#: head takes it for nonsense to be asked many more (gcs/gcs.py).
_QUESTIONS = 4


class Unsent:
    """In place of an answer: the request ``req`` could not be encoded, and was never asked."""

    __slots__ = ("error", "req")

    def __init__(self, req: int, error: Exception) -> None:
        self.req = req
        self.error = error


class Reply(Waiter):
    """A request's answer, for a thread to wait on."""

    __slots__ = ("message",)

    def __init__(self) -> None:
        super().__init__()
        self.message: Any = None

    def set(self, message: Any) -> None:
        self.message = message
        self.complete()


class NodeLink:
    """Guarded by the core worker's lock, but for ``call``."""

    def __init__(
        self,
        sock: Wire,
        reactor: SharedReactor,
        on_message: Callable[[Any], None],
        on_close: Callable[[str], None],
        session_dir: str,
    ) -> None:
        self._reactor = reactor
        self._session_dir = session_dir
        self._on_message = on_message
        self._on_close = on_close
        self._next_req = 1
        #: Why the node ends, if it told us before it closed the connection; or why we leave it.
        self._farewell = ""
        self._has_left = False
        self._awaited: dict[int, Callable[[Any], None]] = {}
        #: Questions about the cluster that are open, and who waits to ask another.
        self._questions = 0
        self._askers: deque[Waiter] = deque()
        #: By kind, of messages without an answer that somebody waits for all the same: what is to be done
        #: when one could not be encoded.
        self.on_unsent: dict[type, Callable[[Any, Exception], None]] = {}
        self.connection = Connection(
            sock,
            reactor,
            messages=FromRaylet,
            on_message=self._received,
            on_close=self._closed,
            label="the raylet",
            carries_fds=True,
            # Without it there is no cluster: an error costs the message that led to it.
            indispensable=True,
            limits=Limits(sent_bytes=FROM_CORE_WORKER_BYTES),
            on_unsent=self._unsent,
        )

    def send(self, message: Message) -> None:
        self.connection.send(message)

    def send_first(self, message: Message) -> None:
        """It leaves before anything that is queued for others, or will be."""
        self.connection.send(message)
        self._reactor.put_first(self.connection)

    def request(self, message: Any, on_answer: Callable[[Any], None]) -> int:
        """Send ``message`` under a new ``req``; ``on_answer`` is called once, under the lock.

        The answer is None when the raylet is gone, and ``Unsent`` if it could not be asked this.
        """
        req = self._next_req
        self._next_req = req + 1
        message.req = req
        if self.connection.closed:
            self._reactor.call_soon(lambda: on_answer(None))
            return req
        self._awaited[req] = on_answer
        self.connection.send(message)
        return req

    def forget(self, req: int) -> None:
        self._awaited.pop(req, None)

    def call(
        self,
        message: Any,
        deadline: float | None = None,
        if_slow: Callable[[], None] | None = None,
        first: Callable[[], None] | None = None,
        undo: Callable[[Any], None] | None = None,
    ) -> Any:
        """Send a request and wait for its answer, in a user's thread, without the lock.

        if_slow: called once if the answer takes longer than SLOW_S. first: called under the lock before; what
        it sends travels with the request. undo: called under the lock with an answer that comes for nobody,
        for the wait was given up (Ctrl-C, a cancelled task); None as for ``request``.
        Raises ClusterGoneError, TimeoutError at ``deadline`` (monotonic), or whatever kept the message from
        being encoded.
        """
        reactor = self._reactor
        if FOR_A_CALL.may_lack():
            FOR_A_CALL.demand()
        if reactor.is_in_the_middle():
            raise RuntimeError(IN_THE_MIDDLE)
        reply = Reply()
        with reactor.lock:
            if self.connection.closed:
                raise self.gone()
            if first is not None:
                first()
            req = self.request(message, reply.set)
        answered = False
        try:
            if if_slow is not None and not self._reactor.wait(reply, monotonic() + SLOW_S):
                if_slow()
            answered = self._reactor.wait(reply, deadline)
        finally:
            with self._reactor.lock:
                awaited = self._awaited.pop(req, None) is not None
                if undo is not None and not answered:
                    if awaited:
                        self._awaited[req] = undo
                    else:
                        undo(reply.message)
        if type(reply.message) is Unsent:
            raise reply.message.error
        if not answered and not self.connection.closed:
            raise TimeoutError(f"the raylet did not answer {type(message).__name__} in time")
        if reply.message is None:
            raise self.gone()
        return reply.message

    def ask(self, question: Any, deadline: float | None = None) -> Any:
        """``call`` for questions about the cluster: of many threads that ask at once some wait for others."""
        if self._reactor.is_in_the_middle():
            raise RuntimeError(IN_THE_MIDDLE)
        self._await_turn(deadline, type(question).__name__)
        is_open = [True]

        def close(_: Any) -> None:
            if is_open:
                is_open.clear()
                self._next_question()

        try:
            answer = self.call(question, deadline, undo=close)
        except BaseException:
            with self._reactor.lock:
                if close not in self._awaited.values():  # what is given up is open until its answer comes
                    close(None)
            raise
        with self._reactor.lock:
            close(None)
        return answer

    def _await_turn(self, deadline: float | None, kind: str) -> None:
        turn = Waiter()
        with self._reactor.lock:
            if self._questions < _QUESTIONS:
                self._questions += 1
                return
            self._askers.append(turn)
        has_turn = False
        try:
            has_turn = self._reactor.wait(turn, deadline)
        finally:
            if not has_turn:
                with self._reactor.lock:
                    if turn in self._askers:
                        self._askers.remove(turn)
                    else:
                        self._next_question()
        if not has_turn:
            if self.connection.closed:
                raise self.gone()
            raise TimeoutError(f"{_QUESTIONS} earlier questions are not answered: {kind} was not asked")

    def _next_question(self) -> None:
        """One is answered; under the lock."""
        if self._askers:
            self._askers.popleft().complete()
        else:
            self._questions -= 1

    def take_socket(self) -> Wire:
        """The socket that came with the message being handled."""
        return self._reactor.descriptors.wire(self.connection.take_fd())

    def take_fd(self) -> int:
        return self.connection.take_fd()

    def _received(self, _: Connection, message: Any) -> None:
        if type(message) is node.NodeEnds:
            self._farewell = self._farewell or message.reason
            return
        req = getattr(message, "req", None)
        if req is None or type(message) is node.LeasePending:
            self._on_message(message)
            return
        on_answer = self._awaited.pop(req, None)
        if on_answer is not None:
            on_answer(message)
        elif isinstance(message, node.LeaseGranted | node.PeerConnected):
            if message.fresh:
                self.take_socket().close()  # nobody waits for it any more
            self._on_message(message)

    def _unsent(self, message: Any, error: Exception) -> None:
        """A message could not be encoded: whoever waits for its answer learns it, the link stays.

        Later, for the caller, who flushes, may be in the middle of something.
        """
        req = getattr(message, "req", None)
        if req in self._awaited:
            self._reactor.call_soon(lambda: self._answer_unsent(req, error))
        elif (instead := self.on_unsent.get(type(message))) is not None:
            self._reactor.call_soon(lambda: instead(message, error))

    def _answer_unsent(self, req: int, error: Exception) -> None:
        on_answer = self._awaited.pop(req, None)
        if on_answer is not None:
            on_answer(Unsent(req, error))

    def leave(self, reason: str) -> None:
        """This process is about to leave the cluster: what its other threads wait for ends by that."""
        self._has_left = not self._farewell
        self._farewell = self._farewell or reason

    def gone(self) -> ClusterGoneError:
        reason = self._farewell or self.connection.end_reason or "it was shut down"
        return ClusterGoneError(reason, self._session_dir, self._has_left)

    def _closed(self, _: Connection, reason: str) -> None:
        awaited, self._awaited = self._awaited, {}
        for on_answer in awaited.values():
            try:
                on_answer(None)
            except Exception as error:
                self._reactor.containment.contain(error, "telling of the end of the link to the raylet")
        self._on_close(self._farewell or reason)

    def close(self) -> None:
        self.connection.close()
