"""Creations that find no room: order, deadlines, refusals, and the whole store's answers."""

from __future__ import annotations

import pytest

from beamlet.base.ids import Address, ObjectId
from beamlet.object_store.full_report import human_bytes
from beamlet.object_store.outcomes import (
    AlreadyStored,
    Answer,
    Created,
    CreateRequest,
    Effect,
    Located,
    Missing,
    Refused,
    ReleasePages,
    StoreMisuse,
)
from beamlet.object_store.store import ObjectStore

PAGE = 4096
OWNER = Address(b"n" * 28 + b"w" * 28)


def oid(number: int) -> ObjectId:
    return ObjectId(bytes([number]) * 28)


def make_store(pages: int = 4, keep_warm: float = 1.0) -> ObjectStore:
    return ObjectStore(pages * PAGE, full_timeout_s=10.0, keep_warm=keep_warm)


def create(
    store: ObjectStore, number: int, pages: int = 1, *, client: int = 1, now: float = 0.0
) -> list[Effect]:
    """Ask for object ``number``; its number is the request id too."""
    request = CreateRequest(client, number, oid(number), pages * PAGE, OWNER, f"user.py:{number}")
    effects = store.create(request, now)
    store.check_invariants()
    return effects


def put(store: ObjectStore, number: int, pages: int = 1) -> None:
    assert granted(create(store, number, pages)) == [number]
    store.seal(1, oid(number), 0.0)


def granted(effects: list[Effect]) -> list[int]:
    """The request ids answered Created, in order; anything else among the effects is an error."""
    ids = []
    for effect in effects:
        assert isinstance(effect, Answer)
        assert isinstance(effect.outcome, Created), effect
        ids.append(effect.request_id)
    return ids


def refusal(effects: list[Effect]) -> str:
    [effect] = effects
    assert isinstance(effect, Answer)
    assert isinstance(effect.outcome, Refused), effect
    return effect.outcome.reason


def test_what_fits_is_granted_at_once() -> None:
    store = make_store()
    assert create(store, 1, 4) == [Answer(1, 1, Created(0, 4 * PAGE, 0))]
    assert store.next_deadline() is None


def test_what_can_never_fit_is_refused_at_once() -> None:
    store = make_store(4)
    reason = refusal(create(store, 1, 5))
    assert oid(1).hex() in reason
    assert "20.0 KiB, created at user.py:1" in reason
    assert "larger than the whole object store (16.0 KiB)" in reason
    assert store.waiting_for_room == 0


def test_a_result_is_named_by_its_task() -> None:
    reason = refusal(make_store(4).create(CreateRequest(1, 1, oid(1), 5 * PAGE, OWNER, "result of mk"), 0.0))
    assert "20.0 KiB, result of mk, is larger" in reason


def test_waiting_requests_are_granted_in_order_when_room_appears() -> None:
    store = make_store(4)
    put(store, 1, 3)
    put(store, 2, 1)
    assert create(store, 3, 3) == []
    assert create(store, 4, 1) == []
    assert granted(store.delete([oid(1)], 1.0)) == [3]
    assert granted(store.delete([oid(2)], 2.0)) == [4]


def test_what_fits_goes_ahead_of_what_does_not() -> None:
    store = make_store(4)
    put(store, 1, 2)
    assert create(store, 2, 3) == []
    assert granted(create(store, 3, 1, now=1.0)) == [3]
    assert create(store, 4, 2, now=2.0) == [], "one page is left"
    store.seal(1, oid(3), 2.0)
    assert granted(store.delete([oid(3)], 3.0)) == [4], "not the oldest, which needs three"


def test_small_requests_do_not_starve_a_large_one() -> None:
    """Small ones that come and go for ever: from half of its time on, what becomes free is kept for it."""
    store = make_store(4)
    put(store, 1, 2)
    put(store, 2, 2)
    assert create(store, 3, 4) == []
    living = [1, 2]
    for now in range(1, 10):
        assert create(store, 10 + now, 2, now=now) == []
        let_in = granted(store.delete([oid(living.pop(0))], now))
        if let_in == [3]:
            return
        assert let_in == ([10 + now] if now < 5 else []), f"at {now} s"
        for number in let_in:
            store.seal(1, oid(number), now)
            living.append(number)
    raise AssertionError("the large one waited in vain")


