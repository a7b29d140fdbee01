"""● What arguments the public functions take: one table, by which they check their calls.

    name = checked("get_actor", "name", name)     the value to use, or an error that names the function, the
                                                  argument, the value and what was expected

Options of tasks, actors and methods have a table of their own (option_table.py), and so has ``init()``
(init_options.py).  ``ANYTHING`` marks users' values.  References, handles and remote functions are judged by
the functions that take them, since their classes are defined to the right of this file.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from beamlet.api import option_rules as rules

#: Nobody waits longer: what is beyond is for ever.
FOREVER_S = 1e9


class Rule(NamedTuple):
    """What an argument must be."""

    #: For people: "a bool", "a non-empty str".
    expected: str
    #: Returns the value to use. Raises TypeError or ValueError with a clause ("must be a bool, not a str").
    #: None: the function judges it itself.
    check: Callable[[Any], Any] | None = None


# --- kinds of arguments -------------------------------------------------------------------------


def _flag(value: object) -> bool:
    if not rules.is_bool(value):
        raise TypeError(f"must be a bool, not {rules.a_kind(value)}")
    return bool(value)


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"must be a str, not {rules.a_kind(value)}")
    if not value:
        raise ValueError("must not be empty")
    return rules.text(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"must be a str, not {rules.a_kind(value)}")
    return rules.text(value)


def _namespace(value: object) -> str | None:
    if value == "":
        raise ValueError("must not be empty; leave it out for this job's own")
    return None if value is None else _name(value)


def _number(value: Any) -> float:
    """A number that is one, also numpy's; not a bool, not NaN."""
    if rules.is_bool(value) or isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"must be a number, not {rules.a_kind(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    except Exception as problem:
        raise TypeError(f"must be a number, not {rules.a_kind(value)} ({problem})") from None
    if math.isnan(number):
        raise ValueError("must be a number of seconds, not NaN")
    return number


def _seconds(value: object) -> float | None:
    """None: for ever."""
    if value is None:
        return None
    number = _number(value)
    if number < 0:
        raise ValueError("must not be negative")
    return number if number < FOREVER_S else None


def _get_timeout(value: object) -> float | None:
    """-1 is Ray's older word for None."""
    number = None if value is None else _number(value)
    if number is None or number == -1:
        return None
    if number < 0:
        raise ValueError("must be None, -1 or at least 0 seconds")
    return number if number < FOREVER_S else None


def integer(least: int | None = None, most: int = rules.COUNT_MAX) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"must be an int, not {rules.a_kind(value)}")
        try:
            number = operator.index(value)
        except Exception:
            raise TypeError(f"must be an int, not {rules.a_kind(value)}") from None
        if least is not None and number < least:
            raise ValueError(f"must be at least {least}")
        if abs(number) > most:
            raise ValueError(f"must be at most {most:,}")
        return int(number)

    return check


def _optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _callable(value: object) -> object:
    if not callable(value):
        raise TypeError(f"must be callable, not {rules.a_kind(value)}")
    return value


def _class(value: object) -> object:
    if not isinstance(value, type):
        raise TypeError(f"must be a class, not {rules.a_kind(value)}")
    return value


def _iterable(value: object) -> Iterable[Any]:
    if not isinstance(value, Iterable):
        raise TypeError(f"must be iterable, not {rules.a_kind(value)}")
    return value


def _actors(value: object) -> list[Any]:
    """What has methods to call remotely; what an actor is stands to the right of this file."""
    actors = list(_iterable(value))
    for index, actor in enumerate(actors):
        _actor(actor, f"must contain actors, but element {index} is")
    return actors


def _actor(value: object, problem: str = "must be an actor, not") -> object:
    if isinstance(value, type) or not hasattr(value, "_actor_id"):
        raise TypeError(f"{problem} {rules.a_kind(value)}")
    return value


def _path(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str | bytes) or hasattr(value, "__fspath__"):
        path = value if isinstance(value, str | bytes) else value.__fspath__()
        text = path.decode(errors="surrogateescape") if isinstance(path, bytes) else path
        if not text or "\0" in text:
            raise ValueError("must be the name of a file: not empty, without NUL characters")
        return str(text)
    raise TypeError(f"must be a path, not {rules.a_kind(value)}")


def _raw(value: object) -> str | bytes:
    if not isinstance(value, str | bytes):
        raise TypeError(f"must be bytes or str, not {rules.a_kind(value)}")
    return value if isinstance(value, bytes) else rules.encodable(value)


def _keywords(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"must be a dict, not {rules.a_kind(value)}")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"must have str as its keys, but has {rules.brief(key)}")
    return dict(value)


def _stream(value: object) -> object:
    if value is not None and not callable(getattr(value, "write", None)):
        raise TypeError(f"must be a stream to write to, not {rules.a_kind(value)}")
    return value


def _optional_raw(value: object) -> str | bytes | None:
    return None if value is None else _raw(value)


