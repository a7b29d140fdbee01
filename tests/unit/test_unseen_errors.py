"""What owns objects, driven without sockets: errors that nobody asks for are told when they go."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from beamlet.base.ids import Address
from beamlet.exceptions import RaySystemError
from beamlet.protocol.peer import GetObject
from beamlet.serialization.values import dump_error
from support.no_threads import refuse_threads
from support.owner import SELF, Owner, settled

OTHER = Address(b"o" * 32)
ONE, TWO = pickle.dumps(1, 5), pickle.dumps(2, 5)


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.close()


def test_an_error_that_was_looked_at_is_not_told(owner: Owner, caplog: pytest.LogCaptureFixture) -> None:
    ref = owner.promise()
    payload = dump_error(ValueError("looked at"))
    owner.keep_promise(ref, payload)
    owner.unseen.failed("f", [ref._id], [owner.record(ref)], payload)
    with pytest.raises(ValueError, match="looked at"):
        owner.objects.get([ref], None)
    del ref
    assert not settled(owner)
    owner.unseen.tell_all()
    assert not caplog.text


def test_an_error_that_somebody_else_asked_for_is_theirs(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    ref = owner.promise()
    payload = dump_error(ValueError("theirs"))
    owner.keep_promise(ref, payload)
    owner.unseen.failed("f", [ref._id], [owner.record(ref)], payload)
    owner.ownership.handle(owner.peers.get(OTHER), GetObject(ref._id))
    owner.unseen.tell_all()
    assert not caplog.text


def test_errors_told_at_the_end_name_their_task(owner: Owner, caplog: pytest.LogCaptureFixture) -> None:
    ref: Any = owner.promise()
    payload = dump_error(RaySystemError(ValueError("lost")))
    owner.keep_promise(ref, payload)
    owner.unseen.failed("work", [ref._id], [owner.record(ref)], payload)
    owner.unseen.tell_all()
    assert "work failed, and nobody asked for its result" in caplog.text


class LookedAt(list[Any]):
    """Records of a failed task, and how often somebody looked whether they are gone."""

    looks = 0

    def __iter__(self) -> Iterator[Any]:
        LookedAt.looks += 1
        return super().__iter__()


def test_errors_that_wait_to_be_seen_cost_nothing_when_other_references_die(owner: Owner) -> None:
    payload = dump_error(ValueError("waits"))
    LookedAt.looks = 0
    failed = [owner.promise(number) for number in range(500)]
    for ref in failed:
        owner.keep_promise(ref, payload)
        owner.unseen.failed("f", [ref._id], LookedAt([owner.record(ref)]), payload)
    for number in range(1000, 1500):
        owner.promise(number)
        owner.releases.drain()
    assert LookedAt.looks <= 1000
    for ref in failed:
        owner.unseen.seen(ref._id)


def told(caplog: pytest.LogCaptureFixture) -> bool:
    """Once the thread that tells has ended."""
    for thread in threading.enumerate():
        if thread.name == "beamlet-errors":
            thread.join()
    return "nobody asked for its result" in caplog.text


@pytest.mark.parametrize("first", ["the reference", "the error"])
def test_an_error_is_told_when_its_last_reference_goes(
    owner: Owner, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    ref: Any = owner.promise()
    object_id, record = ref._id, owner.record(ref)
    payload = dump_error(RaySystemError("unseen"))
    if first == "the reference":
        ref = None
        owner.releases.drain()
    owner.unseen.failed("f", [object_id], [record], payload)
    if first == "the error":
        owner.releases.drain()
        assert not told(caplog)
        ref = None
    owner.releases.drain()
    assert told(caplog)


def test_an_error_let_go_with_a_value_around_it_is_told(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    ref: Any = owner.promise()
    outer: Any = owner.promise(1)
    payload = dump_error(RaySystemError("unseen"))
    owner.keep_promise(ref, payload)
    owner.unseen.failed("f", [ref._id], [owner.record(ref)], payload)
    owner.refs.set_inline(owner.record(outer), ONE, [(ref._id, SELF)])
    ref = None
    owner.releases.drain()
    outer = None
    owner.releases.drain()
    owner.unseen.look_round()
    assert told(caplog)


def test_errors_are_told_at_the_end_when_there_was_no_thread_to_tell_them(
    owner: Owner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = owner.promise()
    payload = dump_error(ValueError("unheard"))
    owner.keep_promise(ref, payload)
    owner.unseen.failed("f", [ref._id], [owner.record(ref)], payload)
    del ref
    refuse_threads(monkeypatch)
    settled(owner)
    owner.unseen.sweep()
    monkeypatch.undo()
    assert not caplog.text
    owner.unseen.tell_all()
    assert caplog.text.count("f failed, and nobody asked") == 1
