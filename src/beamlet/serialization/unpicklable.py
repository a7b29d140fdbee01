"""Why something cannot be pickled: the path to the culprit, and what to do about it.

Pickle names the type that failed, not where it sits.  This walks the value the way a reader would
(``x['cfg']['s']``) until it finds the smallest part that fails alone.
"""

from __future__ import annotations

import contextlib
import functools
import io
import types
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import cloudpickle

from beamlet.base.deferring import is_from_handler
from beamlet.exceptions.carried import args_of
from beamlet.serialization.refs import contained_sink

_DEPTH_MAX = 20
_CHILDREN_MAX = 1000

#: What a class is called, or one of its bases, → what to do. The walk stops at these: what they are made of
#: is no business of whoever tries to send them.
_REMEDIES: tuple[tuple[str, str], ...] = (
    ("_socket.socket", "Create it inside the task, or keep it in an actor."),
    ("ssl.SSL", "Create it inside the task, or keep it in an actor."),
    ("_thread.lock", "Create it inside the task; a lock in one process means nothing in another."),
    ("_thread.RLock", "Create it inside the task; a lock in one process means nothing in another."),
    ("threading.Thread", "Start it inside the task."),
    ("threading.", "It means nothing in another process: create it there, or let an actor coordinate."),
    ("_thread._local", "Create it inside the task."),
    ("queue.", "Use beamlet.util.queue.Queue, which all processes can share."),
    ("_queue.", "Use beamlet.util.queue.Queue, which all processes can share."),
    ("_io.", "Pass the path, and open the file inside the task."),
    ("tempfile.", "Pass the path, and open the file inside the task."),
    ("mmap.mmap", "Pass the path, and map the file inside the task."),
    ("beamlet.api.generators.", "Pass the ObjectRefs that it yields."),
    ("builtins.generator", "Pass a list, or create the generator inside the task."),
    ("builtins.async_generator", "Create it inside an async actor method."),
    ("builtins.coroutine", "Await it here, or call its function inside an async actor method."),
    ("builtins.frame", "Pass what you need of it, as text."),
    ("builtins.traceback", "Pass traceback.format_exc() instead."),
    ("subprocess.Popen", "Start it inside the task, or keep it in an actor."),
    ("select.", "Create it inside the task."),
    ("concurrent.futures", "Create it inside the task; for results of others pass an ObjectRef."),
    ("asyncio.", "It belongs to one event loop: create it inside an async actor method."),
    ("_asyncio.", "It belongs to one event loop: create it inside an async actor method."),
    ("weakref", "Pass the object itself."),
    ("sqlite3.", "Open the connection inside the task, or keep it in an actor."),
    ("builtins.module", "Import it inside the task."),
    ("_ctypes.", "Pass the data, not the pointer."),
)
#: C modules whose classes users know by another name.
_PUBLIC_MODULES = {
    "_socket": "socket",
    "_thread": "threading",
    "_io": "io",
    "_ssl": "ssl",
    "_queue": "queue",
    "_asyncio": "asyncio",
    "_ctypes": "ctypes",
    "_hashlib": "hashlib",
    "_multiprocessing": "multiprocessing",
    "_sqlite3": "sqlite3",
    "_csv": "csv",
}
_PUBLIC_NAMES = {("threading", "lock"): "Lock", ("threading", "_local"): "local"}
_PICKLING_ERRORS = (TypeError, AttributeError, ValueError, RecursionError)


def explain_unpicklable(
    error: BaseException,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    name: str,
    parameters: Sequence[str] = (),
    *,
    result: bool = False,
) -> None:
    """Replace a pickling error by one that names the path. Returns if it was another kind of error.

    parameters: names of the positional parameters, as far as they are known.
    """
    if not isinstance(error, _PICKLING_ERRORS) and type(error).__name__ != "PicklingError":
        return
    if is_from_handler(error):
        return
    if result:
        labelled = [(f"the result of {name}()", "result", args[0])]
    else:
        named = [(parameters[i] if i < len(parameters) else f"args[{i}]", arg) for i, arg in enumerate(args)]
        labelled = [
            (f"argument {each!r} to {name}()", each, value) for each, value in [*named, *kwargs.items()]
        ]
    for what, root, value in labelled:
        if _fails(value):
            path, culprit = find_culprit(value, root)
            raise TypeError(
                f"cannot send {what}: {path} is {a_kind(culprit)}, which cannot be pickled "
                f"({_reason(error)}). {remedy(culprit)}"
            ) from None


