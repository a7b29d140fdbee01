"""● Classes by name, where the classes themselves must not be loaded: which errors are worth another try."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from beamlet.base.wire_text import wire_text


def class_name(cls: type) -> str:
    """As it is known in every process: "module.qualname", in letters that messages can carry."""
    return wire_text(f"{cls.__module__}.{cls.__qualname__}")


def class_names(cls: type) -> list[str]:
    """``cls`` and all it derives from, most derived first. ``issubclass`` for those who have only names."""
    return [class_name(base) for base in cls.__mro__]


#: What to run again after: nothing, whatever was raised, or these classes and what derives from them.
RetryRule = bool | frozenset[str]


def retry_rule(given: bool | Iterable[type]) -> RetryRule:
    """The option ``retry_exceptions`` as submitters keep it."""
    return given if isinstance(given, bool) else frozenset(map(class_name, given))


def is_worth_retrying(rule: RetryRule, error_types: Collection[str]) -> bool:
    """Whether an error of these classes (see ``class_names``) is one that ``rule`` wants retried.

    An error without classes is one of ours, raised by no code of the user's: a call that cannot be encoded,
    say, will not be the next time either.
    """
    return rule and bool(error_types) if isinstance(rule, bool) else not rule.isdisjoint(error_types)
