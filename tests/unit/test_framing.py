"""Frames cut from a byte stream: whatever the pieces it arrives in, and nothing but frames."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamlet.protocol.peer import PeerMessage, RemoveBorrower
from beamlet.rpc.connection import decoder_for, encode_frame
from beamlet.rpc.framing import MAX_HEADER_BYTES, PREFIX, Deframer, FramingError


def framed(header: bytes) -> bytes:
    return PREFIX.pack(len(header), 0) + header


def feed(deframer: Deframer, *pieces: bytes) -> list[bytes]:
    """What comes out, copied at once: views are lent until the next feed."""
    return [bytes(header) for piece in pieces for header in deframer.feed(memoryview(piece))]


def test_a_stream_is_cut_the_same_wherever_it_is_split() -> None:
    headers = [b"", b"a", b"bc" * 40, b"\x00" * 7]
    stream = b"".join(map(framed, headers))
    for at in range(len(stream) + 1):
        assert feed(Deframer(), stream[:at], stream[at:]) == headers, f"split at byte {at}"


def test_a_stream_may_come_byte_by_byte() -> None:
    stream = framed(b"hello") + framed(b"") + framed(b"world")
    assert feed(Deframer(), *(bytes([byte]) for byte in stream)) == [b"hello", b"", b"world"]


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(0, 300), max_size=8))
def test_any_frames_survive_any_pieces(headers: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(framed, headers))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[a:b] for a, b in pairwise(edges)]
    assert feed(Deframer(), *pieces) == headers


@given(st.binary(max_size=200))
def test_garbage_is_an_error_or_an_unfinished_frame(data: bytes) -> None:
    deframer = Deframer()
    try:
        out = feed(deframer, data)
    except FramingError:
        return
    assert sum(len(header) + PREFIX.size for header in out) <= len(data)


def test_an_impossible_size_is_refused_before_anything_is_kept() -> None:
    with pytest.raises(FramingError, match=str(MAX_HEADER_BYTES + 1)):
        Deframer().feed(memoryview(PREFIX.pack(MAX_HEADER_BYTES + 1, 0)))


def test_a_payload_is_refused_on_a_node() -> None:
    with pytest.raises(FramingError, match="1 bytes"):
        Deframer().feed(memoryview(PREFIX.pack(0, 1)))


def test_a_batch_of_messages_is_one_frame() -> None:
    batch = [RemoveBorrower([]), RemoveBorrower([b"x"])]  # type: ignore[list-item]
    (header,) = Deframer().feed(memoryview(encode_frame(list(batch))))
    assert decoder_for(PeerMessage).decode(header) == batch
