"""The one door of a node: a listening Unix socket whose visitors prove the secret first.

``Listener`` is the server's end, driven by the reactor; ``connect`` is the client's, blocking.  A stranger
costs one descriptor, HELLO_BYTES of memory and HANDSHAKE_TIMEOUT_S of time; at most MAX_STRANGERS at once.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable

from beamlet.base.say import say
from beamlet.rpc.auth import CHALLENGE_BYTES, ClientHandshake, HandshakeError, ServerHandshake
from beamlet.rpc.reactor import Reactor, Timer
from beamlet.rpc.socket_path import short_socket_path

HANDSHAKE_TIMEOUT_S = 5.0
MAX_STRANGERS = 64
#: How long nobody is let in after the descriptors ran out.
_BREATHER_S = 0.1
#: How long a visitor who was shown out waits before it comes again.
_CROWDED_S = 0.05
#: How long a visitor stays away when the queue before the door is full.
_QUEUE_FULL_S = 0.005


class Listener:
    """Accepts, authenticates, and hands over: ``on_connection(sock)`` gets proven peers only."""

    def __init__(
        self, path: str, secret: bytes, reactor: Reactor, on_connection: Callable[[socket.socket], None]
    ) -> None:
        self._reactor = reactor
        self._secret = secret
        self._on_connection = on_connection
        self._path = path
        self._strangers: dict[int, _Stranger] = {}
        self._pause: Timer | None = None
        #: Visitors turned away: wrong secret, no handshake, too slow, too many.
        self.refused_count = 0
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        with short_socket_path(path) as short:
            self._sock.bind(short)
        os.chmod(path, 0o600)
        self._sock.listen(128)
        reactor.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # out of descriptors or memory: those who are here already go on
            self._refuse(f"{error.strerror}; looking again in {_BREATHER_S:g} s")
            self._reactor.remove_reader(self._sock.fileno())
            self._pause = self._reactor.call_later(_BREATHER_S, self._resume)
            return
        if not _same_user(sock):
            self._refuse("it is another user's")
            sock.close()
            return
        if len(self._strangers) >= MAX_STRANGERS:
            # Who means it proves itself within a millisecond; who has been silent longest goes.
            oldest = next(iter(self._strangers.values()))
            self.settle(oldest, f"made room for another: {MAX_STRANGERS} had not proven themselves yet")
        stranger = _Stranger(sock, self._secret, self)
        self._strangers[sock.fileno()] = stranger
        try:
            self._reactor.add_reader(sock.fileno(), stranger.on_readable)
        except OSError as error:  # the kernel watches no more descriptors for us, for now
            self.settle(stranger, str(error.strerror))

    def _resume(self) -> None:
        self._pause = None
        try:
            self._reactor.add_reader(self._sock.fileno(), self._accept)
        except OSError:
            self._pause = self._reactor.call_later(_BREATHER_S, self._resume)

    def _refuse(self, reason: str) -> None:
        """Count it; the log hears of the 1st, 2nd, 4th, 8th … so that a flood does not fill the disk."""
        self.refused_count += 1
        if self.refused_count & (self.refused_count - 1) == 0:
            say(f"refused a connection ({self.refused_count} so far): {reason}", "beamlet")

    def settle(self, stranger: _Stranger, refusal: str = "") -> None:
        """A stranger proved itself, or is shown out because of ``refusal``."""
        stranger.timer.cancel()
        fd = stranger.sock.fileno()
        self._reactor.remove_reader(fd)
        del self._strangers[fd]
        if refusal:
            self._refuse(refusal)
            stranger.sock.close()
            return
        try:
            self._on_connection(stranger.sock)
        except Exception as error:  # it costs this visitor, not the door
            stranger.sock.close()
            self._reactor.containment.contain(error, "welcoming a visitor")

    def close(self) -> None:
        for stranger in list(self._strangers.values()):
            self.settle(stranger, "the node ends")
        if self._pause is not None:
            self._pause.cancel()
        self._reactor.remove_reader(self._sock.fileno())
        self._sock.close()
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass  # somebody swept the session directory before us

    @property
    def reactor(self) -> Reactor:
        return self._reactor


class _Stranger:
    """A visitor between accept and proof."""

    def __init__(self, sock: socket.socket, secret: bytes, listener: Listener) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._listener = listener
        self._handshake = ServerHandshake(secret)
        self.timer: Timer = listener.reactor.call_later(
            HANDSHAKE_TIMEOUT_S, lambda: listener.settle(self, f"no proof within {HANDSHAKE_TIMEOUT_S:g} s")
        )

    def on_readable(self) -> None:
        try:
            data = self.sock.recv(self._handshake.wanted_bytes)
            if not data:
                raise HandshakeError("left before proving anything")
            reply = self._handshake.feed(data)
            if reply:
                self.sock.send(reply)  # 64 bytes into an empty socket buffer: never short
        except BlockingIOError:
            return
        except (OSError, HandshakeError) as error:
            self._listener.settle(self, str(error))
            return
        if self._handshake.done:
            self._listener.settle(self)


def connect(path: str, secret: bytes, timeout_s: float = HANDSHAKE_TIMEOUT_S) -> socket.socket:
    """A proven connection to the node listening at ``path``.

    Raises OSError (nobody listens, too slow) or HandshakeError (not our session).
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return _connect_once(path, secret, deadline)
        except (BrokenPipeError, ConnectionResetError, _ShownOut):
            # Shown out before we could prove ourselves: it is crowded, or was while we came.
            if time.monotonic() + _CROWDED_S > deadline:
                raise
            time.sleep(_CROWDED_S)


class _ShownOut(HandshakeError):
    """The server closed the connection during the handshake."""


def _connect_once(path: str, secret: bytes, deadline: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        with short_socket_path(path) as short:
            _connect_patiently(sock, short, deadline)
        handshake = ClientHandshake(secret)
        sock.sendall(handshake.hello())
        challenge = b""
        while len(challenge) < CHALLENGE_BYTES:
            data = sock.recv(CHALLENGE_BYTES - len(challenge))
            if not data:
                raise _ShownOut("the server closed the connection during the handshake")
            challenge += data
        sock.sendall(handshake.answer(challenge))
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_patiently(sock: socket.socket, path: str, deadline: float) -> None:
    """A Unix socket whose queue of visitors is full refuses at once instead of letting them wait."""
    while True:
        try:
            sock.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} was busy with other visitors all the time") from None
            time.sleep(_QUEUE_FULL_S)


def _same_user(sock: socket.socket) -> bool:
    """The kernel's word on who connected; the secret decides, this only saves work."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", raw)
    return uid in (os.getuid(), 0)