def find_culprit(value: Any, path: str) -> tuple[str, Any]:
    """The smallest part of ``value`` that cannot be pickled by itself, and the path to it."""
    seen: set[int] = set()
    for _ in range(_DEPTH_MAX):
        seen.add(id(value))
        if _known_remedy(value):
            break
        part = next(
            (part for part in _parts(value, path) if id(part[1]) not in seen and _fails(part[1])), None
        )
        if part is None:
            break
        path, value = part
    return path, value


def _parts(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The first parts of ``value``, as far as looking at them does not raise, which may run code of users."""
    with contextlib.suppress(Exception):
        yield from islice(_children(value, path), _CHILDREN_MAX)


def a_kind(culprit: Any) -> str:
    """ "a socket.socket", "an mmap.mmap": its class, as users import it."""
    cls = type(culprit)
    module = _PUBLIC_MODULES.get(cls.__module__, cls.__module__)
    if module.startswith("beamlet."):
        module = "beamlet"
    name = _PUBLIC_NAMES.get((module, cls.__qualname__), cls.__qualname__)
    text = name if module in ("builtins", "__main__") else f"{module}.{name}"
    return f"an {text}" if text[0] in "aeioAEIO" else f"a {text}"


def remedy(culprit: Any) -> str:
    """What to do instead, by type."""
    return _known_remedy(culprit) or "Send what it is made from, or keep it in an actor."


def _known_remedy(value: Any) -> str:
    for cls in type(value).__mro__:
        name = f"{cls.__module__}.{cls.__qualname__}"
        for start, advice in _REMEDIES:
            if name.startswith(start):
                return advice
    return ""


def _reason(error: BaseException) -> str:
    """The first line of what pickle said."""
    return str(error).partition("\n")[0][:200] or type(error).__name__


def _fails(value: Any) -> bool:
    try:
        # In a sink of its own: references met by this attempt go nowhere.
        with contained_sink():
            cloudpickle.Pickler(io.BytesIO(), 5).dump(value)
    except Exception:
        return True
    return False


def _children(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The parts of ``value``, each with its path."""
    if isinstance(value, dict):
        for key, child in value.items():
            shown = _shown(key)
            yield f"key {shown} of {path}", key
            yield f"{path}[{shown}]", child
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for field, child in zip(value._fields, value, strict=False):
            yield f"{path}.{field}", child
    elif isinstance(value, list | tuple | deque):
        for index, child in enumerate(value):
            yield f"{path}[{index}]", child
    elif isinstance(value, set | frozenset):
        for child in value:
            yield f"an element of {path}", child
    elif isinstance(value, types.FunctionType):
        yield from _captured(value, path)
    elif isinstance(value, types.MethodType):
        yield f"{path}.__self__", value.__self__
    elif isinstance(value, functools.partial):
        yield f"{path}.func", value.func
        yield from _children(value.args, f"{path}.args")
        yield from _children(value.keywords, f"{path}.keywords")
    elif isinstance(value, type):
        for name, child in list(vars(value).items()):
            if not name.startswith("__"):
                yield f"{path}.{name}", child
    else:
        yield from _attributes(value, path)


def _shown(key: Any) -> str:
    try:
        return repr(key)[:40]
    except Exception:  # of a user's __repr__
        return f"<{type(key).__name__}>"


def _captured(function: types.FunctionType, path: str) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # it is empty: the variable has no value yet
            yield f"{name} (captured by {path})", cell.cell_contents
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f"{name} (a global used by {path})", function.__globals__[name]
    for name, child in zip(function.__code__.co_varnames, function.__defaults__ or (), strict=False):
        yield f"{name} (a default of {path})", child


def _attributes(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, BaseException):
        yield from _children(args_of(value), f"{path}.args")
        yield f"{path}.__cause__", value.__cause__
    for name, child in list(getattr(value, "__dict__", {}).items()):
        yield f"{path}.{name}", child
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield f"{path}.{name}", getattr(value, name)
