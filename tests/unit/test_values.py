"""get, put, wait and cancel refuse what makes no sense before anything is asked of the cluster."""

from __future__ import annotations

from typing import Any

import pytest

import beamlet as ray
from beamlet.api import backend
from beamlet.base.ids import Address, ObjectId


class Core:
    """Writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def get(self, refs: Any, timeout: float | None) -> list[str]:
        self.asked.append(("get", len(refs), timeout))
        return [ref.hex()[:2] for ref in refs]

    def get_one(self, ref: Any, timeout: float | None) -> Any:
        return self.get([ref], timeout)[0]

    def wait(self, refs: Any, num_returns: int, timeout: float | None, fetch_local: bool) -> Any:
        self.asked.append(("wait", len(refs), num_returns, timeout, fetch_local))
        return refs[:num_returns], refs[num_returns:]

    def put(self, value: Any, *_: Any) -> Any:
        self.asked.append(("put", value))
        return ref(1)

    def cancel(self, *what: Any) -> None:
        self.asked.append(("cancel", *what[1:]))


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    core = Core()
    monkeypatch.setattr(backend, "_current", core)
    return core


def ref(number: int) -> Any:
    return ray.ObjectRef(ObjectId(bytes([number]) * 28), Address(b""))


def test_get_of_one_of_many_and_of_none(core: Core) -> None:
    assert ray.get(ref(1)) == "01"
    assert ray.get([ref(1), ref(2)], timeout=3) == ["01", "02"]
    assert ray.get([]) == []
    assert core.asked == [("get", 1, None), ("get", 2, 3)]


@pytest.mark.parametrize(("given", "meant"), [(None, None), (-1, None), (0, 0), (0.5, 0.5)])
def test_timeouts_of_get(core: Core, given: Any, meant: Any) -> None:
    ray.get(ref(1), timeout=given)
    assert core.asked == [("get", 1, meant)]


@pytest.mark.parametrize("timeout", [-2, -0.5, float("nan")])
def test_impossible_timeouts_of_get(core: Core, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        ray.get(ref(1), timeout=timeout)
    assert core.asked == []


@pytest.mark.parametrize("value", [1, "x", None, (), {1: 2}, object()])
def test_get_of_something_else(core: Core, value: Any) -> None:
    with pytest.raises(ValueError, match="Invalid type of object refs"):
        ray.get(value)
    with pytest.raises(TypeError, match=r"element 1 of the list is (an? \w+|None)"):
        ray.get([ref(1), value])
    assert core.asked == []


@pytest.mark.parametrize(
    ("value", "instead"),
    [
        ((1, 2), ": write get(list(…))."),
        ({1: 2}, ": write get(list(….values()))."),
        (ray.remote(lambda: 1), ": call .remote(…) first."),
        ("text", "a list of ObjectRefs."),
    ],
)
def test_get_says_what_to_write_instead(core: Core, value: Any, instead: str) -> None:
    with pytest.raises(ValueError) as caught:
        ray.get(value)
    assert str(caught.value).endswith(instead)


def test_wait_passes_on_what_makes_sense(core: Core) -> None:
    refs = [ref(1), ref(2), ref(3)]
    assert ray.wait(refs) == (refs[:1], refs[1:])
    assert ray.wait(refs, num_returns=3, timeout=0, fetch_local=False) == (refs, [])
    assert ray.wait([]) == ([], [])
    assert core.asked == [("wait", 3, 1, None, True), ("wait", 3, 3, 0, False)]


@pytest.mark.parametrize(
    ("refs", "options", "error", "text"),
    [
        (ref(1), {}, TypeError, r"pass \[ref\]"),
        ((ref(1),), {}, TypeError, "expected a list"),
        ([ref(1), 3], {}, TypeError, "element 1"),
        ([ref(1), ref(1)], {}, ValueError, "unique"),
        ([ref(1)], {"num_returns": 0}, ValueError, "at least 1"),
        ([ref(1)], {"num_returns": 2}, ValueError, "only 1"),
        ([ref(1)], {"timeout": -1}, ValueError, "must not be negative"),
    ],
)
def test_wait_refuses_the_rest(core: Core, refs: Any, options: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        ray.wait(refs, **options)
    assert core.asked == []


def test_put_refuses_references_and_owners(core: Core) -> None:
    ray.put(5)
    with pytest.raises(TypeError, match="ObjectRef is not allowed"):
        ray.put(ref(1))
    with pytest.raises(ValueError, match="_owner"):
        ray.put(1, _owner=object())
    assert core.asked == [("put", 5)]


def test_cancel_wants_a_reference(core: Core) -> None:
    ray.cancel(ref(1), force=True)
    assert core.asked == [("cancel", True, True)]
    with pytest.raises(TypeError, match="kill"):
        ray.cancel("task")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "misuse",
    [
        lambda r: r + 1,
        lambda r: 1 + r,
        lambda r: r < 2,
        lambda r: r[0],
        lambda r: len(r),
        lambda r: list(r),
        lambda r: r(),
        lambda r: int(r),
        lambda r: -r,
    ],
)
def test_a_reference_is_no_value(misuse: Any) -> None:
    with pytest.raises(TypeError, match=r"Use beamlet\.get\(ref\)"):
        misuse(ref(1))


def test_references_are_equal_when_they_name_the_same_object() -> None:
    assert ref(1) == ref(1) != ref(2)
    assert len({ref(1), ref(1), ref(2)}) == 2
    assert ref(1)
    assert repr(ref(1)) == f"ObjectRef({'01' * 28})"
    assert ray.ObjectRef.nil().is_nil()
