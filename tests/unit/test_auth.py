"""The handshake: both sides know the secret, or nothing happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamlet.rpc.auth import (
    CHALLENGE_BYTES,
    HELLO_BYTES,
    MAGIC,
    NONCE_BYTES,
    PROOF_BYTES,
    ClientHandshake,
    HandshakeError,
    ServerHandshake,
    new_secret,
)

SECRET, WRONG = b"s" * 32, b"w" * 32
NONCE_C, NONCE_S = b"c" * NONCE_BYTES, b"n" * NONCE_BYTES


def client(secret: bytes = SECRET) -> ClientHandshake:
    return ClientHandshake(secret, NONCE_C)


def server(secret: bytes = SECRET) -> ServerHandshake:
    return ServerHandshake(secret, NONCE_S)


def test_two_who_know_the_secret_agree() -> None:
    a, b = client(), server()
    challenge = b.feed(a.hello())
    assert (len(a.hello()), len(challenge), b.done) == (HELLO_BYTES, CHALLENGE_BYTES, False)
    proof = a.answer(challenge)
    assert len(proof) == PROOF_BYTES
    assert b.feed(proof) == b""
    assert b.done


def test_bytes_may_come_one_at_a_time_and_never_too_many() -> None:
    a, b = client(), server()

    def trickle(data: bytes) -> bytes:
        for at in range(len(data)):
            assert b.wanted_bytes == len(data) - at
            reply = b.feed(data[at : at + 1])
        return reply

    trickle(a.answer(trickle(a.hello())))
    assert b.done


def test_a_client_without_the_secret_is_refused() -> None:
    b = server()
    challenge = b.feed(client().hello())
    with pytest.raises(HandshakeError, match="does not know"):
        client(WRONG).answer(challenge)
    with pytest.raises(HandshakeError, match="wrong secret"):
        b.feed(b"\0" * PROOF_BYTES)
    assert not b.done


def test_a_server_without_the_secret_is_found_out() -> None:
    with pytest.raises(HandshakeError, match="does not know"):
        client().answer(server(WRONG).feed(client().hello()))


def test_a_challenge_thrown_back_is_no_proof() -> None:
    """The attacker opens a second connection, and lets the server compute the answer to its own nonce."""
    b = server()
    challenge = b.feed(MAGIC + NONCE_C)
    second = ServerHandshake(SECRET, NONCE_C)
    reflected = second.feed(MAGIC + challenge[:NONCE_BYTES])
    with pytest.raises(HandshakeError, match="wrong secret"):
        b.feed(reflected[NONCE_BYTES:])
    third = server()
    own = third.feed(MAGIC + NONCE_C)
    with pytest.raises(HandshakeError, match="wrong secret"):
        third.feed(own[NONCE_BYTES:])


def test_an_old_proof_does_not_open_a_new_connection() -> None:
    a, first = client(), server()
    proof = a.answer(first.feed(a.hello()))
    later = ServerHandshake(SECRET, b"m" * NONCE_BYTES)
    later.feed(a.hello())
    with pytest.raises(HandshakeError, match="wrong secret"):
        later.feed(proof)


@pytest.mark.parametrize("size", [0, 1, NONCE_BYTES, CHALLENGE_BYTES - 1, CHALLENGE_BYTES + 1])
def test_a_challenge_of_the_wrong_size_is_refused(size: int) -> None:
    challenge = server().feed(client().hello())
    with pytest.raises(HandshakeError):
        client().answer((challenge + b"\0")[:size])


@given(st.binary(min_size=HELLO_BYTES, max_size=HELLO_BYTES))
def test_who_speaks_something_else_learns_nothing(hello: bytes) -> None:
    b = server()
    if hello[: len(MAGIC)] == MAGIC:
        return
    with pytest.raises(HandshakeError, match="not a beamlet client"):
        b.feed(hello)


def test_secrets_and_nonces_are_new_each_time() -> None:
    assert new_secret() != new_secret()
    assert ClientHandshake(SECRET).hello() != ClientHandshake(SECRET).hello()
