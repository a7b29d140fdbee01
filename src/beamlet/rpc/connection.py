"""A socket that carries batches of messages, and now and then a file descriptor.

Sending only queues; the batch leaves at the end of the reactor's pass, or at ``flush``.  What the kernel
does not take at once waits here and leaves when the socket has room again.
"""

from __future__ import annotations

import socket
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from beamlet.protocol.message import Message
from beamlet.rpc.descriptors import Wire
from beamlet.rpc.framing import PREFIX, PREFIX_BYTES, Deframer, FramingError
from beamlet.rpc.reactor import Reactor

#: Descriptors one read may bring; the kernel's limit for one sendmsg is 253.
_MAX_FDS = 64
_FD_SPACE = socket.CMSG_SPACE(_MAX_FDS * 4)

_encoder = msgspec.msgpack.Encoder()
#: By the identity of the union, which is kept alive beside it: hashing one writes to all its types, and in a
#: fresh fork every page that is written to is a page to copy.
_decoders: dict[int, tuple[Any, msgspec.msgpack.Decoder[list[Message]]]] = {}


def decoder_for(messages: Any) -> msgspec.msgpack.Decoder[list[Message]]:
    """The shared decoder of batches of one union of message types."""
    known = _decoders.get(id(messages))
    if known is None:
        known = _decoders[id(messages)] = messages, msgspec.msgpack.Decoder(list[messages])
    return known[1]


def encode_frame(messages: list[Message]) -> bytearray:
    """One frame holding ``messages``."""
    frame = bytearray(PREFIX_BYTES)
    _encoder.encode_into(messages, frame, PREFIX_BYTES)
    PREFIX.pack_into(frame, 0, len(frame) - PREFIX_BYTES, 0)
    return frame


