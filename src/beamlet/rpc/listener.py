"""The one door of a node: a listening Unix socket whose visitors prove the secret first.

``Listener`` is the server's end, driven by the reactor; ``connect`` is the client's, blocking.  A stranger
costs one descriptor, HELLO_BYTES of memory and HANDSHAKE_TIMEOUT_S of time; at most MAX_STRANGERS at once.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from beamlet.rpc.auth import CHALLENGE_BYTES, ClientHandshake, HandshakeError, ServerHandshake
from beamlet.rpc.reactor import Reactor, Timer

HANDSHAKE_TIMEOUT_S = 5.0
MAX_STRANGERS = 64
#: sun_path holds 108 bytes with its NUL; longer paths go through /proc/self/fd.
_MAX_PATH_BYTES = 100


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
        #: Visitors turned away: wrong secret, no handshake, too slow, too many.
        self.refused_count = 0
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        with _short_path(path) as short:
            self._sock.bind(short)
        os.chmod(path, 0o600)
        self._sock.listen(128)
        reactor.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        if len(self._strangers) >= MAX_STRANGERS or not _same_user(sock):
            self.refused_count += 1
            sock.close()
            return
        stranger = _Stranger(sock, self._secret, self)
        self._strangers[sock.fileno()] = stranger
        self._reactor.add_reader(sock.fileno(), stranger.on_readable)

    def settle(self, stranger: _Stranger, trusted: bool) -> None:
        """A stranger proved itself, or is shown out."""
        stranger.timer.cancel()
        fd = stranger.sock.fileno()
        self._reactor.remove_reader(fd)
        del self._strangers[fd]
        if trusted:
            self._on_connection(stranger.sock)
        else:
            self.refused_count += 1
            stranger.sock.close()

    def close(self) -> None:
        for stranger in list(self._strangers.values()):
            self.settle(stranger, trusted=False)
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
            HANDSHAKE_TIMEOUT_S, lambda: listener.settle(self, trusted=False)
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
        except (OSError, HandshakeError):
            self._listener.settle(self, trusted=False)
            return
        if self._handshake.done:
            self._listener.settle(self, trusted=True)


def connect(path: str, secret: bytes, timeout_s: float = HANDSHAKE_TIMEOUT_S) -> socket.socket:
    """A proven connection to the node listening at ``path``.

    Raises OSError (nobody listens, too slow) or HandshakeError (not our session).
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        with _short_path(path) as short:
            sock.connect(short)
        handshake = ClientHandshake(secret)
        sock.sendall(handshake.hello())
        challenge = b""
        while len(challenge) < CHALLENGE_BYTES:
            data = sock.recv(CHALLENGE_BYTES - len(challenge))
            if not data:
                raise HandshakeError("the server closed the connection during the handshake")
            challenge += data
        sock.sendall(handshake.answer(challenge))
    except BaseException:
        sock.close()
        raise
    return sock


def _same_user(sock: socket.socket) -> bool:
    """The kernel's word on who connected; the secret decides, this only saves work."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", raw)
    return uid in (os.getuid(), 0)


@contextmanager
def _short_path(path: str) -> Iterator[str]:
    """A name for ``path`` that fits into a socket address, whatever its length."""
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        yield path
        return
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)
