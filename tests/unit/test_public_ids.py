"""The id classes users meet: sizes, spellings, what is a part of what, and what they refuse."""

from __future__ import annotations

import copy
import doctest
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamlet.api import public_ids
from beamlet.api.public_ids import (
    ActorClassID,
    ActorID,
    BaseID,
    ClusterID,
    FunctionID,
    JobID,
    NodeID,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)

SIZES = {
    JobID: 4,
    ActorID: 16,
    TaskID: 24,
    PlacementGroupID: 18,
    NodeID: 28,
    WorkerID: 28,
    UniqueID: 28,
    FunctionID: 28,
    ActorClassID: 28,
    ClusterID: 28,
}
kinds = pytest.mark.parametrize("kind", SIZES, ids=lambda kind: kind.__name__)


@kinds
def test_sizes_are_rays(kind: type[BaseID]) -> None:
    assert kind.size() == len(kind.nil().binary()) == len(kind.from_random().binary()) == SIZES[kind]


@kinds
@given(data=st.data())
def test_bytes_hex_and_pickle_round_trip(kind: type[BaseID], data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=kind.size(), max_size=kind.size()))
    made = kind(raw)
    for twin in (kind.from_binary(raw), kind.from_hex(made.hex()), pickle.loads(pickle.dumps(made))):
        assert twin == made
        assert hash(twin) == hash(made)
        assert type(twin) is kind
    assert copy.deepcopy(made) == made
    assert repr(made) == f"{kind.__name__}({raw.hex()})"
    assert made.is_nil() == (raw == b"\xff" * len(raw))


@kinds
@pytest.mark.parametrize("wrong", [b"", b"x", b"x" * 29])
def test_a_wrong_size_is_a_value_error_that_names_both(kind: type[BaseID], wrong: bytes) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__} needs {kind.size()} bytes, got {len(wrong)}"):
        kind(wrong)


def test_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="made from bytes, not from a str"):
        NodeID("ab" * 28)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["", "zz" * 28, "ab" * 27, "ab" * 29])
def test_wrong_hex_is_a_value_error(wrong: str) -> None:
    with pytest.raises(ValueError, match="NodeID"):
        NodeID.from_hex(wrong)


def test_ids_of_different_kinds_differ() -> None:
    raw = bytes(28)
    assert NodeID(raw) != WorkerID(raw)
    assert len({NodeID(raw), WorkerID(raw), UniqueID(raw)}) == 3
    assert NodeID(raw) != raw


def test_ids_do_not_change() -> None:
    node = NodeID.from_random()
    with pytest.raises(AttributeError, match="immutable"):
        node._raw = bytes(28)


def test_job_numbers_are_little_endian() -> None:
    assert JobID.from_int(1).hex() == "01000000"
    assert JobID.from_int(258).int() == 258


def test_what_is_a_part_of_what() -> None:
    job = JobID.from_int(7)
    actor = ActorID(b"a" * 12 + job.binary())
    assert actor.job_id == job
    call = TaskID(b"t" * 8 + actor.binary())
    assert call.actor_id() == actor
    assert call.job_id() == job
    assert TaskID.for_actor_creation_task(actor).actor_id() == actor
    assert TaskID.for_driver_task(job).job_id() == job
    assert PlacementGroupID.of(job).binary().endswith(job.binary())


def test_a_nil_task_has_no_parts() -> None:
    for part in (TaskID.nil().actor_id, TaskID.nil().job_id):
        with pytest.raises(ValueError, match="TaskID is nil"):
            part()


def test_the_examples_in_the_docs() -> None:
    failed, tried = doctest.testmod(public_ids)
    assert tried >= 4
    assert not failed
