"""How much is looked at to yield results as they come, with a ``wait`` that only counts."""

from __future__ import annotations

from typing import Any

import pytest

import beamlet
from beamlet.util import completion


class Results:
    """Stands for ``beamlet.wait``: of any references, those in ``ready``."""

    def __init__(self, ready: set[int]) -> None:
        self.ready = ready
        self.looked_at = 0

    def wait(
        self, refs: list[Any], num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Any], list[Any]]:
        self.looked_at += len(refs)
        taken = [ref for ref in refs if ref in self.ready][:num_returns]
        assert taken or timeout == 0, "it would wait for ever"
        return taken, [ref for ref in refs if ref not in set(taken)]


def unfinished(monkeypatch: pytest.MonkeyPatch, results: Results, refs: range, chunk_size: int = 10) -> Any:
    monkeypatch.setattr(beamlet, "wait", results.wait)
    return completion._Unfinished(chunk_size, {}, refs)


def test_what_is_ready_in_order_is_not_found_by_looking_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk of ten took two looks at all: a hundred thousand results took a minute."""
    many = range(20_000)
    results = Results(set(many))
    rest = unfinished(monkeypatch, results, many)
    taken = [ref for _ in range(2000) for ref in rest.look()]
    assert taken == list(many)
    assert len(rest) == 0
    assert results.looked_at < 20 * len(many)


def test_what_is_ready_behind_much_that_is_not_is_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results({990, 991, 5})
    rest = unfinished(monkeypatch, results, range(1000))
    assert rest.look() == [5]
    assert rest.look() == [990, 991]
    results.ready = set(range(1000))
    assert sorted(ref for _ in range(100) for ref in rest.look()) == sorted(set(range(1000)) - {5, 990, 991})
    assert len(rest) == 0


def test_a_chunk_of_one_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = unfinished(monkeypatch, Results({50, 70}), range(100), chunk_size=1)
    assert [rest.look(), rest.look()] == [[50], [70]]


def test_a_task_that_raised_stop_iteration_ends_nothing_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(ref: int) -> int:
        if ref == 2:
            raise StopIteration
        return ref

    monkeypatch.setattr(beamlet, "get", get)
    monkeypatch.setattr(beamlet, "wait", Results(set(range(5))).wait)
    mapped = completion._map_unordered(FakeTask, range(5), 2, 2, False, {})
    completed = completion._yield_as_completed(completion._Unfinished(10, {}, range(5)), False)
    for results in (completed, mapped):
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(RuntimeError) as caught:
            next(results)
        assert isinstance(caught.value.__cause__, StopIteration)


class FakeTask:
    """A remote function whose reference is its argument."""

    @staticmethod
    def remote(item: int) -> int:
        return item
