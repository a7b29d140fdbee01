"""However often users' code loads what lies in a value, no object has fewer counts than references.

Values of all shapes go through the serializer and come back, several times over, beside a ledger that is
kept as the core worker keeps its: more for what is counted for a value and for a reference that counts
itself, less for each that died.
"""

from __future__ import annotations

import contextlib
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

import cloudpickle
from hypothesis import given, settings
from hypothesis import strategies as st

from beamlet.api import backend
from beamlet.api.object_ref import ObjectRef
from beamlet.base.ids import Address, ObjectId
from beamlet.serialization.refs import released
from beamlet.serialization.values import pack, rebuild_packed, serialize, unpack


class Ledger:
    """Counts per object; the core worker, as far as references need it."""

    def __init__(self) -> None:
        self.counts: Counter[ObjectId] = Counter()

    def adopt_ref(self, object_id: ObjectId, owner: Address) -> ObjectRef[Any]:
        self.counts[object_id] += 1
        return ObjectRef(object_id, owner)

    def decode(self, payload: bytes) -> Any:
        packed = unpack(payload)
        self.counts.update(ObjectId(ref[0]) for ref in packed.contained)
        return rebuild_packed(packed)

    def check(self, alive: list[Any]) -> None:
        """At least as much is counted as is alive."""
        self.counts.subtract(released)
        released.clear()
        references: dict[int, ObjectId] = {}
        find(alive, references)
        found = Counter(references.values())
        short = {object_id[:1]: count - self.counts[object_id] for object_id, count in found.items()}
        assert all(missing <= 0 for missing in short.values()), f"alive, but not counted: {short}"
        assert min(self.counts.values(), default=0) >= 0


def find(part: Any, references: dict[int, ObjectId]) -> None:
    if isinstance(part, ObjectRef):
        references[id(part)] = part._id
    elif isinstance(part, list):
        for each in part:
            find(each, references)
    elif isinstance(part, Later):
        find(part.opened, references)


class Nested:
    """Pickles what it holds in a pickle of its own, each time or once; it is opened with the value."""

    def __init__(self, held: list[Any], is_kept: bool) -> None:
        self.held, self.is_kept, self.data = held, is_kept, b""

    def __reduce__(self) -> Any:
        if not self.data or not self.is_kept:
            self.data = cloudpickle.dumps(self.held)
        return pickle.loads, (self.data,)


class Later:
    """Opens the pickle in it when it is asked to."""

    def __init__(self, held: list[Any]) -> None:
        self.held = held

    def __getstate__(self) -> bytes:
        return bytes(cloudpickle.dumps(self.held))

    def __setstate__(self, data: bytes) -> None:
        self.data = data
        self.opened: list[Any] = []

    def open(self) -> None:
        self.opened.append(pickle.loads(self.data))


class Fails:
    def __reduce__(self) -> Any:
        return _fail, ()


def _fail() -> None:
    raise ZeroDivisionError


def later_parts(part: Any) -> list[Later]:
    if isinstance(part, list):
        return [found for each in part for found in later_parts(each)]
    return [part, *later_parts(part.opened)] if isinstance(part, Later) else []


def new_ref(letter: str) -> ObjectRef[Any]:
    return ObjectRef(ObjectId(letter.encode() * 28), Address(b"o" * 32))


Make = Callable[[], Any]


def _of(kind: Callable[..., Any]) -> Callable[[list[Make]], Make]:
    return lambda parts: lambda: kind([part() for part in parts])


def _shapes(inner: st.SearchStrategy[Make], *more: Callable[..., Any]) -> st.SearchStrategy[Make]:
    parts = st.lists(inner, max_size=4)
    kinds = [list, lambda held: Nested(held, is_kept=False), lambda held: Nested(held, is_kept=True), *more]
    return st.one_of([parts.map(_of(kind)) for kind in kinds])


references = st.sampled_from("abc").map(lambda letter: lambda: new_ref(letter))
opened_at_once = st.recursive(references, _shapes, max_leaves=8)
all_kinds = st.recursive(
    references | st.just(Fails), lambda inner: _shapes(inner, Later), max_leaves=10
)  # fmt: skip


def run(make: Make, pickled: int, loaded: int, opened: int) -> Ledger:
    """What is counted at the end, when nothing is left alive."""
    ledger = Ledger()
    value = [make()]
    with mock.patch.object(backend, "_current", ledger):
        payloads = [pack(serialize(value)) for _ in range(pickled)]
        del value
        released.clear()  # those that were pickled; nobody counted them
        alive: list[Any] = []
        for payload in payloads:
            for _ in range(loaded):
                if payload[:1] == b"\x80":  # it refers to nothing that was noted
                    with contextlib.suppress(ZeroDivisionError):
                        alive.append(pickle.loads(payload))
                else:
                    with contextlib.suppress(ZeroDivisionError):
                        alive.append(ledger.decode(payload))
                ledger.check(alive)
        for _ in range(opened):
            for later in later_parts(alive):
                with contextlib.suppress(ZeroDivisionError):
                    later.open()
            ledger.check(alive)
        while alive:
            alive.pop()
            ledger.check(alive)
    return ledger


@settings(max_examples=150, deadline=None)
@given(all_kinds, st.integers(1, 2), st.integers(1, 3), st.integers(0, 2))
def test_what_is_alive_is_counted(make: Make, pickled: int, loaded: int, opened: int) -> None:
    run(make, pickled, loaded, opened)


@settings(max_examples=100, deadline=None)
@given(opened_at_once, st.integers(1, 2), st.integers(1, 3))
def test_what_is_opened_with_its_value_is_let_go_with_it(make: Make, pickled: int, loaded: int) -> None:
    ledger = run(make, pickled, loaded, 0)
    assert not +ledger.counts
