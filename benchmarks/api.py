"""The part of Ray's API that the workloads use, as types: `ray` and `beamlet` both fit it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast


class Remote(Protocol):
    """A remote function, an actor class or an actor's method."""

    def remote(self, *args: object, **kwargs: object) -> Any: ...

    def options(self, **options: object) -> Remote: ...


class RayApi(Protocol):
    """The module that a workload is given; it never knows which one."""

    __name__: str
    __version__: str

    def init(self, **options: object) -> object: ...

    def shutdown(self) -> None: ...

    def remote(self, target: Callable[..., object]) -> Remote: ...

    def get(self, refs: Any) -> Any: ...

    def put(self, value: object) -> Any: ...

    def wait(self, refs: Sequence[Any]) -> tuple[list[Any], list[Any]]: ...

    def kill(self, actor: object) -> None: ...


def load(name: str) -> RayApi:
    """Import the implementation called `name` (a module name, `ray` or `beamlet`)."""
    return cast(RayApi, importlib.import_module(name))
