"""Markers of what is meant for whom: names Ray has in ``ray.util.annotations``, which libraries apply."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")

_STABILITIES = ("stable", "beta", "alpha")


class AnnotationType(Enum):
    PUBLIC_API = "PublicAPI"
    DEVELOPER_API = "DeveloperAPI"
    DEPRECATED = "Deprecated"
    UNKNOWN = "Unknown"


class RayDeprecationWarning(DeprecationWarning):
    """Something will go; its text says what to use."""


def PublicAPI(*args: Any, stability: str = "stable", api_group: str = "Others") -> Any:
    """Marks what users may rely on, bare or with arguments. Raises ValueError for an unknown stability."""
    if stability not in _STABILITIES:
        raise ValueError(f"stability must be one of {', '.join(_STABILITIES)}, not {stability!r}")

    def mark(target: T) -> T:
        _mark(target, AnnotationType.PUBLIC_API, api_group)
        return target

    return _bare_or_not(args, mark, "PublicAPI")


def DeveloperAPI(*args: Any, api_group: str = "Others") -> Any:
    """Marks what libraries may use, and what may change between minor releases."""

    def mark(target: T) -> T:
        _mark(target, AnnotationType.DEVELOPER_API, api_group)
        return target

    return _bare_or_not(args, mark, "DeveloperAPI")


def Deprecated(*args: Any, message: str = "", warning: bool = False) -> Any:
    """Marks what will go. warning: say so with a RayDeprecationWarning at every call."""

    def mark(target: Any) -> Any:
        _mark(target, AnnotationType.DEPRECATED, "Others")
        return _warning(target, message) if warning else target

    return _bare_or_not(args, mark, "Deprecated")


def _bare_or_not(args: tuple[Any, ...], mark: Callable[[Any], Any], name: str) -> Any:
    if not args:
        return mark
    if len(args) == 1 and callable(args[0]):
        return mark(args[0])
    raise TypeError(f"@{name} takes keyword arguments only")


def _mark(target: Any, kind: AnnotationType, api_group: str) -> None:
    target._annotated = target.__name__
    target._annotated_type = kind
    target._annotated_api_group = api_group


def _warning(target: Any, message: str) -> Any:
    text = f"{target.__qualname__} is deprecated. {message}".rstrip()
    if inspect.isclass(target):
        original = target.__init__

        @functools.wraps(original)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            warnings.warn(text, RayDeprecationWarning, stacklevel=2)
            original(self, *args, **kwargs)

        setattr(target, "__init__", init)  # noqa: B010 — mypy forbids the plain spelling
        return target

    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        warnings.warn(text, RayDeprecationWarning, stacklevel=2)
        return target(*args, **kwargs)

    return call