ANYTHING = Rule("any value")
JUDGED_THERE = Rule("see the function")
FLAG = Rule("a bool", _flag)
NAME = Rule("a non-empty str", _name)
TEXT = Rule("a str", _text)
NAMESPACE = Rule("a non-empty str, or None for this job's own", _namespace)
SECONDS = Rule("seconds, at least 0; None: for ever", _seconds)
GET_TIMEOUT = Rule("seconds, at least 0; None or -1: for ever", _get_timeout)
FUNCTION = Rule("something to call", _callable)
CLASS = Rule("a class", _class)
VALUES = Rule("an iterable", _iterable)
ACTORS = Rule("an iterable of actors", _actors)
ACTOR = Rule("an actor", _actor)
BYTES = Rule("bytes or str", _raw)
SPACE = Rule("bytes or str, or None", _optional_raw)
COUNT = Rule("an int, at least 0", integer(0))
POSITIVE = Rule("an int, at least 1", integer(1))

#: function → argument → rule. Methods as ``Class.method``, constructors as ``Class``.
FUNCTIONS: Mapping[str, Mapping[str, Rule]] = MappingProxyType(
    {
        "get": {"object_refs": JUDGED_THERE, "timeout": GET_TIMEOUT, "_use_object_store": FLAG},
        "put": {"value": ANYTHING, "_owner": JUDGED_THERE, "_tensor_transport": ANYTHING},
        "wait": {
            "ray_waitables": JUDGED_THERE,
            "num_returns": POSITIVE,
            "timeout": SECONDS,
            "fetch_local": FLAG,
        },
        "cancel": {"ray_waitable": JUDGED_THERE, "force": FLAG, "recursive": FLAG},
        "get_actor": {"name": NAME, "namespace": NAMESPACE},
        "kill": {"actor": JUDGED_THERE, "no_restart": FLAG},
        "shutdown": {"wait_for_processes": FLAG, "_exiting_interpreter": FLAG},
        "timeline": {"filename": Rule("a path, or None", _path)},
        "util.list_named_actors": {"all_namespaces": FLAG},
        "util.get_node_ip_address": {"address": Rule("a str, or None", _optional(_text))},
        "util.log_once": {"key": TEXT},
        "util.inspect_serializability": {
            "base_obj": ANYTHING,
            "name": Rule("a str, or None", _optional(_text)),
            "depth": POSITIVE,
            "print_file": Rule("a stream to write to, or None", _stream),
        },
        "util.register_serializer": {"cls": CLASS, "serializer": FUNCTION, "deserializer": FUNCTION},
        "util.deregister_serializer": {"cls": CLASS},
        "util.as_completed": {"refs": VALUES, "chunk_size": POSITIVE, "yield_obj_refs": FLAG},
        "util.map_unordered": {
            "fn": JUDGED_THERE,
            "items": VALUES,
            "backpressure_size": Rule("an int, at least 1, or None", _optional(integer(1))),
            "chunk_size": POSITIVE,
            "yield_obj_refs": FLAG,
        },
        "util.ActorPool": {"actors": ACTORS},
        "util.ActorPool.submit": {"fn": FUNCTION, "value": ANYTHING},
        "util.ActorPool.map": {"fn": FUNCTION, "values": VALUES},
        "util.ActorPool.map_unordered": {"fn": FUNCTION, "values": VALUES},
        "util.ActorPool.get_next": {"timeout": SECONDS, "ignore_if_timedout": FLAG},
        "util.ActorPool.get_next_unordered": {"timeout": SECONDS, "ignore_if_timedout": FLAG},
        "util.ActorPool.push": {"actor": ACTOR},
        "util.queue.Queue": {
            "maxsize": Rule("an int; 0 or less: without bound", integer()),
            "actor_options": Rule("a dict of actor options, or None", _optional(_keywords)),
        },
        "util.queue.Queue.put": {"item": ANYTHING, "block": FLAG, "timeout": SECONDS},
        "util.queue.Queue.get": {"block": FLAG, "timeout": SECONDS},
        "util.queue.Queue.put_nowait_batch": {"items": VALUES},
        "util.queue.Queue.get_nowait_batch": {"num_items": COUNT},
        "util.queue.Queue.shutdown": {"force": FLAG, "grace_period_s": SECONDS},
        "experimental.internal_kv._internal_kv_put": {
            "key": BYTES, "value": BYTES, "overwrite": FLAG, "namespace": SPACE,
        },
        "experimental.internal_kv._internal_kv_get": {
            "key": BYTES, "namespace": SPACE,
        },
        "experimental.internal_kv._internal_kv_exists": {
            "key": BYTES, "namespace": SPACE,
        },
        "experimental.internal_kv._internal_kv_del": {
            "key": BYTES, "del_by_prefix": FLAG, "namespace": SPACE,
        },
        "experimental.internal_kv._internal_kv_list": {
            "prefix": BYTES, "namespace": SPACE,
        },
    }
)  # fmt: skip


def checked(function: str, argument: str, value: Any) -> Any:
    """The value to use. Raises TypeError or ValueError naming all that is known."""
    check = FUNCTIONS[function][argument].check
    assert check is not None, f"{function}({argument}=) has no rule: its function judges it"
    try:
        return check(value)
    except (TypeError, ValueError) as problem:
        shown = function.rpartition(".")[2] if "[" in function else function.removeprefix("util.")
        raise type(problem)(f"{shown}({argument}={rules.brief(value)}): {argument} {problem}") from None
