"""Functions with what they carry: pickled once, measured, and refused when they carry too much."""

from __future__ import annotations

import inspect
import io
import logging
import types
from typing import Any

import cloudpickle

from beamlet.base.deferring import is_from_handler
from beamlet.serialization.decorated import Pickler
from beamlet.serialization.refs import out_of_sight
from beamlet.serialization.unpicklable import a_kind, find_culprit, remedy

_logger = logging.getLogger("beamlet")


# A value's own __reduce__ may call a function for the first time; what that holds is no part of the value.
@out_of_sight()
def check_closure(target: Any, name: str, warn_bytes: int, max_bytes: int) -> bytes:
    """The pickle of a function or class.

    Raises TypeError naming what in it cannot be pickled, ValueError naming what makes it too large; warns
    from ``warn_bytes`` on.
    """
    try:
        pickled = _dumps(target)
    except Exception as error:
        if is_from_handler(error):
            raise
        path, culprit = find_culprit(target, name)
        raise TypeError(
            f"cannot send {name} to workers: {path} is {a_kind(culprit)}, which cannot be pickled ({error}). "
            f"{remedy(culprit)}"
        ) from None
    if len(pickled) > warn_bytes:
        text = (
            f"{_kind(target)} {name} carries {_mib(len(pickled))}: {_biggest(target)}. "
            "Pass it as an argument, or beamlet.put() it once and pass the reference."
        )
        if len(pickled) > max_bytes:
            raise ValueError(f"{text} The limit is {_mib(max_bytes)}.")
        _logger.warning("%s", text)
    return pickled


def _dumps(target: Any) -> bytes:
    file = io.BytesIO()
    Pickler(file, 5).dump(target)
    return file.getvalue()


def _kind(target: Any) -> str:
    return "class" if inspect.isclass(target) else "function"


def _biggest(target: Any) -> str:
    """The captured variables that weigh most, by name."""
    weights = []
    for where, name, value in _captured(target):
        try:
            size = len(cloudpickle.dumps(value, 5))
        except Exception:
            continue
        weights.append((size, f"{name} ({type(value).__name__} {_mib(size)}, {where})"))
    weights.sort(reverse=True)
    return ", ".join(text for _, text in weights[:3]) or "constants in its code"


def _captured(target: Any) -> list[tuple[str, str, Any]]:
    if inspect.isclass(target):
        functions = [f for f in vars(target).values() if isinstance(f, types.FunctionType)]
        found = [("class attribute", n, v) for n, v in vars(target).items() if not callable(v)]
    else:
        functions, found = [target] if isinstance(target, types.FunctionType) else [], []
    for function in functions:
        closure = inspect.getclosurevars(function)
        found += [("closure", n, v) for n, v in closure.nonlocals.items()]
        found += [("global", n, v) for n, v in closure.globals.items() if not inspect.ismodule(v)]
        found += [("default", p.name, p.default) for p in inspect.signature(function).parameters.values()
                  if p.default is not p.empty]  # fmt: skip
    return found


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
