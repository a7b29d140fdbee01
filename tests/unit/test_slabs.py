"""Slabs that others want: who is asked for them, when they are empty, and when they are used again."""

from __future__ import annotations

from beamlet.base.ids import Address, ObjectId
from beamlet.core_worker.owning.own_slab import AskSlab, GiveSlab, OwnSlab
from beamlet.object_store.outcomes import CreateRequest, RecallSlab
from beamlet.object_store.store import ObjectStore

PAGE = 4096
#: Looks until whoever waited for room when the slab was wanted has been answered: 10 s of four a second.
ALL_ANSWERED = 40


def leased() -> OwnSlab:
    own = OwnSlab(16 * PAGE)
    assert own.take(PAGE) is None
    assert own.outbox == [AskSlab(16 * PAGE)]
    own.outbox.clear()
    own.came(0, 16 * PAGE, 0)
    return own


def look(own: OwnSlab, times: int) -> None:
    for _ in range(times):
        own.tick()
    own.check_invariants()


def test_a_slab_that_others_want_is_used_again_though_one_place_lives_on() -> None:
    """It was refused to every later call, for as long as that one lived."""
    own = leased()
    kept = own.take(PAGE)
    assert kept is not None
    own.recall()
    assert own.take(PAGE) is None, "others wait for it"
    look(own, ALL_ANSWERED - 1)
    assert own.take(PAGE) is None
    look(own, 1)
    assert own.take(PAGE) is not None
    assert not own.outbox


def test_it_is_given_back_as_soon_as_it_is_empty() -> None:
    own = leased()
    kept = own.take(PAGE)
    assert kept is not None
    own.recall()
    own.let_go(kept)
    assert own.outbox == [GiveSlab(0)]


def test_it_can_be_wanted_again() -> None:
    own = leased()
    kept = own.take(PAGE)
    own.recall()
    look(own, ALL_ANSWERED - 1)
    own.recall()
    look(own, ALL_ANSWERED - 1)
    assert kept is not None
    assert own.take(PAGE) is None, "others wait since the second time"
    own.let_go(kept)
    assert own.outbox == [GiveSlab(0)]


def test_who_could_not_give_its_slab_is_asked_again_when_others_wait_later() -> None:
    """It was asked once, and the later ones found no room though the slab had become empty."""
    store = ObjectStore(64 * PAGE)
    store.lease_slab(1, 1, 8 * PAGE)

    def want(number: int, now: float) -> list[int]:
        request = CreateRequest(2, number, ObjectId(b"%028d" % number), 60 * PAGE, Address(b"o" * 56))
        effects = store.create(request, now)
        store.check_invariants()
        return [effect.client for effect in effects if isinstance(effect, RecallSlab)]

    assert want(1, 0.0) == [1]
    assert want(2, 0.5) == [], "not with every request"
    assert want(3, 1.5) == [1]
    assert len(store.expire(20.0)) == 3
    assert want(4, 21.0) == [1]
