"""Why something cannot be pickled: the path to the culprit, and what to do about it.

Pickle names the type that failed, not where it sits.  This walks the value the way a reader would
(``x['cfg']['s']``) until it finds the smallest part that fails alone.
"""

from __future__ import annotations

import io
import threading
import types
from collections.abc import Iterator
from typing import Any

import cloudpickle

_DEPTH_MAX = 12
_CHILDREN_MAX = 1000

_REMEDIES: tuple[tuple[str, str], ...] = (
    ("socket", "Create it inside the task, or keep it in an actor."),
    ("lock", "Create it inside the task; a lock in one process means nothing in another."),
    ("TextIOWrapper", "Pass the path, and open the file inside the task."),
    ("BufferedReader", "Pass the path, and open the file inside the task."),
    ("BufferedWriter", "Pass the path, and open the file inside the task."),
    ("generator", "Pass a list, or create the generator inside the task."),
    ("coroutine", "Call it inside an async actor method."),
    ("Connection", "Open the connection inside the task, or keep it in an actor."),
    ("Thread", "Start it inside the task."),
    ("module", "Import it inside the task."),
)


def explain_unpicklable(
    error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, *, result: bool = False
) -> None:
    """Replace a pickling error by one that names the path. Returns if it was another kind of error."""
    if not isinstance(error, TypeError | AttributeError | ValueError | RecursionError) and not (
        type(error).__name__ == "PicklingError"
    ):
        return
    if result:
        labelled = [("result", args[0])]
    else:
        labelled = [(f"argument {i}", value) for i, value in enumerate(args)]
        labelled += [(f"argument {key!r}", value) for key, value in kwargs.items()]
    for label, value in labelled:
        if _fails(value):
            root = "result" if result else label.split()[-1].strip("'") if "'" in label else "x"
            path, culprit = find_culprit(value, root)
            kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}"
            what = f"the result of {name}()" if result else f"{label} to {name}()"
            raise TypeError(
                f"cannot send {what}: {path} is a {kind.removeprefix('builtins.')}, which cannot be pickled "
                f"({error}). {remedy(culprit)}"
            ) from None


def find_culprit(value: Any, path: str) -> tuple[str, Any]:
    """The smallest part of ``value`` that cannot be pickled by itself, and the path to it."""
    seen: set[int] = set()
    for _ in range(_DEPTH_MAX):
        seen.add(id(value))
        for step, child in _children(value):
            if id(child) not in seen and _fails(child):
                path, value = path + step, child
                break
        else:
            return path, value
    return path, value


def remedy(culprit: Any) -> str:
    """What to do instead, by type."""
    names = [cls.__name__ for cls in type(culprit).__mro__]
    for fragment, advice in _REMEDIES:
        if any(fragment.lower() in name.lower() for name in names):
            return advice
    return "Send what it is made from, or keep it in an actor."


def _fails(value: Any) -> bool:
    if isinstance(value, threading.Thread):
        return True
    try:
        cloudpickle.Pickler(io.BytesIO(), 5).dump(value)
    except Exception:
        return True
    return False


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, child in list(value.items())[:_CHILDREN_MAX]:
            yield f"[{key!r}]", child
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value[:_CHILDREN_MAX]):
            yield f"[{index}]", child
    elif isinstance(value, set | frozenset):
        for child in list(value)[:_CHILDREN_MAX]:
            yield "{…}", child
    elif isinstance(value, types.FunctionType):
        names = value.__code__.co_freevars
        for name, cell in zip(names, value.__closure__ or (), strict=True):
            yield f" closes over {name}", cell.cell_contents
        for name in value.__code__.co_names:
            if name in value.__globals__ and value.__module__ == "__main__":
                yield f" uses global {name}", value.__globals__[name]
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    else:
        for name, child in list(getattr(value, "__dict__", {}).items())[:_CHILDREN_MAX]:
            yield f".{name}", child