def test_a_small_request_is_refused_only_for_want_of_room() -> None:
    """Both have waited too long at the same moment: it was refused, with words that told of room for it."""
    store = make_store(4)
    put(store, 1, 3)
    assert create(store, 2, 4, now=0.0) == []
    assert granted(create(store, 3, 1, now=0.0)) == [3]
    store.seal(1, oid(3), 0.0)
    assert create(store, 4, 1, now=0.1) == []
    assert store.delete([oid(3)], 7.0) == [], "kept for the large one"
    refused, let_in = store.expire(20.0)
    assert "16.0 KiB, created at user.py:2, found no place" in refusal([refused])
    assert "4.0 KiB free" in refusal([refused])
    assert granted([let_in]) == [4]


def test_a_result_that_is_here_already_is_found_whoever_waits_for_room() -> None:
    store = make_store(4)
    put(store, 1, 3)
    assert create(store, 2, 4, now=0.0) == []
    assert create(store, 1, 3, client=2, now=6.0) == [Answer(2, 1, AlreadyStored())]


def test_a_late_request_is_refused_with_the_biggest_holders_and_their_call_sites() -> None:
    store = make_store(8)
    put(store, 1, 5)
    put(store, 2, 2)
    assert isinstance(store.get_pin(7, oid(1)), Located)
    assert create(store, 3, 2, now=100.0) == []
    assert create(store, 4, 2, now=101.0) == []
    assert store.next_deadline() == 110.0
    assert store.expire(109.9) == []
    reason = refusal(store.expire(110.0))
    assert f"Object {oid(3).hex()} of 8.0 KiB, created at user.py:3, found no place in 10.0 s" in reason
    assert "has 32.0 KiB: 28.0 KiB in 2 objects, 4.0 KiB free" in reason
    assert "1 other creation waits too" in reason
    first, second = (line for line in reason.splitlines() if line.startswith("  "))
    assert oid(1).hex() in first
    assert "read by 1 holder" in first
    assert "created at user.py:1" in first
    assert "owner 77777777" in first
    assert "created at user.py:2" in second
    assert "object_store_memory" in reason
    assert store.next_deadline() == 111.0


def test_the_next_in_line_is_let_in_when_a_refused_one_leaves_the_head() -> None:
    store = make_store(4)
    put(store, 1, 3)
    assert create(store, 2, 2, now=0.0) == []
    assert create(store, 3, 1, now=5.0) == []
    refused, let_in = store.expire(10.0)
    assert isinstance(refused, Answer)
    assert isinstance(refused.outcome, Refused)
    assert granted([let_in]) == [3]


def test_a_lost_client_leaves_the_queue_unanswered() -> None:
    store = make_store(4)
    put(store, 1, 3)
    assert create(store, 2, 2, client=8) == []
    assert create(store, 3, 1, client=9, now=6.0) == [], "kept for the other"
    assert granted(store.disconnect(8, 7.0)) == [3]
    assert store.next_deadline() is None


def test_an_abort_makes_room() -> None:
    store = make_store(4)
    create(store, 1, 4)
    assert create(store, 2, 4, client=2) == []
    assert store.abort(1, oid(1), 1.0) == [Answer(2, 2, Created(0, 4 * PAGE, 4 * PAGE))]


def test_deleting_an_object_refuses_whoever_waits_to_write_it() -> None:
    store = make_store(4)
    put(store, 1, 4)
    assert create(store, 2, 4) == []
    assert "deleted before there was room" in refusal(store.delete([oid(2)], 1.0))


def test_a_task_run_again_finds_its_result_already_stored() -> None:
    store = make_store()
    put(store, 1)
    assert create(store, 1, client=2) == [Answer(2, 1, AlreadyStored())]


