"""``breakpoint()`` and pdb in a worker: it has no terminal, and the user is told what to do instead."""

from __future__ import annotations

import os
import sys
from typing import Any

_ADVICE = (
    "a debugger at a prompt needs a terminal, and workers have none. Debug the code in your own process "
    "(f.local(…) runs a remote function there), or choose a debugger that is reached over a socket: "
    "runtime_env={'env_vars': {'PYTHONBREAKPOINT': 'remote_pdb.set_trace'}}."
)


def install() -> None:
    """Let ``breakpoint()`` in this process say what to do, unless the user chose a debugger."""
    sys.breakpointhook = _breakpoint


def _breakpoint(*args: Any, **kwargs: Any) -> Any:
    if os.environ.get("PYTHONBREAKPOINT"):
        return sys.__breakpointhook__(*args, **kwargs)  # noqa: T100 — the user's own choice
    raise RuntimeError(f"breakpoint() in a worker: {_ADVICE}")


def explain_quit(error: BaseException) -> None:
    """pdb was called by name and read the end of its input: its error says nothing of that."""
    kind = type(error)
    if kind.__name__ == "BdbQuit" and kind.__module__ == "bdb":
        error.add_note(_ADVICE)
