"""The first frame of a newcomer: read exactly, whatever comes in the same moment behind it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from beamlet.protocol.node import Notice, Refused, Welcome
from beamlet.rpc.connection import encode_frame
from beamlet.rpc.descriptors import send_with
from beamlet.rpc.first_frame import receive_first
from beamlet.rpc.framing import FramingError

EITHER = Welcome | Refused
REFUSED = encode_frame([Refused("full")])
NOTICE = encode_frame([Notice(30, "the disk is full")])


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_what_comes_behind_it_stays_in_the_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(REFUSED + NOTICE)
    assert receive_first(ours, EITHER, 5.0) == (Refused("full"), [])
    assert ours.recv(1 << 16) == NOTICE


def test_descriptors_come_with_it_and_those_of_others_do_not(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    for frame in (REFUSED, NOTICE):
        send_with(theirs, memoryview(frame), [theirs.fileno()])
    message, (fd,) = receive_first(ours, EITHER, 5.0)
    assert message == Refused("full")
    assert os.path.sameopenfile(fd, theirs.fileno())
    os.close(fd)
    data, (fd,), _, _ = socket.recv_fds(ours, 1 << 16, 4)
    assert data == NOTICE
    os.close(fd)


def test_it_may_come_in_pieces(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    sender = threading.Thread(target=lambda: [theirs.sendall(bytes([byte])) for byte in REFUSED])
    sender.start()
    assert receive_first(ours, EITHER, 5.0)[0] == Refused("full")
    sender.join()


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", ConnectionError),
        (REFUSED[:20], ConnectionError),
        (NOTICE, FramingError),
        (encode_frame([Refused("a"), Refused("b")]), FramingError),
        (b"\xff" * 64, FramingError),
    ],
)
def test_what_is_none_is_told(
    pair: tuple[socket.socket, socket.socket], sent: bytes, error: type[Exception]
) -> None:
    ours, theirs = pair
    theirs.sendall(sent)
    theirs.close()
    with pytest.raises(error):
        receive_first(ours, EITHER, 5.0)


def test_silence_ends(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(TimeoutError):
        receive_first(pair[0], EITHER, 0.01)
