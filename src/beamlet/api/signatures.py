"""● Whether a call's arguments fit the function, checked at the calling line and before anything is sent.

The common call costs two comparisons, which the caller writes out:

    if kwargs or not signature.min_args <= len(args) <= signature.max_args:
        signature.check(args, kwargs)

A signature is plain data, so it travels with pickled handles.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import Parameter
from typing import Any, NoReturn

import msgspec

_UNBOUNDED = sys.maxsize
_DEFAULT_SHOWN_MAX = 20


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What a function takes, without ``self``."""

    #: A call without keywords fits if and only if it has this many arguments (never, if keywords are needed).
    min_args: int
    max_args: int
    name: str
    #: Parameters that may be given by position, in order; the first ``positional_only`` of them only so.
    positional: tuple[str, ...]
    positional_only: int
    #: How many of ``positional`` have no default.
    required: int
    keyword_only: tuple[str, ...]
    keyword_required: tuple[str, ...]
    any_positional: bool
    any_keyword: bool
    #: ``f(x, y=1) at app.py:3``, for messages.
    text: str

    @classmethod
    def of(
        cls, function: Callable[..., Any], *, skip_self: bool = False, name: str | None = None
    ) -> Signature:
        """Read a function's signature; one that cannot be read (some are C) accepts everything.

        Raises TypeError for a method that lacks ``self``.
        """
        name = name or getattr(function, "__qualname__", repr(function)).rpartition("<locals>.")[2]
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            parameters = [
                Parameter("args", Parameter.VAR_POSITIONAL),
                Parameter("kwargs", Parameter.VAR_KEYWORD),
            ]
            skip_self = False
        where = _where(function)
        return cls._of(_without_self(parameters, name, where) if skip_self else parameters, name, where)

    @classmethod
    def of_class(cls, user_class: type) -> Signature:
        """What the class is constructed with."""
        for maker in ("__init__", "__new__"):
            function = getattr(user_class, maker)
            if function is not getattr(object, maker):
                return cls.of(function, skip_self=True, name=user_class.__name__)
        return cls._of([], user_class.__name__, "")

    @classmethod
    def _of(cls, parameters: Sequence[Parameter], name: str, where: str) -> Signature:
        kinds = [parameter.kind for parameter in parameters]
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        keyword_only = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        required = sum(p.default is p.empty for p in positional)
        keyword_required = tuple(p.name for p in keyword_only if p.default is p.empty)
        any_positional = Parameter.VAR_POSITIONAL in kinds
        return cls(
            min_args=_UNBOUNDED if keyword_required else required,
            max_args=_UNBOUNDED if any_positional else len(positional),
            name=name,
            positional=tuple(p.name for p in positional),
            positional_only=kinds.count(Parameter.POSITIONAL_ONLY),
            required=required,
            keyword_only=tuple(p.name for p in keyword_only),
            keyword_required=keyword_required,
            any_positional=any_positional,
            any_keyword=Parameter.VAR_KEYWORD in kinds,
            text=_show(name, parameters) + where,
        )

    def check(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Raise TypeError, as Python would on calling the function, if the arguments do not fit."""
        if len(args) > self.max_args:
            self._too_many(len(args))
        by_position = self.positional[: len(args)]
        for keyword in kwargs:
            self._check_keyword(keyword, by_position)
        missing = [
            name
            for index, name in enumerate(self.positional[: self.required])
            if index >= len(args) and (name not in kwargs or index < self.positional_only)
        ]
        missing += [name for name in self.keyword_required if name not in kwargs]
        if missing:
            self._fail(f"missing {_count(len(missing))} {_list(missing)}")

    def _check_keyword(self, keyword: str, by_position: Collection[str]) -> None:
        known = self.positional[self.positional_only :] + self.keyword_only
        if keyword in known:
            if keyword in by_position:
                self._fail(f"got two values for argument {keyword!r}, one by position and one by name")
        elif not self.any_keyword:
            if keyword in self.positional:
                self._fail(f"takes argument {keyword!r} by position only")
            import difflib

            near = difflib.get_close_matches(keyword, known, n=1)
            self._fail(f"has no argument {keyword!r}" + (f"; did you mean {near[0]!r}?" if near else ""))

    def _too_many(self, given: int) -> NoReturn:
        by_name = f" by position (give {_list(self.keyword_only)} by name)" if self.keyword_only else ""
        least = "" if self.required == self.max_args else f"{self.required} to "
        were = "was" if given == 1 else "were"
        self._fail(f"takes {least}{_count(self.max_args)}{by_name}, but {given} {were} given")

    def _fail(self, problem: str) -> NoReturn:
        raise TypeError(f"{self.name}() {problem} (signature {self.text})")


def _without_self(parameters: list[Parameter], name: str, where: str) -> list[Parameter]:
    takes_position = (
        Parameter.POSITIONAL_ONLY,
        Parameter.POSITIONAL_OR_KEYWORD,
        Parameter.VAR_POSITIONAL,
    )
    if not parameters or parameters[0].kind not in takes_position:
        raise TypeError(f"method {_show(name, parameters)}{where} has no self: add it as the first parameter")
    return parameters if parameters[0].kind is Parameter.VAR_POSITIONAL else parameters[1:]


def _where(function: Callable[..., Any]) -> str:
    """`` at app.py:3``, or nothing where there is no Python code."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return ""
    return f" at {code.co_filename.replace(chr(92), '/').rpartition('/')[2]}:{code.co_firstlineno}"


def _show(name: str, parameters: Sequence[Parameter]) -> str:
    """As in the source, but without annotations, and with long defaults cut."""
    shown = [parameter.replace(annotation=Parameter.empty) for parameter in parameters]
    shown = [p if p.default is p.empty else p.replace(default=_Literal(p.default)) for p in shown]
    return name + str(inspect.Signature(shown, __validate_parameters__=False))


class _Literal:
    """A default value that prints short, whatever its repr does."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        try:
            text = repr(self._value)
        except Exception:  # a user's broken __repr__ must not hide the error being reported
            text = "…"
        return text if len(text) <= _DEFAULT_SHOWN_MAX else text[:_DEFAULT_SHOWN_MAX] + "…"


def _count(number: int) -> str:
    return f"{number} argument" + ("" if number == 1 else "s")


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
