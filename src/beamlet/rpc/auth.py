"""Proving the session's secret, both ways, before the first frame is parsed. Sans-IO.

    client → server   MAGIC, nonce_c                                   (40 bytes)
    server → client   nonce_s, MAC(secret, "server" nonce_c nonce_s)  (64 bytes)
    client → server   MAC(secret, "client" nonce_s nonce_c)           (32 bytes)

Fixed sizes and one comparison: a stranger can make us do nothing else, and learns nothing.  The roles in
the MACs keep a reflected challenge from being an answer.
"""

from __future__ import annotations

import os

from beamlet.base.digest import equal_digests, keyed_digest

MAGIC = b"BEAMLET1"
NONCE_BYTES = 32
MAC_BYTES = 32
HELLO_BYTES = len(MAGIC) + NONCE_BYTES
CHALLENGE_BYTES = NONCE_BYTES + MAC_BYTES
PROOF_BYTES = MAC_BYTES
SECRET_BYTES = 32


class HandshakeError(Exception):
    """The other side does not know the secret, or does not speak our protocol."""


def new_secret() -> bytes:
    return os.urandom(SECRET_BYTES)


def _mac(secret: bytes, role: bytes, first: bytes, second: bytes) -> bytes:
    return keyed_digest(secret, role + first + second)


class ClientHandshake:
    """hello() → (send) → answer(challenge) → (send) → authenticated."""

    def __init__(self, secret: bytes, nonce: bytes | None = None) -> None:
        self._secret = secret
        self._nonce = nonce or os.urandom(NONCE_BYTES)

    def hello(self) -> bytes:
        return MAGIC + self._nonce

    def answer(self, challenge: bytes) -> bytes:
        """Check the server's proof and return ours. Raises HandshakeError."""
        server_nonce, proof = challenge[:NONCE_BYTES], challenge[NONCE_BYTES:]
        if not equal_digests(proof, _mac(self._secret, b"server", self._nonce, server_nonce)):
            raise HandshakeError("the server does not know this session's secret")
        return _mac(self._secret, b"client", server_nonce, self._nonce)


class ServerHandshake:
    """feed(bytes) until ``done``; what it returns is to be sent."""

    def __init__(self, secret: bytes, nonce: bytes | None = None) -> None:
        self._secret = secret
        self._nonce = nonce or os.urandom(NONCE_BYTES)
        self._client_nonce = b""
        self._buffer = b""
        self.done = False

    @property
    def wanted_bytes(self) -> int:
        """Read no more than this: what follows the proof is already the first frame."""
        size = PROOF_BYTES if self._client_nonce else HELLO_BYTES
        return size - len(self._buffer)

    def feed(self, data: bytes) -> bytes:
        """Raises HandshakeError when the peer is a stranger."""
        self._buffer += data
        if not self._client_nonce and self._buffer[: len(MAGIC)] != MAGIC[: len(self._buffer)]:
            raise HandshakeError("not a beamlet client")
        if self.wanted_bytes:
            return b""
        received, self._buffer = self._buffer, b""
        if not self._client_nonce:
            self._client_nonce = received[len(MAGIC) :]
            return self._nonce + _mac(self._secret, b"server", self._client_nonce, self._nonce)
        if not equal_digests(received, _mac(self._secret, b"client", self._nonce, self._client_nonce)):
            raise HandshakeError("wrong secret")
        self.done = True
        return b""
