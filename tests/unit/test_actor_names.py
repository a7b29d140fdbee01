"""Hints for names that nobody bears: they help a person, and cost the head little whoever asks how often."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import pytest

from beamlet.base.ids import ActorId
from beamlet.gcs.actor_names import HINTS_PER_S, LONGEST_COMPARED, MOST_COMPARED, ActorNames

A = ActorId(b"a" * 16)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was compared with the name that was asked for."""
    found: list[str] = []
    get_close_matches = difflib.get_close_matches

    def counting(word: str, possibilities: Iterable[str], **options: Any) -> list[str]:
        possibilities = list(possibilities)
        found.extend(possibilities)
        return get_close_matches(word, possibilities, **options)

    monkeypatch.setattr(difflib, "get_close_matches", counting)
    return found


def test_a_slip_is_recognised_and_other_namespaces_are_named() -> None:
    names = ActorNames()
    names.take("here", "counter", A)
    names.take("there", "couter", A)
    elsewhere, near = names.hint("here", "couter", 0.0)
    assert "get_actor('couter', namespace='there')" in elsewhere
    assert near == "Did you mean 'counter'?"


def test_who_asks_in_a_loop_gets_few_hints(compared: list[str]) -> None:
    names = ActorNames()
    names.take("here", "counter", A)
    given = [bool(names.hint("here", "couter", number / 1000)) for number in range(3000)]
    assert sum(given) == len(compared) == 3 * HINTS_PER_S
    assert (given[0], given[1000]) == (True, True), "a second later there is one again"


def test_neither_long_names_nor_many_are_compared(compared: list[str]) -> None:
    names = ActorNames()
    for number in range(3 * MOST_COMPARED):
        names.take("here", f"counter{number}", A)
        names.take("here", f"{number}" + "x" * LONGEST_COMPARED, A)
    assert names.hint("here", "x" * (LONGEST_COMPARED + 1), 0.0)
    assert not compared
    assert "Did you mean 'counter" in names.hint("here", "countre1", 0.0)[0]
    assert len(compared) == MOST_COMPARED
    assert max(map(len, compared)) <= LONGEST_COMPARED
