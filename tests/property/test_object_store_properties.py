"""The allocator against a byte map; the whole store under random requests and crashes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from beamlet.base.ids import Address, ObjectId
from beamlet.object_store.allocator import Allocator
from beamlet.object_store.extents import ExtentSet
from beamlet.object_store.outcomes import (
    AlreadyStored,
    Answer,
    Created,
    CreateRequest,
    Effect,
    Located,
    Missing,
    NoSlab,
    RecallSlab,
    Refused,
    ReleasePages,
    SlabGranted,
    StoreMisuse,
)
from beamlet.object_store.store import ObjectStore

UNIT = 16
PAGES = 24

spans = st.tuples(st.integers(0, 40), st.integers(1, 12))


@given(st.lists(st.tuples(st.sampled_from(["merge", "discard"]), spans), max_size=40), spans)
def test_an_extent_set_is_a_set_of_bytes(
    steps: list[tuple[str, tuple[int, int]]], probe: tuple[int, int]
) -> None:
    extents, model = ExtentSet(), set[int]()
    for verb, (start, size) in steps:
        if verb == "merge":
            extents.merge(start, size)
            model |= set(range(start, start + size))
        else:
            extents.discard(start, size)
            model -= set(range(start, start + size))
        extents.check_invariants()
    assert {byte for start, size in extents for byte in range(start, start + size)} == model
    start, size = probe
    wanted = set(range(start, start + size))
    assert sum(part for _, part in extents.overlaps(start, size)) == len(wanted & model)
    assert extents.covers(start, size) == (wanted <= model)
    if wanted & model:
        with pytest.raises(ValueError, match="already in the set"):
            extents.add(start, size)
    if not wanted <= model:
        with pytest.raises(ValueError, match="not all in the set"):
            extents.remove(start, size)


class AllocatorMachine(RuleBasedStateMachine):
    """Against a list that says of each page whether it is used and whether it has memory."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = Allocator(PAGES * UNIT, alignment=UNIT)
        self.used = [False] * PAGES
        self.warm = [False] * PAGES
        self.live: list[tuple[int, int]] = []

    def longest_run(self, *, warm_only: bool) -> int:
        longest = run = 0
        for used, warm in zip(self.used, self.warm, strict=True):
            run = run + 1 if not used and (warm or not warm_only) else 0
            longest = max(longest, run)
        return longest

    @rule(size=st.integers(0, 10 * UNIT))
    def allocate(self, size: int) -> None:
        pages = max(1, -(-size // UNIT))
        fits, fits_warm = (self.longest_run(warm_only=only) >= pages for only in (False, True))
        taken = self.allocator.allocate(size)
        assert (taken is not None) == fits
        if taken is None:
            return
        first = taken.offset // UNIT
        span = slice(first, first + pages)
        assert taken.size == pages * UNIT
        assert not any(self.used[span])
        assert all(self.warm[first : first + taken.warm // UNIT])
        assert taken.warm == taken.size or not self.warm[first + taken.warm // UNIT]
        assert (taken.warm == taken.size) or not fits_warm, "a warm range fitted"
        self.used[span] = [True] * pages
        self.warm[span] = [True] * pages
        self.live.append((taken.offset, taken.size))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free(self, data: Any) -> None:
        offset, size = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        assert self.allocator.free(offset) == size
        self.used[offset // UNIT : (offset + size) // UNIT] = [False] * (size // UNIT)

    @rule(keep=st.integers(0, PAGES))
    def trim(self, keep: int) -> None:
        for offset, size in self.allocator.trim(keep * UNIT):
            span = slice(offset // UNIT, (offset + size) // UNIT)
            assert not any(self.used[span])
            assert all(self.warm[span])
            self.warm[span] = [False] * (size // UNIT)
        assert self.allocator.warm_free_bytes <= keep * UNIT

    @invariant()
    def agrees(self) -> None:
        self.allocator.check_invariants()
        assert self.allocator.free_bytes == self.used.count(False) * UNIT
        assert self.allocator.largest_free == self.longest_run(warm_only=False) * UNIT
        free_warm = [warm and not used for warm, used in zip(self.warm, self.used, strict=True)]
        assert self.allocator.warm_free_bytes == sum(free_warm) * UNIT
        assert self.allocator.warm_bytes(0, PAGES * UNIT) == sum(free_warm) * UNIT


CLIENTS = range(4)
IDS = [ObjectId(bytes([number]) * 28) for number in range(6)]
OWNERS = [Address(bytes([owner]) * 56) for owner in (1, 2)]
clients = st.sampled_from(CLIENTS)
ids = st.sampled_from(IDS)


class StoreMachine(RuleBasedStateMachine):
    """Watches the store from outside: what each client was told is all this model knows."""

    @initialize(keep_warm=st.sampled_from([0.0, 0.3, 1.0]))
    def start(self, keep_warm: float) -> None:
        self.store = ObjectStore(PAGES * UNIT, 10.0, keep_warm, alignment_bytes=UNIT)
        self.now = 0.0
        self.next_request = 0
        #: Requests not answered yet: (client, request id) → what was asked.
        self.asked: dict[tuple[int, int], CreateRequest | ObjectId] = {}
        #: (client, id) → the range it may write.
        self.writing: dict[tuple[int, ObjectId], tuple[int, int]] = {}
        #: One entry per pin: (client, id, offset, size).
        self.pins: list[tuple[int, ObjectId, int, int]] = []
        #: (client, offset) → size.
        self.slabs: dict[tuple[int, int], int] = {}
        #: Dead lessee → (who has not heard of it, its ranges).
        self.estates: dict[Address, tuple[set[int], list[tuple[int, int]]]] = {}
        self.deaths = 0
        #: Cut off, and alive.
        self.silent: set[int] = set()

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, ReleasePages):
                self.nobody_has(effect.offset, effect.size)
            elif isinstance(effect, RecallSlab):
                assert any(client == effect.client for client, _ in self.slabs)
            else:
                self.receive(effect)

    def receive(self, answer: Answer) -> None:
        asked = self.asked.pop((answer.client, answer.request_id))  # KeyError: answered twice, or never asked
        outcome = answer.outcome
        if isinstance(asked, CreateRequest):
            assert isinstance(outcome, Created | AlreadyStored | Refused)
            if isinstance(outcome, Created):
                assert outcome.size == asked.size
                self.nobody_has(outcome.offset, outcome.size)
                self.writing[answer.client, asked.object_id] = (outcome.offset, outcome.size)
            elif isinstance(outcome, AlreadyStored):
                assert self.store.contains(asked.object_id)
            elif "in one piece" in outcome.reason and "kept it out" not in outcome.reason:
                assert max(asked.size, 1) > self.store.usage().largest_free_bytes, (
                    "refused, and there was room"
                )
        else:
            assert isinstance(outcome, Located | Missing)
            if isinstance(outcome, Located):
                self.pins.append((answer.client, asked, outcome.offset, outcome.size))

    def nobody_has(self, offset: int, size: int) -> None:
        """No client writes or reads there: it would see or suffer what happens next."""
        for start, length in self.held():
            assert start + length <= offset or offset + size <= start, "a range in use was given away"

    def held(self) -> list[tuple[int, int]]:
        orphaned = [place for _, places in self.estates.values() for place in places]
        slabs = [(offset, size) for (_, offset), size in self.slabs.items()]
        pinned = [(offset, size) for _, _, offset, size in self.pins]
        return [*self.writing.values(), *pinned, *slabs, *orphaned]

    @rule(client=clients, object_id=ids, size=st.integers(0, 14 * UNIT), primary=st.booleans())
    def create(self, client: int, object_id: ObjectId, size: int, primary: bool) -> None:
        self.next_request += 1
        owner = OWNERS[client % 2]
        request = CreateRequest(client, self.next_request, object_id, size, owner, "user.py:1", primary)
        self.asked[client, self.next_request] = request
        try:
            self.perform(self.store.create(request, self.now))
        except StoreMisuse:
            assert (client, object_id) in self.writing
            del self.asked[client, self.next_request]

    @rule(client=clients, object_id=st.just(IDS[0]), size=st.integers(PAGES * UNIT + 1, 10**6))
    def create_too_large(self, client: int, object_id: ObjectId, size: int) -> None:
        before = dict(self.asked)
        self.create(client, object_id, size, True)
        assert self.asked == before, "it must be refused at once"

    @precondition(lambda self: self.writing)
    @rule(data=st.data(), seals=st.booleans())
    def finish(self, data: Any, seals: bool) -> None:
        client, object_id = data.draw(st.sampled_from(sorted(self.writing)))
        del self.writing[client, object_id]
        verb = self.store.seal if seals else self.store.abort
        self.perform(verb(client, object_id, self.now))

    @rule(client=clients, size=st.integers(-1, 14 * UNIT))
    def lease_slab(self, client: int, size: int) -> None:
        (answer,) = self.store.lease_slab(client, 0, size)
        assert isinstance(answer, Answer)
        granted = answer.outcome
        assert isinstance(granted, SlabGranted | NoSlab)
        if isinstance(granted, SlabGranted):
            assert not self.store.waiting_for_room, "others wait for room"
            self.nobody_has(granted.offset, granted.size)
            self.slabs[client, granted.offset] = granted.size
            assert sum(size for _, size in self.slabs.items()) <= PAGES * UNIT / 4

    @precondition(lambda self: self.slabs)
    @rule(data=st.data(), thief=clients)
    def return_slab(self, data: Any, thief: int) -> None:
        client, offset = data.draw(st.sampled_from(sorted(self.slabs)))
        if (thief, offset) not in self.slabs:
            with pytest.raises(StoreMisuse):
                self.store.return_slab(thief, offset, self.now)
        del self.slabs[client, offset]
        self.perform(self.store.return_slab(client, offset, self.now))

    @precondition(lambda self: self.estates)
    @rule(data=st.data(), client=clients)
    def heard(self, data: Any, client: int) -> None:
        dead = data.draw(st.sampled_from(sorted(self.estates)))
        self.settle(dead, client)
        self.perform(self.store.heard(client, dead, self.now))

    def settle(self, dead: Address, client: int) -> None:
        unheard, _ = self.estates[dead]
        unheard.discard(client)
        if not unheard:
            del self.estates[dead]

    @rule(client=clients, object_id=ids)
    def get_pin(self, client: int, object_id: ObjectId) -> None:
        located = self.store.get_pin(client, object_id)
        assert (located is not None) == self.store.contains(object_id)
        if located is not None:
            self.pins.append((client, object_id, located.offset, located.size))

    @rule(client=clients, object_id=ids)
    def wait_sealed(self, client: int, object_id: ObjectId) -> None:
        self.next_request += 1
        self.asked[client, self.next_request] = object_id
        self.perform(self.store.wait_sealed(client, self.next_request, object_id))

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: Any) -> None:
        client, object_id, _, _ = self.pins.pop(data.draw(st.integers(0, len(self.pins) - 1)))
        self.perform(self.store.unpin(client, object_id, self.now))

    @rule(object_ids=st.lists(ids, max_size=3))
    def delete(self, object_ids: list[ObjectId]) -> None:
        self.perform(self.store.delete(object_ids, self.now))
        assert not any(self.store.contains(object_id) for object_id in object_ids)

    @rule(owner=st.sampled_from(OWNERS))
    def owner_dies(self, owner: Address) -> None:
        self.perform(self.store.delete_owned_by(owner, self.now))

    @rule(client=clients, knew_it=st.sets(clients))
    def client_is_cut_off(self, client: int, knew_it: set[int]) -> None:
        """It is not answered and says nothing any more; what it has, it keeps until ``client_crashes``."""
        self.deaths += 1
        address = Address(b"%056d" % self.deaths)
        left = [(offset, size) for (who, offset), size in self.slabs.items() if who == client]
        self.slabs = {key: size for key, size in self.slabs.items() if key[0] != client}
        if left:
            self.estates[address] = {client, *knew_it}, left
        self.asked = {key: asked for key, asked in self.asked.items() if key[0] != client}
        self.silent.add(client)
        self.perform(self.store.cut_off(client, self.now, address, sorted(knew_it), "it"))

    @rule(client=clients, knew_it=st.sets(clients))
    def client_crashes(self, client: int, knew_it: set[int]) -> None:
        self.silent.discard(client)
        self.deaths += 1
        address = Address(b"%056d" % self.deaths)
        unheard = knew_it - {client}
        left = [(offset, size) for (who, offset), size in self.slabs.items() if who == client]
        self.slabs = {key: size for key, size in self.slabs.items() if key[0] != client}
        for dead in list(self.estates):
            self.settle(dead, client)
        if left and unheard:
            self.estates[address] = unheard, left
        self.asked = {key: asked for key, asked in self.asked.items() if key[0] != client}
        self.writing = {key: held for key, held in self.writing.items() if key[0] != client}
        self.pins = [pin for pin in self.pins if pin[0] != client]
        self.perform(self.store.disconnect(client, self.now, address, sorted(unheard)))

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.store.expire(self.now))
        deadline = self.store.next_deadline()
        assert deadline is None or deadline > self.now

    @rule(keep=st.integers(0, PAGES * UNIT))
    def trim(self, keep: int) -> None:
        self.perform(self.store.trim(keep))

    @invariant()
    def nothing_overlaps_and_nothing_is_lost(self) -> None:
        self.store.check_invariants()
        usage = self.store.usage()
        orphaned = [size for _, places in self.estates.values() for _, size in places]
        assert usage.slab_bytes == sum(self.slabs.values()) + sum(orphaned), "kept for nobody, or not kept"
        assert usage.used_bytes + usage.free_bytes == usage.capacity_bytes
        ranges = sorted({(offset, max(size, 1)) for offset, size in self.held()})
        for (offset, size), (following, _) in pairwise(ranges):
            assert offset + size <= following, "two live ranges overlap"
        assert usage.used_bytes >= sum(size for _, size in ranges)

    def teardown(self) -> None:
        """Everyone finishes or dies, time passes: then nobody waits and nothing is held."""
        if not hasattr(self, "store"):
            return
        for client in CLIENTS[1:]:
            self.client_crashes(client, set())
        for client, offset in list(self.slabs):
            self.return_slab_of(client, offset)
        for dead in list(self.estates):
            del self.estates[dead]  # all others that knew it are gone by now
            self.perform(self.store.heard(0, dead, self.now))
        while self.writing:
            (client, object_id), _ = self.writing.popitem()
            self.perform(self.store.seal(client, object_id, self.now))
        while self.pins:
            client, object_id, _, _ = self.pins.pop()
            self.perform(self.store.unpin(client, object_id, self.now))
        self.delete(IDS)
        self.time_passes(11.0)
        for client, object_id in list(self.writing):
            self.perform(self.store.abort(client, object_id, self.now))
        assert not self.asked, "somebody still waits"
        assert self.store.next_deadline() is None
        self.client_crashes(0, set())
        self.delete(IDS)
        assert self.store.usage().used_bytes == 0

    def return_slab_of(self, client: int, offset: int) -> None:
        del self.slabs[client, offset]
        self.perform(self.store.return_slab(client, offset, self.now))


TestAllocator = AllocatorMachine.TestCase
TestAllocator.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
