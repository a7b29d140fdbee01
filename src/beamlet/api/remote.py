"""``@remote``, on functions and classes, bare and with options."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from beamlet.api.actor import ActorClass
from beamlet.api.option_rules import a_kind, brief
from beamlet.api.remote_function import RemoteFunction
from beamlet.base.own_code import for_users

if TYPE_CHECKING:
    from beamlet.api.remote_call import RemoteItems

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class RemoteDecorator(Protocol):
    """What ``@remote(num_cpus=2)`` is before it meets its function or class."""

    @overload
    def __call__(self, target: type[T], /) -> ActorClass[T]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, Iterator[R]], /) -> RemoteItems[P, Iterator[R]]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, R], /) -> RemoteFunction[P, R]: ...


class RemoteItemsDecorator(Protocol):
    """What ``@remote(num_returns=2)`` is before it meets its function."""

    def __call__(self, target: Callable[P, R], /) -> RemoteItems[P, R]: ...


@overload
def remote(target: type[T], /) -> ActorClass[T]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, Iterator[R]], /) -> RemoteItems[P, Iterator[R]]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, R], /) -> RemoteFunction[P, R]: ...
@overload
def remote(*, num_returns: int | str | None, **options: Any) -> RemoteItemsDecorator: ...
@overload
def remote(**options: Any) -> RemoteDecorator: ...
@for_users
def remote(*args: Any, **options: Any) -> Any:
    """Make a function a task, or a class an actor.

    Bare (``@remote``), with options (``@remote(num_cpus=2)``), or as a call (``remote(f)``).  Options are
    checked here: ValueError for unknown or impossible ones, TypeError for wrong types; AssertionError for
    misuse of the decorator itself; TypeError for something that is neither function nor class.

    >>> import beamlet as ray
    >>> @ray.remote(num_cpus=0.5, name="square")
    ... def f(x: int) -> int:
    ...     return x * x
    >>> ray.get(f.remote(3))
    9
    """
    if len(args) == 1 and not options:
        return _make(args[0], {})
    assert options and not args, (  # noqa: PT018
        "The @ray.remote decorator must be applied either with no arguments and no parentheses, for example "
        "'@ray.remote', or it must be applied using some of the options as keyword arguments, for example "
        "'@ray.remote(num_returns=2, resources={\"CustomResource\": 1})'."
    )
    return for_users(lambda target: _make(target, options))


def _make(target: Any, options: dict[str, Any]) -> Any:
    if str(getattr(target, "__module__", "")).startswith("<"):
        _send_whole(target.__module__)
    if inspect.isclass(target):
        return ActorClass.make(target, options)
    if inspect.isfunction(target) or inspect.isbuiltin(target) or inspect.ismethod(target):
        return RemoteFunction.make(target, options)
    raise TypeError(
        "The @ray.remote decorator must be applied to either a function or a class, not to "
        f"{a_kind(target)}: {brief(target)}."
    )


def _send_whole(module: str) -> None:
    """A script that runpy runs is a module called "<run_path>": workers cannot import what it defines."""
    if module in sys.modules:
        import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[module])
