"""What the public API needs of the machinery behind it, and which one is current.

``core_worker.CoreWorker`` fits this interface in drivers and workers; a remote client will too.  This is
the only process-wide handle, and only ``api/`` reads it.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from beamlet.base.ids import ActorId, Address, ObjectId

if TYPE_CHECKING:
    import concurrent.futures


class Backend(Protocol):
    """See core_worker/core_worker.py for what each does."""

    def submit_task(self, template: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...
    def submit_call(self, link: Any, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...
    def get(self, refs: Sequence[Any], timeout_s: float | None) -> list[Any]: ...
    def put(self, value: Any) -> Any: ...
    def wait(
        self, refs: list[Any], num_returns: int, timeout_s: float | None, fetch_local: bool
    ) -> tuple[list[Any], list[Any]]: ...
    def call_site_of(self, object_id: ObjectId) -> str: ...
    def future_of(self, ref: Any) -> concurrent.futures.Future[Any]: ...
    def await_ref(self, ref: Any) -> Awaitable[Any]: ...
    def pin_for_good(self, ref: Any) -> None: ...
    def adopt_ref(self, object_id: ObjectId, owner: Address) -> Any: ...
    def actor_link(self, actor_id: ActorId, name: str) -> Any: ...


_current: Any = None
_auto_init: Callable[[], None] | None = None


def is_connected() -> bool:
    return _current is not None


def current() -> Any:
    """The backend, starting a local cluster if this is the first use."""
    if _current is None:
        if _auto_init is None:
            importlib.import_module("beamlet.api.init")  # registers the hook
        assert _auto_init is not None
        _auto_init()
    return _current


def current_or_none() -> Any:
    return _current


def set_current(backend: Any) -> None:
    global _current
    _current = backend


def set_auto_init(hook: Callable[[], None]) -> None:
    global _auto_init
    _auto_init = hook
