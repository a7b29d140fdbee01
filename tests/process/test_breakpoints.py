"""breakpoint() in a worker: what it says, and that a debugger of the user's choice is called."""

from __future__ import annotations

import pdb  # noqa: T100
import sys
from types import ModuleType
from typing import Any

import pytest
from conformance import beamlet_only, get

import beamlet as ray

pytestmark = [pytest.mark.usefixtures("cluster"), beamlet_only]


def stops() -> None:
    breakpoint()  # noqa: T100


def starts_pdb() -> None:
    pdb.set_trace()  # noqa: T100


@pytest.mark.parametrize("function", [stops, starts_pdb])
def test_the_error_says_what_to_do(function: Any) -> None:
    with pytest.raises(Exception) as caught:
        get(ray.remote(max_retries=0)(function).remote())
    text = "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "f.local" in text
    assert "PYTHONBREAKPOINT" in text


def test_the_debugger_of_the_users_choice_is_called() -> None:
    @ray.remote(runtime_env={"env_vars": {"PYTHONBREAKPOINT": "debugger_of_mine.stop"}})
    def debugged() -> str:
        module: Any = ModuleType("debugger_of_mine")
        module.stop = lambda: "stopped"
        sys.modules["debugger_of_mine"] = module
        return str(breakpoint())  # type: ignore[func-returns-value]  # noqa: T100

    assert get(debugged.remote()) == "stopped"