def test_a_second_writer_of_an_id_waits_for_the_first_and_lets_others_pass() -> None:
    store = make_store()
    create(store, 1, client=1)
    assert create(store, 1, client=2) == []
    assert granted(create(store, 5, client=3)) == [5]
    assert store.seal(1, oid(1), 1.0) == [Answer(2, 1, AlreadyStored())]


def test_a_second_writer_takes_over_when_the_first_dies() -> None:
    store = make_store()
    create(store, 1, client=1)
    create(store, 1, client=2)
    assert store.disconnect(1, 1.0) == [Answer(2, 1, Created(0, PAGE, PAGE))]
    assert store.seal(2, oid(1), 2.0) == []


def test_an_id_is_written_anew_only_after_the_last_reader_of_its_deleted_bearer() -> None:
    store = make_store()
    put(store, 1)
    store.get_pin(7, oid(1))
    store.delete([oid(1)], 0.0)
    assert create(store, 1, client=2) == []
    assert granted(store.unpin(7, oid(1), 1.0)) == [1]


def test_the_same_client_may_not_create_what_it_is_writing() -> None:
    store = make_store()
    create(store, 1)
    with pytest.raises(StoreMisuse, match=r"creates object .* again"):
        create(store, 1)


def test_a_reader_waits_for_the_seal() -> None:
    store = make_store()
    create(store, 1)
    assert store.wait_sealed(7, 70, oid(1)) == []
    assert store.seal(1, oid(1), 1.0) == [Answer(7, 70, Located(0, PAGE))]
    assert store.wait_sealed(8, 80, oid(1)) == [Answer(8, 80, Located(0, PAGE))]


def test_a_reader_of_an_unknown_object_is_told_so() -> None:
    store = make_store()
    [answer] = store.wait_sealed(7, 70, oid(1))
    assert isinstance(answer, Answer)
    assert isinstance(answer.outcome, Missing)
    assert oid(1).hex() in answer.outcome.reason


def test_an_owners_death_frees_its_objects() -> None:
    store = make_store(4)
    put(store, 1, 2)
    put(store, 2, 2)
    assert store.delete_owned_by(Address(b"x" * 56), 1.0) == []
    assert store.usage().object_count == 2
    store.delete_owned_by(OWNER, 1.0)
    assert store.usage().used_bytes == 0


def test_surplus_warm_memory_is_given_back() -> None:
    store = make_store(10, keep_warm=0.3)
    put(store, 1, 8)
    assert store.delete([oid(1)], 1.0) == [ReleasePages(3 * PAGE, 5 * PAGE)]
    assert create(store, 2, 10) == [Answer(1, 2, Created(0, 10 * PAGE, 3 * PAGE))]


def test_room_is_granted_before_the_surplus_is_given_back() -> None:
    store = make_store(10, keep_warm=0.3)
    put(store, 1, 10)
    assert create(store, 2, 5) == []
    assert store.delete([oid(1)], 1.0) == [
        Answer(1, 2, Created(0, 5 * PAGE, 5 * PAGE)),
        ReleasePages(8 * PAGE, 2 * PAGE),
    ]


def test_an_idle_node_can_give_back_everything_free() -> None:
    store = make_store(10)
    put(store, 1, 4)
    store.delete([oid(1)], 1.0)
    assert store.trim(0) == [ReleasePages(0, 4 * PAGE)]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 30, "3.0 GiB")],
)
def test_human_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_a_large_surplus_is_given_back_in_steps() -> None:
    megabyte = 1 << 20
    store = ObjectStore(100 * megabyte, keep_warm=0.5)
    store.create(CreateRequest(1, 1, oid(1), 90 * megabyte, OWNER), 0.0)
    assert store.abort(1, oid(1), 0.0) == [ReleasePages(88 * megabyte, 2 * megabyte)]
    assert store.surplus_bytes == 38 * megabyte
    assert store.give_back() == [ReleasePages(86 * megabyte, 2 * megabyte)]
    for _ in range(18):
        store.give_back()
    assert store.surplus_bytes == 0
    assert store.give_back() == []
