"""The core worker behind the public API: the only process-wide handle, and only ``api/`` reads it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from beamlet.core_worker.core_worker import CoreWorker

_current: CoreWorker | None = None
_auto_init: Callable[[], None] | None = None


def is_connected() -> bool:
    return _current is not None


def current() -> CoreWorker:
    """The backend, starting a local cluster if this is the first use."""
    if _current is None:
        if _auto_init is None:
            importlib.import_module("beamlet.api.init")  # registers the hook
        assert _auto_init is not None
        _auto_init()
    assert _current is not None, "init() sets it, or raises"
    return _current


def current_or_none() -> CoreWorker | None:
    return _current


def set_current(backend: CoreWorker | None) -> None:
    global _current
    _current = backend


def set_auto_init(hook: Callable[[], None]) -> None:
    global _auto_init
    _auto_init = hook
