"""Which bytes of the arena an object gets.

First touch is what costs in shared memory (a page that was in use before is written five to ten times faster
than one the kernel must still find), so free space has a temperature:

    warm   in use before: its pages exist; the smallest warm range that fits is taken first
    cold   never used, or given back to the kernel: taken only when no warm range fits

A range may begin warm and end cold; ``Range.warm`` tells the writer how far the existing pages go.  What warm
memory may be kept when free is bounded: ``trim`` names the ranges to give back.

Does not touch memory, and knows nothing of objects: an allocation is its offset.
"""

from __future__ import annotations

from typing import NamedTuple

from beamlet.object_store.extents import ExtentSet


class Range(NamedTuple):
    """An allocation."""

    offset: int
    #: Rounded up to the alignment.
    size: int
    #: The first ``warm`` bytes have pages already.
    warm: int


class Allocator:
    """Best fit over one arena, warm ranges first."""

    def __init__(self, capacity: int, alignment: int = 4096, warm: int = 0) -> None:
        """The first ``warm`` bytes were in use before."""
        if alignment <= 0 or capacity < alignment:
            raise ValueError(f"an arena of {capacity} bytes cannot be cut in pieces of {alignment}")
        self._alignment = alignment
        #: Usable bytes: the capacity asked for, rounded down to the alignment.
        self.capacity = capacity - capacity % alignment
        self._used: dict[int, int] = {}
        self._free = ExtentSet()
        self._free.add(0, self.capacity)
        #: The part of ``_free`` that has pages.
        self._warm = ExtentSet()
        if warm := min(warm, self.capacity):
            self._warm.add(0, warm)

    @property
    def free_bytes(self) -> int:
        return self._free.total

    @property
    def used_bytes(self) -> int:
        return self.capacity - self._free.total

    @property
    def warm_free_bytes(self) -> int:
        return self._warm.total

    @property
    def largest_free(self) -> int:
        """The largest request that would be granted now."""
        return self._free.largest

    def rounded(self, size: int) -> int:
        """What a request for ``size`` bytes takes from the arena."""
        return max(-(-size // self._alignment), 1) * self._alignment

    def warm_bytes(self, offset: int, size: int) -> int:
        """How much of free space ``[offset, offset + size)`` has pages."""
        return sum(part for _, part in self._warm.overlaps(offset, size))

    def allocate(self, size: int) -> Range | None:
        """Take ``size`` bytes rounded up; None when no free range is that long."""
        size = self.rounded(size)
        offset = self._warm.best_fit(size)
        if offset is not None:
            self._warm.remove(offset, size)
            warm = size
        else:
            offset = self._free.best_fit(size)
            if offset is None:
                return None
            warm = min(self._warm.run_from(offset), size)
            self._warm.discard(offset, size)
        self._free.remove(offset, size)
        self._used[offset] = size
        return Range(offset, size, warm)

    def free(self, offset: int) -> int:
        """Give an allocation back; it is warm from now on. Returns its size."""
        size = self._used.pop(offset, None)
        if size is None:
            raise ValueError(f"nothing is allocated at offset {offset}: freed twice, or never allocated")
        self._free.add(offset, size)
        self._warm.add(offset, size)
        return size

    def trim(self, keep_bytes: int) -> list[tuple[int, int]]:
        """Cool free warm space down to ``keep_bytes``, highest addresses first.

        Returns the ``(offset, size)`` ranges whose pages the caller must give back before it performs any
        later allocation. Low addresses stay warm, so the store stays dense.
        """
        cooled: list[tuple[int, int]] = []
        excess = self._warm.total - keep_bytes
        while excess >= self._alignment:
            last = self._warm.last()
            assert last is not None
            start, size = last
            part = min(size, excess - excess % self._alignment)
            cooled.append((start + size - part, part))
            self._warm.remove(*cooled[-1])
            excess -= part
        return cooled

    def check_invariants(self) -> None:
        self._free.check_invariants()
        self._warm.check_invariants()
        position = 0
        for offset, size in sorted([*self._used.items(), *self._free]):
            assert offset == position, f"bytes {position}..{offset} are lost or held twice"
            assert size % self._alignment == 0
            position = offset + size
        assert position == self.capacity
        for offset, size in self._warm:
            assert self._free.covers(offset, size), f"warm range {offset}+{size} is not free"
