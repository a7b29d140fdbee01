"""Frames cut from a byte stream: whatever the pieces it arrives in, and nothing but frames."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamlet.protocol.peer import PeerMessage, RemoveBorrower, Result
from beamlet.rpc import batches
from beamlet.rpc.batches import (
    FRAME_BYTES,
    FRAME_MESSAGES,
    check_count,
    decoder_for,
    encode_frame,
    encode_frames,
    encode_what_can,
)
from beamlet.rpc.frame_budget import FrameBudget
from beamlet.rpc.framing import MAX_HEADER_BYTES, PREFIX, Deframer, FramingError


def framed(header: bytes) -> bytes:
    """As it travels; an empty header would be a frame that says nothing."""
    return PREFIX.pack(len(header), 0, 0) + header


def feed(deframer: Deframer, *pieces: bytes) -> list[bytes]:
    """What comes out, copied at once: views are lent until the next feed."""
    return [bytes(header) for piece in pieces for header in deframer.feed(memoryview(piece))]


def test_a_stream_is_cut_the_same_wherever_it_is_split() -> None:
    headers = [b"a", b"bc" * 40, b"\x00" * 7]
    stream = b"".join(map(framed, headers))
    for at in range(len(stream) + 1):
        assert feed(Deframer(), stream[:at], stream[at:]) == headers, f"split at byte {at}"


def test_a_stream_may_come_byte_by_byte() -> None:
    stream = framed(b"hello") + framed(b"") + framed(b"world")  # one of them only acknowledges
    assert feed(Deframer(), *(bytes([byte]) for byte in stream)) == [b"hello", b"world"]


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(0, 300), max_size=8))
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
        Deframer().feed(memoryview(PREFIX.pack(MAX_HEADER_BYTES + 1, 0, 0)))


def test_a_payload_is_refused_on_a_node() -> None:
    with pytest.raises(FramingError, match="1 bytes"):
        Deframer().feed(memoryview(PREFIX.pack(0, 1, 0)))


def test_a_frame_larger_than_this_stream_may_bring_is_refused() -> None:
    with pytest.raises(FramingError, match=r"101 .* 100 "):
        Deframer(100).feed(memoryview(PREFIX.pack(101, 0, 0)))


def test_what_was_acknowledged_last_is_known() -> None:
    deframer = Deframer()
    deframer.feed(memoryview(PREFIX.pack(1, 0, 5) + b"x" + PREFIX.pack(0, 0, 7) + PREFIX.pack(9, 0, 8)))
    assert deframer.acknowledged == 8


class Source:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def hold_back(self, held: bool) -> None:
        self.told.append(held)

    def fail(self, reason: str) -> None:
        self.told.append(reason)


def test_a_large_frame_for_which_there_is_no_room_waits_until_another_is_finished() -> None:
    """It was cut off: of honest workers that export large functions at once some were killed."""
    budget, first, second = FrameBudget(40 << 20), Source(), Source()
    a, b = Deframer(budget=budget, source=first), Deframer(budget=budget, source=second)
    begun = PREFIX.pack(20 << 20, 0, 0) + bytes(100)
    assert a.feed(memoryview(begun)) == b.feed(memoryview(begun)) == []
    assert (first.told, second.told, b.is_held_back) == ([], [True], True)
    (header,) = a.feed(memoryview(bytes((20 << 20) - 100)))
    assert len(header) == 20 << 20
    assert (second.told, b.is_held_back) == ([True, False], False)
    b.drop()
    assert budget.used == 0


def test_a_frame_that_follows_in_the_same_read_is_a_claim_of_its_own() -> None:
    budget = FrameBudget(40 << 20)
    deframer = Deframer(budget=budget)
    large = PREFIX.pack(20 << 20, 0, 0)
    deframer.feed(memoryview(large))
    assert budget.used == (20 << 20) + PREFIX.size
    (header,) = deframer.feed(memoryview(bytes(20 << 20) + PREFIX.pack(2 << 20, 0, 0) + b"x"))
    assert (len(header), budget.used) == (20 << 20, (2 << 20) + PREFIX.size)
    deframer.drop()
    assert budget.used == 0


def test_a_stream_that_ends_while_it_waits_leaves_the_queue() -> None:
    budget, sources = FrameBudget(40 << 20), [Source() for _ in range(3)]
    streams = [Deframer(budget=budget, source=source) for source in sources]
    for stream in streams:
        stream.feed(memoryview(PREFIX.pack(20 << 20, 0, 0)))
    streams[1].drop()
    streams[0].drop()
    assert [source.told for source in sources] == [[], [True], [True, False]]
    budget.check_invariants()


def test_finished_frames_take_no_room() -> None:
    budget = FrameBudget(1)
    deframer = Deframer(budget=budget)
    assert len(feed(deframer, framed(bytes(5 << 20)))) == 1
    assert budget.used == 0


def test_a_batch_of_messages_is_one_frame() -> None:
    batch = [RemoveBorrower([]), RemoveBorrower([b"x"])]  # type: ignore[list-item]
    (header,) = Deframer().feed(memoryview(encode_frame(list(batch))))
    assert decoder_for(PeerMessage).decode(header) == batch


def sizes(messages: list[Result]) -> list[int]:
    """How many messages are in each frame; together they must be what was given."""
    frames = list(encode_frames(list(messages)))
    assert all(len(frame) <= 3 * FRAME_BYTES for frame in frames)
    decoded = [decoder_for(PeerMessage).decode(feed(Deframer(), bytes(frame))[0]) for frame in frames]
    assert [message for batch in decoded for message in batch] == messages
    return [len(batch) for batch in decoded]


def test_large_messages_are_cut_into_several_frames() -> None:
    assert max(sizes([Result(n, b"x" * 500_000) for n in range(70)])) <= 16


def test_large_messages_behind_many_small_ones_are_cut_down_to_one_per_frame() -> None:
    large = [Result(n, b"x" * (FRAME_BYTES + 1)) for n in range(3)]
    assert sizes([*(Result(n, b"x") for n in range(64)), *large])[1:] == [1, 1]


def test_a_message_that_nobody_would_read_is_not_sent_and_the_others_are() -> None:
    too_large, fits = Result(1, b"x" * (3 * FRAME_BYTES)), Result(2, b"x" * FRAME_BYTES)
    frames, failures = encode_what_can([fits, too_large, fits], most_bytes=3 * FRAME_BYTES)
    assert len(frames) == 2
    ((message, error),) = failures
    assert message is too_large
    assert "12 MiB are allowed" in str(error)


def test_many_small_messages_are_few_frames() -> None:
    assert len(sizes([Result(n, b"x") for n in range(10_000)])) < 20


@pytest.mark.parametrize(
    ("count", "size"), [(80, 100_000), (256, 100_000), (2000, 100_000), (5000, 2_000), (20_000, 10)]
)
def test_to_find_out_how_large_they_are_no_message_is_encoded_twice(
    monkeypatch: pytest.MonkeyPatch, count: int, size: int
) -> None:
    encoded = 0
    encode_into = batches._encode_into

    def counting(messages: list[Result], *where: Any) -> None:
        nonlocal encoded
        encoded += len(messages)
        encode_into(messages, *where)

    monkeypatch.setattr(batches, "_encode_into", counting)
    assert sum(sizes([Result(n, b"x" * size) for n in range(count)])) == count
    assert encoded == count


def test_messages_of_all_sizes_are_cut() -> None:
    assert sizes([Result(n, b"x" * (3_000_000 if n % 7 == 0 else 10)) for n in range(100)])


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"\xdd\x00\x01\x00\x00", id="65536 messages"),
        pytest.param(b"\xdc\xff\xff", id="65535 messages"),
        pytest.param(b"\xc4\x01x", id="bytes"),
    ],
)
def test_more_messages_than_anybody_sends_are_refused_unopened(header: bytes) -> None:
    with pytest.raises(FramingError, match="messages in one frame"):
        check_count(header)


def test_as_many_messages_as_are_sent_are_accepted() -> None:
    check_count(bytes(encode_frame([Result(n, b"") for n in range(FRAME_MESSAGES)]))[PREFIX.size :])
