"""In a notebook, too, Ctrl-C does not fall between two instructions of ours."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from beamlet.api import init


class Events:
    """What IPython tells of."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Callable[[], None]] = {}

    def register(self, event: str, function: Callable[[], None]) -> None:
        self.callbacks[event] = function


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    events = Events()
    shell = SimpleNamespace(events=events)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return events


@pytest.fixture(autouse=True)
def handler_is_restored() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_kernels_handler_gives_way_when_a_cell_begins(events: Events) -> None:
    init._take_interrupts_of_cells()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    events.callbacks["pre_execute"]()
    assert signal.getsignal(signal.SIGINT) is init._interrupted


def test_the_handler_of_a_cell_that_awaits_is_left_alone(events: Events) -> None:
    def cancels(number: int, frame: object) -> None: ...

    init._take_interrupts_of_cells()
    signal.signal(signal.SIGINT, cancels)
    events.callbacks["pre_execute"]()
    assert signal.getsignal(signal.SIGINT) is cancels


def test_ipython_that_runs_nothing_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    init._take_interrupts_of_cells()
