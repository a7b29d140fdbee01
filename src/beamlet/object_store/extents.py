"""Disjoint byte ranges of one address space, merged where they touch.

Decides nothing: it answers "which range fits best", "how much of this is in the set" for the allocator
(free space, warm free space) and for the arena (what this process has mapped).

Two sorted lists, by start and by size, found by bisection; moving their tails is a memmove, which for the
tens of thousands of ranges a store can hold is cheaper than any tree written in Python.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator


class ExtentSet:
    """A set of bytes kept as maximal ``(start, size)`` ranges."""

    __slots__ = ("_by_size", "_size_at", "_starts", "total")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._size_at: dict[int, int] = {}
        self._by_size: list[tuple[int, int]] = []
        #: Bytes in the set.
        self.total = 0

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """``(start, size)`` in address order."""
        return ((start, self._size_at[start]) for start in self._starts)

    def add(self, start: int, size: int) -> None:
        """Put ``[start, start + size)`` in; none of it may be there already."""
        at = bisect_right(self._starts, start)
        new_start, new_end = start, start + size
        if at < len(self._starts) and self._starts[at] < new_end:
            raise ValueError(
                f"bytes {start}+{size} overlap those from {self._starts[at]}, already in the set"
            )
        if at > 0:
            before = self._starts[at - 1]
            before_end = before + self._size_at[before]
            if before_end > start:
                raise ValueError(f"bytes {start}+{size} overlap {before}..{before_end}, already in the set")
            if before_end == start:
                self._forget(before)
                new_start = before
        after_size = self._size_at.get(new_end)
        if after_size is not None:
            self._forget(new_end)
            new_end += after_size
        self._insert(new_start, new_end - new_start)

    def remove(self, start: int, size: int) -> None:
        """Take ``[start, start + size)`` out; all of it must be there."""
        holder = self._holder(start)
        if holder is None or holder + self._size_at[holder] < start + size:
            raise ValueError(f"bytes {start}+{size} are not all in the set")
        self._cut(holder, start, start + size)

    def discard(self, start: int, size: int) -> None:
        """Take out whatever of ``[start, start + size)`` is there."""
        for found_start, found_size in self.overlaps(start, size):
            holder = self._holder(found_start)
            assert holder is not None
            self._cut(holder, found_start, found_start + found_size)

    def merge(self, start: int, size: int) -> None:
        """Put ``[start, start + size)`` in, whether or not some of it is there."""
        self.discard(start, size)
        self.add(start, size)

    def overlaps(self, start: int, size: int) -> list[tuple[int, int]]:
        """The parts of ``[start, start + size)`` that are in the set, in address order."""
        end = start + size
        at = max(bisect_right(self._starts, start) - 1, 0)
        parts = []
        while at < len(self._starts) and self._starts[at] < end:
            part_start = max(self._starts[at], start)
            part_end = min(self._starts[at] + self._size_at[self._starts[at]], end)
            if part_start < part_end:
                parts.append((part_start, part_end - part_start))
            at += 1
        return parts

    def covers(self, start: int, size: int) -> bool:
        """Whether every byte of ``[start, start + size)`` is in the set."""
        return self.run_from(start) >= size

    def run_from(self, start: int) -> int:
        """How many bytes from ``start`` on are in the set without a gap."""
        holder = self._holder(start)
        return 0 if holder is None else holder + self._size_at[holder] - start

    def best_fit(self, size: int) -> int | None:
        """Start of the smallest range of at least ``size`` bytes, the lowest of equals."""
        at = bisect_left(self._by_size, (size, -1))
        return self._by_size[at][1] if at < len(self._by_size) else None

    @property
    def largest(self) -> int:
        """Size of the largest range; 0 when empty."""
        return self._by_size[-1][0] if self._by_size else 0

    def last(self) -> tuple[int, int] | None:
        """The range with the highest address."""
        if not self._starts:
            return None
        start = self._starts[-1]
        return start, self._size_at[start]

    def check_invariants(self) -> None:
        assert sorted(self._starts) == self._starts
        assert set(self._starts) == set(self._size_at)
        assert sorted((size, start) for start, size in self._size_at.items()) == self._by_size
        assert sum(self._size_at.values()) == self.total
        end_before = -1
        for start, size in self:
            assert size > 0, f"empty range at {start}"
            assert start > end_before, f"range at {start} overlaps or touches the one before it"
            end_before = start + size

    def _holder(self, start: int) -> int | None:
        """Start of the range that has the byte ``start``."""
        at = bisect_right(self._starts, start) - 1
        if at < 0:
            return None
        holder = self._starts[at]
        return holder if start < holder + self._size_at[holder] else None

    def _cut(self, holder: int, start: int, end: int) -> None:
        holder_end = holder + self._size_at[holder]
        self._forget(holder)
        if holder < start:
            self._insert(holder, start - holder)
        if end < holder_end:
            self._insert(end, holder_end - end)

    def _insert(self, start: int, size: int) -> None:
        insort(self._starts, start)
        insort(self._by_size, (size, start))
        self._size_at[start] = size
        self.total += size

    def _forget(self, start: int) -> None:
        size = self._size_at.pop(start)
        del self._starts[bisect_left(self._starts, start)]
        del self._by_size[bisect_left(self._by_size, (size, start))]
        self.total -= size
