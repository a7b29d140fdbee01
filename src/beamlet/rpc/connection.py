"""A socket that carries batches of messages, and now and then a file descriptor.

Sending only queues; the batch leaves at the end of the reactor's pass, or at ``flush``.  What the kernel
does not take at once waits here and leaves when the socket has room again.

An error on the way costs this connection at most, and never reaches whoever called ``send`` or ``flush``:
``on_close`` is called from the loop, later, because the caller may be in the middle of something.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from beamlet.protocol.message import Message
from beamlet.rpc.batches import (
    AT_ONCE,
    LONG_FRAME_BYTES,
    SHORT_BATCH,
    check_count,
    decoder_for,
    encode_frame,
    encode_what_can,
    encode_word,
    kinds_of,
)
from beamlet.rpc.conversation import ACK_BYTES, Conversation
from beamlet.rpc.descriptors import Wire, send_with
from beamlet.rpc.ends import CLOSED_THERE, READ_FAILED, WRITE_FAILED
from beamlet.rpc.framing import Deframer, FramingError
from beamlet.rpc.limits import ANYTHING, DescriptorMissing, Limits
from beamlet.rpc.luggage import FDS_MAX, Luggage
from beamlet.rpc.reactor import Reactor

__all__ = ["ANYTHING", "Connection", "DescriptorMissing", "Limits", "decoder_for", "encode_frame"]

#: Answers gather up to this number before somebody who might not read them is asked whether it does.
_ANSWERS_UNFLUSHED = 64


class Connection:
    """One end of a message stream.

    messages: the union of types the peer may send; anything else closes the connection.
    on_batch(connection, messages) or on_message(connection, message): called in the reactor's thread. What
    they raise closes the connection, or, where ``indispensable``, costs only that message (that batch).
    on_close(connection, reason): called once, whoever closed it, unless we did by ``close()``.
    on_unsent(message, error): a message could not be encoded, and was dropped.
    carries_fds: whether messages with descriptors may arrive.
    conversation: outlives this connection; what is sent is kept there until it is acknowledged.
    """

    __slots__ = (
        "_carries_fds",
        "_conversation",
        "_decode",
        "_deframer",
        "_fds_out",
        "_indispensable",
        "_limits",
        "_luggage",
        "_on_close",
        "_on_message",
        "_on_unsent",
        "_outbox",
        "_postponed",
        "_queued",
        "_sock",
        "_spare",
        "_unsent",
        "backlog_bytes",
        "closed",
        "context",
        "end_reason",
        "fd",
        "is_full",
        "is_violated",
        "label",
        "on_batch",
        "on_full",
        "on_word",
        "reactor",
    )

    def __init__(
        self,
        sock: Wire,
        reactor: Reactor,
        *,
        messages: Any,
        on_close: Callable[[Connection, str], None],
        on_batch: Callable[[Connection, list[Any]], None] | None = None,
        on_message: Callable[[Connection, Any], None] | None = None,
        on_unsent: Callable[[Message, Exception], None] | None = None,
        label: str = "",
        context: Any = None,
        carries_fds: bool = False,
        indispensable: bool = False,
        limits: Limits = ANYTHING,
        conversation: Conversation | None = None,
    ) -> None:
        assert on_batch is not None or on_message is not None, "a connection needs on_batch or on_message"
        sock.setblocking(False)
        self._sock = sock
        self.fd = sock.fileno()
        self.reactor = reactor
        #: Who is at the other end, for people.
        self.label = label
        #: Whatever the owner of the connection wants to find here.
        self.context = context
        self.closed = False
        #: Why it was closed; "" if we did it by ``close()``.
        self.end_reason = ""
        #: Bytes that the kernel has not taken yet: the peer reads slowly.
        self.backlog_bytes = 0
        #: The peer has so much to read that whoever writes more should wait.
        self.is_full = False
        #: The peer does not speak our protocol.
        self.is_violated = False
        #: Called once, when the peer has first said what it has of the conversation.
        self.on_word: Callable[[], None] | None = None
        #: Told when ``is_full`` changes.
        self.on_full: Callable[[bool], None] | None = None
        self._on_message = on_message
        self.on_batch = on_batch or Connection._one_by_one
        self._on_close = on_close
        self._on_unsent = on_unsent
        self._indispensable = indispensable
        self._limits = limits
        self._conversation = conversation
        self._decode = decoder_for(messages).decode
        self._deframer = Deframer(limits.frame_bytes, limits.budget, self)
        self._outbox: list[Message] = []
        self._spare: list[Message] = []
        self._luggage = Luggage(reactor.descriptors)
        #: Descriptors to go: what the hot path looks at of it.
        self._fds_out = self._luggage.going
        self._carries_fds = carries_fds
        #: (Rests of) frames the kernel had no room for, with the descriptors still to go.
        self._unsent: deque[tuple[memoryview, list[int]]] = deque()
        #: Arrived from a peer that does not read: batches begun, and headers not opened yet.
        self._postponed: deque[list[Any] | bytes] = deque()
        self._queued = False
        reactor.add_reader(self.fd, self.read, self._given_up)

    # -- sending ---------------------------------------------------------------------------------

    def send(self, message: Message, fd: int = -1, *more_fds: int) -> None:
        """Queue a message, and with it duplicates of the descriptors. Silently dropped once closed.

        A message whose descriptor cannot be copied (too many open files) does not travel without it: the
        connection closes.
        """
        if self.closed:
            if self._conversation is not None:
                self._outbox.append(message)  # its end is not told yet; the next connection takes it over
            return
        if fd >= 0 and not self._take_along(message, (fd, *more_fds)):
            return
        self._outbox.append(message)
        if not self._queued:
            self._queued = True
            self.reactor.dirty.append(self)

    def _take_along(self, message: Message, fds: tuple[int, ...]) -> bool:
        if len(self._fds_out) + len(fds) > FDS_MAX:
            self.flush()  # one frame carries no more than the other side makes room for
        if self.closed:
            return False
        try:
            self._luggage.add(fds)
        except OSError as error:
            self.fail(f"no copy of the descriptor that {type(message).__name__} needs: {error.strerror}")
        return not self.closed

    @property
    def queued_count(self) -> int:
        """Messages waiting for a flush."""
        return len(self._outbox)

    def _set_full(self, full: bool) -> None:
        self.is_full = full
        if self.on_full is not None:
            self.on_full(full)

    def flush(self) -> None:
        """Hand everything queued to the kernel, or to the queue before it."""
        self._queued = False
        messages = self._outbox
        if self.closed or not messages:
            return
        # Two lists take turns, for a new one, made among the objects of a million tasks, would keep a MiB of
        # their memory when they are gone. A flush within this one finds the other in use.
        self._outbox = [] if self._spare else self._spare
        self._spare = messages
        conversation = self._conversation
        acknowledged = 0
        if conversation is not None:  # as ``acknowledge`` does
            conversation.unsaid, acknowledged = 0, conversation.received
        frame = None
        if not (self._unsent or self._fds_out or len(messages) > AT_ONCE):
            try:
                frame = encode_frame(messages, acknowledged)
            except Exception:
                pass  # the long way finds the culprit
        if frame is None or len(frame) > LONG_FRAME_BYTES:
            self._flush_long(messages, acknowledged, frame)
            messages.clear()
            return
        messages.clear()
        # The hot path: one system call, no descriptors, the kernel takes it all.
        if conversation is not None:
            conversation.sent(frame)
        try:
            sent = self._sock.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.fail(f"{WRITE_FAILED}{error.strerror}")
            return
        if sent < len(frame):
            self._block(memoryview(frame)[sent:], [])

    def _flush_long(self, messages: list[Message], acknowledged: int, frame: bytearray | None) -> None:
        """Many messages, large ones, one that cannot be encoded; with descriptors, or behind others."""
        fds = self._luggage.take_going() if self._fds_out else []
        frames, failures = encode_what_can(messages, acknowledged, frame, self._limits.sent_bytes)
        for message, error in failures:
            # A mistake of ours, perhaps led on by another's nonsense: the others still go.
            what = f"encoding {type(message).__name__} for {self.label}"
            self.reactor.containment.contain(error, what)
            if fds:  # nobody knows which of them belong to which message
                self._luggage.close_all(fds)
                self.fail(f"{type(message).__name__} could not be encoded: {error}")
                return
            if self._on_unsent is not None:
                self._on_unsent(message, error)
        for frame in frames:
            if self._conversation is not None:
                self._conversation.sent(frame)
            self._put_behind(frame, fds)
            fds = []

    def _put_behind(self, frame: bytearray, fds: list[int]) -> None:
        if self._unsent or fds or self.closed:
            waiting = bool(self._unsent)
            self._block(memoryview(frame), fds)
            if not waiting:
                self._write_unsent()
            return
        try:  # as in ``flush``: the reactor need not watch for room that there is
            sent = self._sock.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.fail(f"{WRITE_FAILED}{error.strerror}")
            return
        if sent < len(frame):
            self._block(memoryview(frame)[sent:], [])

    def resend(self, frames: list[bytearray]) -> None:
        """Frames of the conversation that an earlier connection could not deliver."""
        for frame in frames:
            self._put_behind(frame, [])

    def _block(self, rest: memoryview, fds: list[int]) -> None:
        if self.closed:
            self._luggage.close_all(fds)
            return
        if not self._unsent:
            self.reactor.set_writer(self.fd, self._write_unsent)
        self._unsent.append((rest, fds))
        self.backlog_bytes += len(rest)
        if self.backlog_bytes > self._limits.full_bytes and not self.is_full:
            self._set_full(True)
        if 0 < self._limits.most_bytes < self.backlog_bytes:
            self.fail(f"it left {self.backlog_bytes >> 20} MiB unread")

    def _write_unsent(self) -> None:
        unsent = self._unsent
        while unsent:
            frame, fds = unsent[0]
            try:
                sent = send_with(self._sock, frame, fds) if fds else self._sock.send(frame)
            except BlockingIOError:
                break
            except OSError as error:
                self.fail(f"{WRITE_FAILED}{error.strerror}")
                return
            self._luggage.close_all(fds)
            self.backlog_bytes -= sent
            if sent < len(frame):
                unsent[0] = (frame[sent:], [])
            else:
                unsent.popleft()
        else:
            self.reactor.set_writer(self.fd, None)
        if self.is_full and self.backlog_bytes <= self._limits.full_bytes // 2:
            self._set_full(False)
        if self._postponed and self.backlog_bytes <= self._limits.deaf_bytes // 2:
            self._hear_again()

    def acknowledge(self) -> None:
        """Tell the other side what has arrived, when nothing goes there that could carry it."""
        if self._conversation is not None and not self.closed:
            self._put_behind(encode_word(self._conversation.acknowledge()), [])

    # -- receiving -------------------------------------------------------------------------------

    def read(self, buffer: bytearray | None = None) -> bool:
        """Take what has arrived, as much as one read brings; False if nothing is there or it is over.

        buffer: to be given inside a handler, whose own messages lie in the reactor's.
        """
        if self._postponed:
            self._lost(CLOSED_THERE)  # it is not read from: only an end is told
            return False
        try:
            if self._carries_fds:
                size = self._luggage.receive(self._sock, self.reactor.read_buffer)
            else:
                size = self._sock.recv_into(self.reactor.read_buffer if buffer is None else buffer)
        except BlockingIOError:
            return False
        except OSError as error:
            self._lost(f"{READ_FAILED}{error.strerror}")
            return False
        if not size:
            self._lost(CLOSED_THERE)
            return False
        try:
            view = self.reactor.read_view if buffer is None else memoryview(buffer)
            headers = self._deframer.feed(view[:size])
        except FramingError as error:
            self._violate(error)
            return False
        conversation = self._conversation
        if conversation is not None:
            if not conversation.heard(self._deframer.acknowledged, len(headers), size):
                self._violate("it acknowledges what was never sent")
                return False
            if self.on_word is not None and self._deframer.acknowledged >= 0:
                on_word, self.on_word = self.on_word, None
                on_word()
            if conversation.unsaid >= ACK_BYTES:
                self.acknowledge()
        unopened = iter(headers)
        for header in unopened:
            self._open(header)
            if self.closed and conversation is None:
                return False  # of a conversation these frames count as received: they will not come again
            if self._postponed:
                self._postponed.extend(map(bytes, unopened))
        if self._carries_fds and self._luggage.is_lost and self._deframer.is_between_frames:
            self._luggage.drop_unfit()
        return not self.closed

    def _open(self, header: memoryview | bytes) -> None:
        try:
            if header[0] > SHORT_BATCH:
                check_count(header)
            messages: list[Any] = self._decode(header)
        except Exception as error:  # DecodeError, UnicodeDecodeError, RecursionError: all are the sender's
            self._violate(error)
            return
        try:  # as ``_handle`` does
            self.on_batch(self, messages)
        except Exception as error:
            self._contain(error, kinds_of(messages))

    def _handle(self, messages: list[Any]) -> None:
        try:
            self.on_batch(self, messages)
        except Exception as error:
            self._contain(error, kinds_of(messages))

    def _one_by_one(self, messages: list[Any]) -> None:
        on_message = self._on_message
        assert on_message is not None
        for number, message in enumerate(messages, 1):
            try:
                on_message(self, message)
            except Exception as error:
                self._contain(error, type(message).__name__)
            if self.closed:
                return
            if self._limits.deaf_bytes and len(self._outbox) >= _ANSWERS_UNFLUSHED:
                self.flush()
                if self.backlog_bytes > self._limits.deaf_bytes:
                    self._be_deaf(messages[number:])
                    return

    def _contain(self, error: Exception, kind: str) -> None:
        self.reactor.containment.contain(error, f"handling {kind}", self.label)
        if not self._indispensable:
            self._lost(f"{kind} from there could not be handled: {type(error).__name__}: {error}")

    def _be_deaf(self, rest: list[Any]) -> None:
        """It does not read its answers: until it does, its requests wait."""
        self._postponed.append(rest)
        if not self.closed:
            self.reactor.pause_reader(self.fd, True)

    def _hear_again(self) -> None:
        postponed, self._postponed = self._postponed, deque()
        while postponed:
            batch = postponed.popleft()
            if isinstance(batch, bytes):
                self._open(batch)
            else:
                self._handle(batch)
            if self.closed:
                return
            if self._postponed:
                self._postponed.extend(postponed)
                return
        self.reactor.pause_reader(self.fd, self._deframer.is_held_back)

    def hold_back(self, held: bool) -> None:
        """There is no room for its large frame (rpc/frame_budget.py): it is not read from until there is."""
        self.reactor.pause_reader(self.fd, held or bool(self._postponed))

    def take_fd(self) -> int:
        """The descriptor that came with the message being handled; the caller must close it.

        Raises DescriptorMissing.
        """
        return self._luggage.take()

    def limit_frames(self, max_bytes: int) -> None:
        """From now on the peer may send frames of this size."""
        self._deframer.max_bytes = max_bytes

    # -- ending ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close from our side: no ``on_close`` call. What is queued is flushed if the kernel takes it."""
        if not self.closed:
            self.flush()
            if not self.closed:
                self._release()

    def withdraw(self) -> list[Message]:
        """Close without a word; what was queued and not encoded yet."""
        rest, self._outbox = self._outbox, []
        if not self.closed:
            self._release()
        return rest

    def abandon(self) -> None:
        """In a fork: close this copy of the socket. The reactor, shared with the parent, hears nothing."""
        self.closed = True
        self._sock.close()

    def fail(self, reason: str) -> None:
        """It is of no use any more: close it, and tell ``on_close`` in the loop's next pass."""
        if not self.closed:
            self.end_reason = reason
            self._release()
            self.reactor.call_soon(self._tell_end)

    def _given_up(self, error: Exception) -> None:
        """There was no memory to read or to write; what was half taken is not to be had again."""
        self.fail(f"it could not be read from, or written to: {type(error).__name__}: {error}")

    def _violate(self, what: object) -> None:
        self.is_violated = True
        self._lost(f"protocol violation: {what}")

    def _lost(self, reason: str) -> None:
        if not self.closed:
            self.end_reason = reason
            self._release()
            self._tell_end()

    def _tell_end(self) -> None:
        try:
            self._on_close(self, self.end_reason)
        except Exception as error:
            self.reactor.containment.contain(error, "handling the end of the connection", self.label)

    def _release(self) -> None:
        self.closed = True
        self.reactor.remove_reader(self.fd)
        self._sock.close()
        self._deframer.drop()
        for _, fds in self._unsent:
            self._luggage.close_all(fds)
        self._luggage.close()
        self._unsent.clear()
        self._postponed.clear()
        self.backlog_bytes = 0
        if self.is_full:
            self._set_full(False)
        if self._conversation is None:
            self._outbox.clear()
