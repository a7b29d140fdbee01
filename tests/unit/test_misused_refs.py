"""A reference used as if it were the value: every such use says what it is and what to do."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from beamlet.api.generators import ObjectRefGenerator
from beamlet.api.object_ref import ObjectRef
from beamlet.base.ids import Address, ObjectId


@pytest.fixture
def ref() -> Any:
    return ObjectRef(ObjectId(b"r" * 28), Address(b""))


USES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "ref + 1": (lambda ref: ref + 1, "does not support +"),
    "1 - ref": (lambda ref: 1 - ref, "does not support -"),
    "-ref": (operator.neg, "does not support -ref"),
    "sum": (lambda ref: sum([ref]), "does not support +"),
    "round": (round, "does not support round()"),
    "range": (range, "does not support use as an index"),
    "floor": (math.floor, "does not support float()"),
    "ref < 3": (lambda ref: ref < 3, "does not support <"),
    "len": (len, "has no length"),
    "for": (list, "is not iterable"),
    "in": (lambda ref: 3 in ref, "does not support `in`"),
    "ref[0]": (lambda ref: ref[0], "cannot be indexed with [0]"),
    "ref[0] = 1": (lambda ref: operator.setitem(ref, 0, 1), "cannot be assigned to with [0]"),
    "ref()": (lambda ref: ref(), "is not callable"),
    "np.mean": (np.mean, "does not support /"),
}


@pytest.mark.parametrize("use", USES)
def test_it_is_no_value(ref: Any, use: str) -> None:
    act, what = USES[use]
    with pytest.raises(TypeError) as caught:
        act(ref)
    assert str(caught.value) == (
        f"ObjectRef 7272727272727272… {what}: it stands for a value that may not exist yet. "
        "Use beamlet.get(ref), await ref, or pass the ref to another task."
    )


@pytest.mark.parametrize("name", ["shape", "append"])
def test_it_has_not_what_its_value_has(ref: Any, name: str) -> None:
    with pytest.raises(
        AttributeError, match=rf"has no attribute '{name}'.*Use beamlet.get\(ref\)\.{name}"
    ) as caught:
        getattr(ref, name)
    assert (caught.value.name, caught.value.obj) == (name, ref)


def test_what_libraries_look_for_in_everything_is_plainly_not_there(ref: Any) -> None:
    for name in ("__array__", "_repr_html_", "__dask_graph__"):
        with pytest.raises(AttributeError, match=f"^'ObjectRef' object has no attribute '{name}'$"):
            getattr(ref, name)
    assert np.array(ref, dtype=object).item() is ref


def test_a_generator_of_refs_gives_them_one_by_one() -> None:
    generator: Any = ObjectRefGenerator(FakeStreams(), SimpleNamespace(task_id=b"t"), None)  # type: ignore[arg-type]
    for use, what in ((len, "has no length"), (lambda refs: refs[0], "cannot be indexed")):
        with pytest.raises(TypeError, match=f"an ObjectRefGenerator {what}: it gives references one after"):
            use(generator)
    assert generator


class FakeStreams:
    def abandon(self, stream: Any) -> None:
        """The generator goes with the test."""


def test_a_generator_that_was_not_to_be_made_ends_in_silence() -> None:
    unraisable: list[object] = []
    before, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        with pytest.raises(TypeError):
            ObjectRefGenerator()  # type: ignore[call-arg]
    finally:
        sys.unraisablehook = before
    assert not unraisable
