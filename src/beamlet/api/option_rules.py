"""● What values an option accepts: small checks that return the value to keep, or say what is wrong with it.

A check raises ValueError or TypeError with a clause ("must not be negative"); ``options.py`` puts option,
value and task in front of it.  Types themselves are checked there, before a check runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from beamlet.base.resources import UNIT

Check = Callable[[Any], Any]

#: The smallest fraction of a resource: one unit of the fixed-point amounts.
SMALLEST = 1 / UNIT
#: The largest amount, so that a few of them still add up in 64 bits, as they travel.
LARGEST = 2**60 // UNIT
#: The largest counter that travels.
COUNT_MAX = 2**63 - 1
#: More references than any program wants from one call; each costs some hundred bytes at once.
RETURNS_MAX = 1_000_000
_SHOWN_MAX = 100
#: Names are shown in titles, prefixes and messages.
TEXT_MAX = 10_000
#: Resources with options of their own, and which.
_OWN_OPTION = {
    "CPU": "num_cpus",
    "GPU": "num_gpus",
    "memory": "memory",
    "object_store_memory": "init(object_store_memory=)",
    "bundle": "a placement group",
}
STRATEGY_CLASSES = (
    "PlacementGroupSchedulingStrategy",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
)
STRATEGY_NAMES = ("DEFAULT", "SPREAD")
GENERATOR_RETURNS = ("streaming", "dynamic")

_LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?")
_LABEL_WORD = r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?"
_LABEL_VALUE = re.compile(rf"!?({_LABEL_WORD})?|!?in\(\s*{_LABEL_WORD}(\s*,\s*{_LABEL_WORD})*\s*\)")


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'num_cpus'?`` or nothing."""
    import difflib

    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


def brief(value: object) -> str:
    """``repr``, short, whatever the value's ``__repr__`` does."""
    try:
        text = repr(value)
    except Exception as problem:  # a user's broken __repr__ must not hide the error being reported
        return f"<a {type(value).__name__} whose __repr__ raises {type(problem).__name__}>"
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def a_kind(value: object) -> str:
    """ "a str", "an int", "None": what a value is, in a sentence."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeioAEIO" else f"a {name}"


def is_bool(value: object) -> bool:
    """Also numpy's."""
    is_numpys = type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_")
    return is_numpys or isinstance(value, bool)


# --- text ---------------------------------------------------------------------------------------


def text(value: str) -> str:
    """What can travel, and be shown: the text itself, also of a subclass of str."""
    value = str.__str__(value)
    if len(value) > TEXT_MAX:
        raise ValueError(f"must have at most {TEXT_MAX:,} characters; this has {len(value):,}")
    return encodable(value)


def encodable(value: str) -> str:
    """The wire takes any text that UTF-8 can hold, without NUL."""
    value = system_text(value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            "must be text that UTF-8 can encode; this holds a lone surrogate, which is how Python shows "
            "bytes from the system that are not UTF-8"
        ) from None
    return value


def system_text(value: str) -> str:
    """The kernel takes any bytes without NUL, also those that Python shows as lone surrogates."""
    value = str.__str__(value)
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as problem:
        raise ValueError(
            f"must be text; this holds {value[problem.start]!r}, a lone surrogate that stands for no byte"
        ) from None
    return value


def text_map(value: Mapping[Any, Any]) -> dict[str, str]:
    """{name: text}, both of them ours to send."""
    for key, each in value.items():
        if not isinstance(key, str) or not isinstance(each, str):
            raise TypeError(f"must map str to str, but has {brief(key)}: {brief(each)}")
        try:
            text(key)
            text(each)
        except ValueError as problem:
            raise ValueError(f"has {brief(key)}: {brief(each)}, which {problem}") from None
    return {str.__str__(key): str.__str__(each) for key, each in value.items()}


def environment_variables(value: Mapping[Any, Any]) -> dict[str, str]:
    """Names and values as the kernel takes them: text without NUL, names without ``=``."""
    if not isinstance(value, Mapping):
        raise TypeError(f"must map str to str, but is {a_kind(value)}: {brief(value)}")
    for name, setting in value.items():
        if not isinstance(name, str):
            raise TypeError(f"must map str to str: the name {brief(name)} is {a_kind(name)}")
        if not isinstance(setting, str):
            raise TypeError(
                f"must map str to str: {brief(name)} is {brief(setting)}, {a_kind(setting)}. "
                f"Write {brief(brief(setting))}."
            )
        if not name or "=" in name:
            raise ValueError(f"has the name {brief(name)}, which must not be empty or contain '='")
        for part, what in ((name, "the name"), (setting, f"the value of {brief(name)}:")):
            try:
                system_text(part)
            except ValueError as problem:
                raise ValueError(f"has {what} {brief(part)}, which {problem}") from None
    return {str.__str__(name): str.__str__(setting) for name, setting in value.items()}


# --- numbers ------------------------------------------------------------------------------------


def amount(value: float) -> float:
    """A quantity of a resource: zero, or at least one fixed-point unit."""
    if value != value or abs(value) == math.inf:
        raise ValueError("must be a finite number")
    if value < 0:
        raise ValueError("cannot be negative")
    if 0 < value < SMALLEST:
        raise ValueError(f"is smaller than the precision of resources, {SMALLEST}")
    if value > LARGEST:
        raise ValueError(f"must be at most {LARGEST:,}")
    return int(value) if isinstance(value, int) else float(value)


def byte_count(value: float) -> int:
    return int(amount(value))


def at_least(least: int, meaning: str) -> Check:
    def check(value: int) -> int:
        if value < least:
            raise ValueError(f"must be {meaning}")
        if value > COUNT_MAX:
            raise ValueError(f"must be at most {COUNT_MAX:,}")
        return int(value)

    return check


