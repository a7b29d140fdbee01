"""● Ranges of the arena that clients have leased whole, to cut up as they like.

What lies in a slab is its lessee's affair: it lends pieces of it to other processes for the time of a task,
and only it knows to whom.  So when it dies, its slabs stay as they are until everybody who knew it has said
that nothing reads or writes there any more; one who dies instead has said so, too.  A lessee that was cut
off, but may live, is one of those who must be heard.

    lease ──▶ leased ──give_back──▶ free
                 └──lessee dies, or is cut off──▶ orphaned ──all have heard──▶ free

A slab is a convenience: all of them together take only part of the store, and nobody gets one while others
wait for room.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from beamlet.base.ids import Address
from beamlet.object_store.allocator import Allocator, Range
from beamlet.object_store.outcomes import StoreMisuse

#: Of the store's capacity: what one slab, and what all of them may take.
_ONE = 1 / 8
_ALL = 1 / 4
#: Who was asked for its slab, and had something in it, is asked again after so long if others still want it.
_ASK_AGAIN_S = 1.0


class _Estate(Struct):
    """What a dead lessee leaves."""

    #: offset → size.
    slabs: dict[int, int]
    #: Clients that may still use it.
    unheard: set[int]


class SlabTable:
    """All slabs of one store. ``None`` for an answer says that there is no room to spare."""

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._largest = int(allocator.capacity * _ONE)
        self._most = int(allocator.capacity * _ALL)
        #: client → offset → size.
        self._leased: dict[int, dict[int, int]] = {}
        self._estates: dict[Address, _Estate] = {}
        #: Lessees that were asked to return theirs, and when.
        self._recalled: dict[int, float] = {}
        self.total_bytes = 0

    def lease(self, client: int, size: int) -> Range | None:
        """About ``size`` bytes, or as much as one may have."""
        size = min(size, self._largest)
        if size <= 0 or self.total_bytes + self._allocator.rounded(size) > self._most:
            return None
        found = self._allocator.allocate(size)
        if found is not None:
            self._leased.setdefault(client, {})[found.offset] = found.size
            self.total_bytes += found.size
            self._recalled.pop(client, None)
        return found

    def give_back(self, client: int, offset: int) -> None:
        slabs = self._leased.get(client, {})
        if offset not in slabs:
            raise StoreMisuse(f"client {client} returns a slab at {offset}, and has none there")
        del slabs[offset]
        if not slabs:
            del self._leased[client]
            self._recalled.pop(client, None)
        self._free(offset)

    def recall(self, now: float) -> list[int]:
        """Somebody waits for room: the lessees to be asked, each once a second."""
        before = now - _ASK_AGAIN_S
        asked = [client for client in self._leased if self._recalled.get(client, before) <= before]
        self._recalled.update(dict.fromkeys(asked, now))
        return asked

    def has(self, client: int) -> bool:
        return client in self._leased

    # --- deaths --------------------------------------------------------------------------------------

    def died(self, client: int, address: Address, knew_it: Iterable[int]) -> None:
        """``client`` is dead; ``knew_it`` are those that live and may use its slabs."""
        for dead, estate in list(self._estates.items()):
            estate.unheard.discard(client)
            self._settle(dead)
        self._bequeath(client, address, set(knew_it))

    def cut_off(self, client: int, address: Address, knew_it: Iterable[int]) -> None:
        """As ``died``, but its process may live, and read and write there until that is told."""
        self._bequeath(client, address, {client, *knew_it})

    def kept_for(self, client: int) -> int:
        """Bytes of dead lessees that may still be ``client``'s to use."""
        estates = self._estates.values()
        return sum(sum(estate.slabs.values()) for estate in estates if client in estate.unheard)

    def _bequeath(self, client: int, address: Address, unheard: set[int]) -> None:
        self._recalled.pop(client, None)
        slabs = self._leased.pop(client, None)
        if slabs:
            self._estates[address] = _Estate(slabs, unheard)
            self._settle(address)

    def heard(self, client: int, dead: Address) -> None:
        """``client`` does not use what is left of ``dead``, and never will. Repeat-safe."""
        estate = self._estates.get(dead)
        if estate is not None:
            estate.unheard.discard(client)
            self._settle(dead)

    def _settle(self, dead: Address) -> None:
        estate = self._estates[dead]
        if not estate.unheard:
            del self._estates[dead]
            for offset in estate.slabs:
                self._free(offset)

    def _free(self, offset: int) -> None:
        self.total_bytes -= self._allocator.free(offset)

    def check_invariants(self) -> None:
        assert all(self._leased.values()), "an empty row was left"
        assert self._recalled.keys() <= self._leased.keys(), "one is asked who has nothing"
        assert all(estate.unheard and estate.slabs for estate in self._estates.values()), "kept for nobody"
        assert 0 <= self.total_bytes <= self._most
        held = sum(sum(slabs.values()) for slabs in self._leased.values())
        assert held <= self.total_bytes if self._estates else held == self.total_bytes
