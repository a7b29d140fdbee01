"""The allocator: warm space first, best fit, nothing lost."""

from __future__ import annotations

import pytest

from beamlet.object_store.allocator import Allocator, Range

PAGE = 4096


def arena(pages: int) -> Allocator:
    return Allocator(pages * PAGE)


def take(allocator: Allocator, pages: int) -> Range:
    taken = allocator.allocate(pages * PAGE)
    assert taken is not None
    return taken


def test_sizes_are_rounded_up_to_whole_pages() -> None:
    allocator = arena(8)
    assert allocator.allocate(1) == Range(0, PAGE, 0)
    assert allocator.allocate(PAGE + 1) == Range(PAGE, 2 * PAGE, 0)
    assert allocator.allocate(0) == Range(3 * PAGE, PAGE, 0)
    assert allocator.used_bytes == 4 * PAGE
    allocator.check_invariants()


def test_capacity_is_rounded_down_to_whole_pages() -> None:
    allocator = Allocator(2 * PAGE + 100)
    assert allocator.capacity == 2 * PAGE
    assert allocator.allocate(2 * PAGE + 1) is None


def test_fresh_space_is_cold_and_freed_space_is_warm() -> None:
    allocator = arena(8)
    first = take(allocator, 4)
    assert first.warm == 0
    allocator.free(first.offset)
    assert take(allocator, 4) == Range(first.offset, 4 * PAGE, 4 * PAGE)


def test_a_warm_range_is_preferred_to_a_tighter_cold_one() -> None:
    allocator = arena(16)
    warm, _wall, tail = take(allocator, 6), take(allocator, 1), take(allocator, 7)
    allocator.free(warm.offset)
    assert allocator.largest_free == 6 * PAGE
    assert tail.offset + tail.size == 14 * PAGE  # two cold pages are left behind it
    assert take(allocator, 2) == Range(warm.offset, 2 * PAGE, 2 * PAGE)


def test_best_fit_among_warm_ranges() -> None:
    allocator = arena(32)
    big, _w1, small, _w2 = take(allocator, 8), take(allocator, 1), take(allocator, 3), take(allocator, 1)
    allocator.free(big.offset)
    allocator.free(small.offset)
    assert take(allocator, 3).offset == small.offset
    assert take(allocator, 8).offset == big.offset


def test_a_range_may_begin_warm_and_end_cold() -> None:
    allocator = arena(16)
    allocator.free(take(allocator, 4).offset)
    assert allocator.warm_bytes(0, 16 * PAGE) == 4 * PAGE
    assert take(allocator, 10) == Range(0, 10 * PAGE, 4 * PAGE)
    assert allocator.warm_free_bytes == 0
    allocator.check_invariants()


def test_neighbours_merge_whatever_the_order_of_frees() -> None:
    allocator = arena(6)
    ranges = [take(allocator, 2) for _ in range(3)]
    for index in (0, 2, 1):
        allocator.free(ranges[index].offset)
        allocator.check_invariants()
    assert allocator.largest_free == allocator.capacity
    assert take(allocator, 6).warm == 6 * PAGE


def test_none_when_free_space_is_only_in_pieces() -> None:
    allocator = arena(4)
    ranges = [take(allocator, 1) for _ in range(4)]
    allocator.free(ranges[0].offset)
    allocator.free(ranges[2].offset)
    assert allocator.free_bytes == 2 * PAGE
    assert allocator.allocate(2 * PAGE) is None


def test_freeing_twice_is_refused() -> None:
    allocator = arena(4)
    taken = take(allocator, 1)
    allocator.free(taken.offset)
    with pytest.raises(ValueError, match="freed twice"):
        allocator.free(taken.offset)


def test_trim_cools_the_highest_warm_space_down_to_the_mark() -> None:
    allocator = arena(12)
    low, wall, high = take(allocator, 4), take(allocator, 2), take(allocator, 6)
    allocator.free(low.offset)
    allocator.free(high.offset)
    assert allocator.trim(5 * PAGE) == [(7 * PAGE, 5 * PAGE)]
    assert allocator.warm_free_bytes == 5 * PAGE
    assert allocator.trim(5 * PAGE) == []
    assert allocator.trim(0) == [(6 * PAGE, PAGE), (0, 4 * PAGE)]
    allocator.free(wall.offset)
    assert take(allocator, 12).warm == 0  # it begins with cooled pages
    allocator.check_invariants()


def test_an_arena_smaller_than_a_page_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        Allocator(100)