class Connection:
    """One end of a message stream.

    messages: the union of types the peer may send; anything else closes the connection.
    on_batch(connection, messages) or on_message(connection, message): called in the reactor's thread.
    on_close(connection, reason): called once, whoever closed it, unless we did by ``close()``.
    carries_fds: whether messages with descriptors may arrive.
    """

    __slots__ = (
        "_blocked",
        "_carries_fds",
        "_decode",
        "_deframer",
        "_fds_in",
        "_fds_out",
        "_on_close",
        "_outbox",
        "_queued",
        "_sock",
        "closed",
        "context",
        "fd",
        "label",
        "last_flush",
        "on_batch",
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
        label: str = "",
        context: Any = None,
        carries_fds: bool = False,
    ) -> None:
        if on_batch is None:
            assert on_message is not None, "a connection needs on_batch or on_message"
            on_batch = _one_by_one(on_message)
        sock.setblocking(False)
        self._sock = sock
        self.fd = sock.fileno()
        self.reactor = reactor
        self.label = label
        #: Whatever the owner of the connection wants to find here.
        self.context = context
        self.closed = False
        self.last_flush = 0.0
        self.on_batch = on_batch
        self._on_close = on_close
        self._decode = decoder_for(messages).decode
        self._deframer = Deframer()
        self._outbox: list[Message] = []
        self._fds_out: list[int] = []
        self._fds_in: deque[int] = deque()
        self._carries_fds = carries_fds
        #: Frames (rest of) the kernel had no room for, each with the descriptors still to go.
        self._blocked: deque[tuple[memoryview, list[int]]] = deque()
        self._queued = False
        reactor.add_reader(self.fd, self._on_readable)

    # -- sending ---------------------------------------------------------------------------------

    def send(self, message: Message, fd: int = -1, *more_fds: int) -> None:
        """Queue a message, and with it duplicates of the descriptors. Silently dropped once closed."""
        if self.closed:
            return
        if fd >= 0 and len(self._fds_out) + 1 + len(more_fds) > _MAX_FDS:
            self.flush()  # one frame carries no more than the other side makes room for
        self._outbox.append(message)
        if fd >= 0:
            dup = self.reactor.descriptors.dup
            self._fds_out.append(dup(fd))
            self._fds_out.extend(map(dup, more_fds))
        if not self._queued:
            self._queued = True
            self.reactor.dirty.append(self)

    @property
    def queued_count(self) -> int:
        """Messages waiting for a flush."""
        return len(self._outbox)

    @property
    def has_backlog(self) -> bool:
        return bool(self._blocked)

    @property
    def backlog_bytes(self) -> int:
        """Bytes that the kernel has not taken yet: the peer reads slowly."""
        return sum(len(frame) for frame, _ in self._blocked)

    def flush(self) -> None:
        """Hand everything queued to the kernel, or to the queue before it."""
        self._queued = False
        if self.closed or not self._outbox:
            return
        messages, self._outbox = self._outbox, []
        fds, self._fds_out = self._fds_out, []
        try:
            frame = encode_frame(messages)
        except (OverflowError, TypeError, ValueError) as error:
            # A mistake of ours, perhaps led on by another peer's nonsense; the rest of the process goes on.
            kinds = ", ".join(sorted({type(message).__name__ for message in messages}))
            for fd in fds:
                self.reactor.descriptors.close(fd)
            self._lost(f"one of these messages could not be encoded: {kinds}: {error}")
            return
        self.last_flush = self.reactor.now()
        if self._blocked:
            self._blocked.append((memoryview(frame), fds))
        elif not fds:
            # The hot path: one system call, no descriptors, the kernel takes it all.
            try:
                sent = self._sock.send(frame)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._lost(f"write failed: {error.strerror}")
                return
            if sent < len(frame):
                self._block(memoryview(frame)[sent:], [])
        else:
            self._block(memoryview(frame), fds)
            self._write_blocked()

    def _block(self, rest: memoryview, fds: list[int]) -> None:
        self._blocked.append((rest, fds))
        self.reactor.set_writer(self.fd, self._write_blocked)

    def _write_blocked(self) -> None:
        while self._blocked:
            frame, fds = self._blocked[0]
            try:
                sent = self._send_fds(frame, fds) if fds else self._sock.send(frame)
            except BlockingIOError:
                return
            except OSError as error:
                self._lost(f"write failed: {error.strerror}")
                return
            for fd in fds:
                self.reactor.descriptors.close(fd)
            if sent < len(frame):
                self._blocked[0] = (frame[sent:], [])
            else:
                self._blocked.popleft()
        self.reactor.set_writer(self.fd, None)

    def _send_fds(self, frame: memoryview, fds: list[int]) -> int:
        return self._sock.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))])

    # -- receiving -------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        try:
            if self._carries_fds:
                size = self._receive_with_fds()
            else:
                size = self._sock.recv_into(self.reactor.read_buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(f"read failed: {error.strerror}")
            return
        if not size:
            self._lost("closed by the other side")
            return
        try:
            for header in self._deframer.feed(self.reactor.read_view[:size]):
                self.on_batch(self, self._decode(header))
                if self.closed:
                    return
        except (FramingError, msgspec.DecodeError) as error:
            self._lost(f"protocol violation: {error}")

    def _receive_with_fds(self) -> int:
        size, ancillary, flags, _ = self._sock.recvmsg_into(
            [self.reactor.read_buffer], _FD_SPACE, socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                whole = len(data) - len(data) % 4
                self._fds_in.extend(int.from_bytes(data[i : i + 4], "little") for i in range(0, whole, 4))
        if flags & socket.MSG_CTRUNC:
            raise OSError(0, "descriptors were lost: too many open files here (ulimit -n)")
        return size

    def take_fd(self) -> int:
        """The descriptor that came with the message being handled; the caller must close it."""
        return self._fds_in.popleft()

    # -- ending ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close from our side: no ``on_close`` call. What is queued is flushed if the kernel takes it."""
        if not self.closed:
            self.flush()
            if not self.closed:
                self._release()

    def abandon(self) -> None:
        """In a fork: close this copy of the socket. The reactor, shared with the parent, hears nothing."""
        self.closed = True
        self._sock.close()

    def _lost(self, reason: str) -> None:
        if not self.closed:
            self._release()
            self._on_close(self, reason)

    def _release(self) -> None:
        self.closed = True
        self.reactor.remove_reader(self.fd)
        self._sock.close()
        for fd in self._fds_in:
            self.reactor.descriptors.close(fd)
        for fd in self._fds_out:
            self.reactor.descriptors.close(fd)
        for _, fds in self._blocked:
            for fd in fds:
                self.reactor.descriptors.close(fd)
        self._fds_in.clear()
        self._blocked.clear()
        self._outbox.clear()


def _one_by_one(
    on_message: Callable[[Connection, Any], None],
) -> Callable[[Connection, list[Any]], None]:
    def on_batch(connection: Connection, messages: list[Any]) -> None:
        for message in messages:
            on_message(connection, message)
            if connection.closed:
                return

    return on_batch
