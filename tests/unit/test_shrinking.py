"""Tables give back room, and lose nothing."""

from __future__ import annotations

from beamlet.base.shrinking import shrink


def test_a_table_that_was_full_once_gets_small_again_in_place() -> None:
    table = dict.fromkeys(range(100_000))
    full = table.__sizeof__()
    for key in range(99_990):
        del table[key]
    assert table.__sizeof__() == full, "else Python does it by itself now"
    assert shrink(table)
    assert table.__sizeof__() < full / 1000
    assert list(table) == list(range(99_990, 100_000))


def test_a_table_in_use_is_left_alone() -> None:
    table = dict.fromkeys(range(100_000))
    assert not shrink(table)
    assert not shrink(dict.fromkeys(range(10)))
