"""● The piece of the arena that this process has leased, and what it keeps there.

Arguments and results of moderate size lie in their owner's own slab: the owner cuts a place off it without
asking anybody, writes, and lends the place to the executor for the time of the call, which names it.
Nothing of that passes through the raylet, which only knows whose the slab is.

A place is free again when nobody is left who

    wants    the record whose value it is, each call that has it as an argument, or as room for its result
    views    arrays of this process that lie there
    reads    executors that were sent the place and have neither answered nor died

An executor that keeps what it was lent beyond its answer makes it its own copy first (``Arena.lend``).  One
that dies is believed dead only by the raylet's word.  Our own death: ``object_store/slabs.py``.

A slab that was not used for a while, or that others want, goes back when it is empty. What lives on there may
keep it from that: once those who wanted it have stopped waiting it is used again.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from beamlet.object_store.allocator import Allocator

#: What is asked for. Pages cost memory from their first use on only.
SLAB_BYTES = 8 << 20
#: Larger values are stored as objects of the node: beside copying them, a message to the raylet is cheap.
_LARGEST = 1 / 2
#: So many looks (``tick``) without use, and the slab goes back.
_QUIET_TICKS = 8
#: So many looks until a refused request is made again.
_REFUSED_TICKS = 8
#: So many looks nothing new is put into a slab that others wanted and that could not be given: by then (10 s)
#: those who waited have got room elsewhere or were refused. If others still wait, it is wanted again.
_WANTED_TICKS = 40


class Place(msgspec.Struct, eq=False):
    """A range of the arena with room for one value."""

    offset: int
    #: All of it is room.
    size: int
    #: The first so many bytes have pages.
    warm: int
    wants: int = 1
    views: int = 0
    #: Executors that may be reading or writing it, each for so many pieces of work.
    readers: dict[bytes, int] = {}

    def lend(self, executor: bytes) -> None:
        """It is sent there, with one more piece of work."""
        self.readers[executor] = self.readers.get(executor, 0) + 1

    def take_back(self, executor: bytes) -> None:
        """That piece of work is over, or will not begin."""
        count = self.readers.pop(executor, 0) - 1
        if count > 0:
            self.readers[executor] = count


class AskSlab(msgspec.Struct, frozen=True):
    """→ LeaseSlab; its answer is told to ``came`` or ``refused``."""

    size: int


class GiveSlab(msgspec.Struct, frozen=True):
    """→ ReturnSlab."""

    offset: int


class OwnSlab:
    """Guarded by the core worker's lock, which performs ``outbox`` in order."""

    def __init__(self, slab_bytes: int = SLAB_BYTES) -> None:
        self._slab_bytes = slab_bytes
        self.outbox: list[AskSlab | GiveSlab] = []
        #: None while there is none.
        self._book: Allocator | None = None
        self._start = 0
        self._places: dict[int, Place] = {}
        #: Free ranges that stay cut, by size: the next call of a loop needs what the last one needed, and
        #: what was used last is in the caches. Offsets in the slab.
        self._spare: dict[int, list[int]] = {}
        self._largest = int(slab_bytes * _LARGEST)
        self._asked = False
        #: Looks until another request is worth while.
        self._patience = 0
        #: Looks for which it is to become empty, not used.
        self._wanted = 0
        self._quiet = 0

    def __len__(self) -> int:
        return len(self._places)

    # -- places ----------------------------------------------------------------------------------

    def take(self, size: int) -> Place | None:
        """A place for ``size`` bytes, wanted once; None when there is none, now or ever."""
        book = self._book
        if size > self._largest:
            return None
        if book is None:
            if not self._asked and not self._patience:
                self._asked = True
                self.outbox.append(AskSlab(self._slab_bytes))
            return None
        if self._wanted:
            return None
        rounded = book.rounded(size)
        spare = self._spare.get(rounded)
        if spare:
            place = Place(self._start + spare.pop(), rounded, rounded)
        else:
            found = book.allocate(size)
            if found is None:
                if not self._spare:
                    return None
                self._join_spare(book)
                return self.take(size)
            place = Place(self._start + found.offset, found.size, found.warm)
        self._quiet = 0
        self._places[place.offset] = place
        return place

    def _join_spare(self, book: Allocator) -> None:
        for offsets in self._spare.values():
            for offset in offsets:
                book.free(offset)
        self._spare = {}

    def may_hold(self, size: int) -> bool:
        """Whether there may ever be a place for so much."""
        return 0 < size <= self._largest

    def let_go(self, place: Place) -> None:
        """One who wanted it does not any more."""
        place.wants -= 1
        if not place.wants:
            self._settle(place)

    def view_ended(self, place: Place) -> None:
        place.views -= 1
        if not place.views:
            self._settle(place)

    def answered(self, places: Sequence[Place], executor: bytes) -> None:
        """It has answered, and uses nothing that came with that piece of work."""
        for place in places:
            place.take_back(executor)
            self._settle(place)

    def died(self, executor: bytes) -> None:
        """The raylet says so: it reads and writes no more."""
        for place in list(self._places.values()):
            if executor in place.readers:
                del place.readers[executor]
                self._settle(place)

    def _settle(self, place: Place) -> None:
        if place.wants or place.views or place.readers or self._places.get(place.offset) is not place:
            return
        del self._places[place.offset]
        self._spare.setdefault(place.size, []).append(place.offset - self._start)
        if self._wanted:
            self._give_if_empty()

    # -- the slab --------------------------------------------------------------------------------

    def came(self, offset: int, size: int, warm: int) -> None:
        self._asked = False
        self._start = offset
        self._book = Allocator(size, warm=warm)
        self._largest = int(self._book.capacity * _LARGEST)
        self._wanted = 0
        self._quiet = 0

    def refused(self) -> None:
        self._asked = False
        self._patience = _REFUSED_TICKS

    def recall(self) -> None:
        """Others wait for room."""
        if self._book is not None:
            self._wanted = _WANTED_TICKS
            self._give_if_empty()

    def tick(self) -> None:
        """To be called now and then."""
        self._patience = max(0, self._patience - 1)
        self._wanted = max(0, self._wanted - 1)
        self._quiet += 1
        if self._quiet > _QUIET_TICKS:
            self._give_if_empty()

    def _give_if_empty(self) -> None:
        if self._book is not None and not self._places:
            self._book = None
            self._spare = {}
            self._wanted = 0
            self._patience = _REFUSED_TICKS if self._quiet <= _QUIET_TICKS else 0
            self._largest = int(self._slab_bytes * _LARGEST)
            self.outbox.append(GiveSlab(self._start))

    def check_invariants(self) -> None:
        if self._book is None:
            assert not self._places, "places without a slab"
            assert not self._spare, "spare ranges without a slab"
            return
        self._book.check_invariants()
        spare = sum(size * len(offsets) for size, offsets in self._spare.items())
        assert sum(place.size for place in self._places.values()) + spare == self._book.used_bytes
        for offset, place in self._places.items():
            assert place.offset == offset
            assert min(place.wants, place.views) >= 0, f"{place}: let go more often than wanted"
            assert place.wants or place.views or place.readers, f"{place} is kept for nobody"
