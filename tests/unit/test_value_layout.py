"""Stored values: parts come back as they went in, aligned; damaged ones are recognised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamlet.object_store.layout import ALIGNMENT, LayoutError, pack_plan, pieces, read_value

REFS = [(b"i" * 28, b"o" * 56)]


def packed(kind: int, inband: bytes, buffers: list[bytes], contained: list[tuple[bytes, bytes]]) -> bytes:
    plan = pack_plan(kind, len(inband), [len(buffer) for buffer in buffers], contained)
    data = b"".join(pieces(plan, inband, [memoryview(buffer) for buffer in buffers]))
    assert len(data) == plan.total_bytes
    assert all(offset % ALIGNMENT == 0 for offset in (plan.inband_offset, *plan.buffer_offsets))
    return data


@given(
    st.integers(0, 255), st.binary(max_size=300), st.lists(st.binary(max_size=200), max_size=5), st.booleans()
)
def test_parts_come_back_as_they_went_in(
    kind: int, inband: bytes, buffers: list[bytes], with_refs: bool
) -> None:
    contained = REFS if with_refs else []
    value = read_value(memoryview(packed(kind, inband, buffers, contained)))
    assert (value.kind, bytes(value.inband), value.contained) == (kind, inband, contained)
    assert [bytes(buffer) for buffer in value.buffers] == buffers


def test_parts_are_views_of_the_object() -> None:
    data = bytearray(packed(0, b"pickle", [b"a" * 100], []))
    [buffer] = read_value(memoryview(data)).buffers
    buffer[0] = ord("z")
    assert b"za" in data


def test_an_object_may_be_longer_than_its_value() -> None:
    data = packed(3, b"pickle", [b"abc"], REFS) + bytes(500)
    assert [bytes(buffer) for buffer in read_value(memoryview(data)).buffers] == [b"abc"]


@pytest.mark.parametrize("length", [0, 7, 8, 20, 130])
def test_a_truncated_value_is_recognised(length: int) -> None:
    data = packed(0, b"pickle" * 10, [b"a" * 100], REFS)
    with pytest.raises(LayoutError):
        read_value(memoryview(data)[:length])


def test_foreign_bytes_are_recognised() -> None:
    with pytest.raises(LayoutError, match="not a stored value: it begins with 0x00000000"):
        read_value(memoryview(bytes(1000)))


def test_a_damaged_header_is_recognised() -> None:
    data = bytearray(packed(0, b"pickle", [], []))
    data[8] = 0xC1  # never used in msgpack
    with pytest.raises(LayoutError, match="cannot be read"):
        read_value(memoryview(data))


def test_parts_of_other_lengths_than_planned_are_refused() -> None:
    plan = pack_plan(0, 3, [4])
    with pytest.raises(ValueError, match="the plan was made for"):
        pieces(plan, b"abc", [memoryview(b"12345")])
