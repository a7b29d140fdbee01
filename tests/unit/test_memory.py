"""Memory goes back to the machine after a flood, at no cost to what the user has."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from beamlet.core_worker.memory import give_back_memory


class Circle:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generations collected meanwhile; none by itself."""
    done: list[int] = []

    def note(phase: str, info: dict[str, Any]) -> None:
        if phase == "stop":
            done.append(info["generation"])

    gc.collect()
    gc.disable()
    gc.callbacks.append(note)
    yield done
    gc.callbacks.remove(note)
    gc.enable()


def test_free_lists_are_emptied_by_a_full_collection_that_looks_at_nothing(collections: list[int]) -> None:
    garbage = weakref.ref(Circle())
    give_back_memory()
    assert collections == [2]
    assert garbage() is not None, "the user's objects were walked"
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert garbage() is None


def test_what_the_user_froze_stays_frozen(collections: list[int]) -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        give_back_memory()
        assert gc.get_freeze_count() == frozen
        assert collections == []
    finally:
        gc.unfreeze()