count = at_least(0, "0 or a positive integer")
count_or_infinite = at_least(-1, "-1 (without limit), 0 or a positive integer")
positive = at_least(1, "a positive integer")


def positive_or_off(value: int) -> int:
    if value == 0 or value < -1:
        raise ValueError("must be a positive integer, or -1 for no limit")
    return count_or_infinite(value)  # type: ignore[no-any-return]


def return_count(value: int | str) -> int | str:
    if isinstance(value, bool):
        raise TypeError("must be an integer, 'streaming' or 'dynamic', not a bool")
    if isinstance(value, int):
        if value < 0:
            raise ValueError("must be a non-negative integer, 'streaming' or 'dynamic'")
        if value > RETURNS_MAX:
            raise ValueError(f"must be at most {RETURNS_MAX:,}; 'streaming' returns any number one by one")
        return int(value)
    if value not in GENERATOR_RETURNS:
        raise TypeError(f"must be an integer, 'streaming' or 'dynamic'{nearest(value, GENERATOR_RETURNS)}")
    return value


# --- names and places ---------------------------------------------------------------------------


def not_empty(value: str) -> str:
    if not value:
        raise ValueError("must not be empty; leave it out for none")
    return text(value)


def one_of(*allowed: str) -> Check:
    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(map(repr, allowed))}{nearest(value, allowed)}")
        return value

    return check


def scheduling_strategy(value: object) -> object:
    if isinstance(value, str):
        if value not in STRATEGY_NAMES:
            names = ", ".join(map(repr, STRATEGY_NAMES))
            near = nearest(value.upper(), STRATEGY_NAMES)
            raise ValueError(f"must be {names} or a strategy object{near}")
    elif type(value).__name__ not in STRATEGY_CLASSES:
        raise TypeError(f"must be a str or one of {', '.join(STRATEGY_CLASSES)}")
    return value


def placement_group(value: object) -> object:
    expected = "must be a PlacementGroup, 'default' or None"
    if isinstance(value, str) and value != "default":
        raise ValueError(expected)
    if not isinstance(value, str) and type(value).__name__ != "PlacementGroup":
        raise TypeError(expected)
    return value


def label_selector(value: Mapping[Any, Any]) -> dict[str, str]:
    for key, wanted in value.items():
        if not isinstance(key, str) or not isinstance(wanted, str):
            raise TypeError(f"must map str to str, but has {key!r}: {wanted!r}")
        if not _LABEL_KEY.fullmatch(key):
            raise ValueError(
                f"has the key {key!r}, which is not a valid label name (the rules are those of Kubernetes)"
            )
        if not _LABEL_VALUE.fullmatch(wanted):
            raise ValueError(f"has {key!r}: {wanted!r}; write 'v', '!v', 'in(a, b)' or '!in(a, b)'")
    return dict(value)


def fallback_strategy(value: list[Any]) -> list[dict[str, dict[str, str]]]:
    for step in value:
        if not isinstance(step, dict):
            raise TypeError(f"must contain dicts, but contains {step!r}")
        if set(step) != {"label_selector"}:
            raise ValueError(f"must contain dicts with 'label_selector' alone, but contains {step!r}")
        if not isinstance(step["label_selector"], dict):
            raise TypeError(f"has a label_selector that is not a dict: {step['label_selector']!r}")
    return [{"label_selector": label_selector(step["label_selector"])} for step in value]


# --- containers ---------------------------------------------------------------------------------


def custom_resources(value: Mapping[Any, Any]) -> dict[str, float]:
    kept: dict[str, float] = {}
    for name, quantity in value.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"must have non-empty str as its keys, but has {brief(name)}")
        if name in _OWN_OPTION:
            raise ValueError(f"must not contain {name!r}: use {_OWN_OPTION[name]} instead")
        if not isinstance(quantity, int | float):
            raise TypeError(f"must contain numbers, but has {brief(name)}: {brief(quantity)}")
        try:
            kept[text(name)] = amount(quantity)
        except ValueError as problem:
            raise ValueError(f"has {brief(name)}: {brief(quantity)}, which {problem}") from None
    return kept


def retry_exceptions(value: bool | Iterable[Any]) -> bool | tuple[type[Exception], ...]:
    if isinstance(value, bool):
        return value
    kinds = tuple(value)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise ValueError(f"must be a bool or a list of exception classes, but contains {kind!r}")
    return kinds


def concurrency_groups(value: Mapping[Any, Any] | list[Any]) -> dict[str, int]:
    """{group: limit}; also Ray 1.7's list of {"name": …, "max_concurrency": …}."""
    groups = dict(value) if isinstance(value, Mapping) else dict(map(_group_of_old_form, value))
    for name, limit in groups.items():
        if not isinstance(name, str) or not isinstance(limit, int):
            raise TypeError(f"must map names to integers, but has {brief(name)}: {brief(limit)}")
        if limit < 1:
            raise ValueError(f"must allow each group at least 1 call at a time, but has {name!r}: {limit}")
        if limit > COUNT_MAX:
            raise ValueError(f"must allow at most {COUNT_MAX:,} calls at a time, but has {name!r}: {limit}")
        try:
            text(name)
        except ValueError as problem:
            raise ValueError(f"has the group {brief(name)}, whose name {problem}") from None
    return {str.__str__(name): int(limit) for name, limit in groups.items()}


def _group_of_old_form(entry: Any) -> tuple[Any, Any]:
    if not isinstance(entry, Mapping) or not {"name", "max_concurrency"} <= entry.keys():
        raise TypeError(f"must map names to integers, but lists {entry!r}")
    return entry["name"], entry["max_concurrency"]
