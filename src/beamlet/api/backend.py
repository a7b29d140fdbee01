"""The core worker behind the public API: the only process-wide handle, and only ``api/`` reads it.

A fork of a connected process (``os.fork`` in a task, multiprocessing in a driver) shares its sockets, its
epoll and whatever a thread was just writing.  So the fork waits until nobody is in the core worker's books,
and the child lets go of everything before user code goes on.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from beamlet.core_worker.core_worker import CoreWorker

_current: CoreWorker | None = None
_auto_init: Callable[[], None] | None = None
#: Ctrl-C in ``get`` cancels tasks whose results nobody can ask for any more. In drivers, and not as Ray does.
cancels_interrupted = False
#: What this process is a fork of, if its connection stayed with its parent: "driver" or "worker".
_forked_from = ""
_minds_forks = False
#: The core worker whose lock the thread that forks has taken.
_held: CoreWorker | None = None


def is_connected() -> bool:
    return _current is not None


def current() -> CoreWorker:
    """The backend, starting a local cluster if this is the first use. Raises RuntimeError in forks."""
    if _current is None:
        if _forked_from:
            raise RuntimeError(
                f"this process (pid {os.getpid()}) is a fork of a {_forked_from}, whose connection to the "
                "cluster stayed behind. Call the API in the parent, or call beamlet.init() here to join as a "
                "driver of its own."
            )
        if _auto_init is None:
            importlib.import_module("beamlet.api.init")  # registers the hook
        assert _auto_init is not None
        _auto_init()
    assert _current is not None, "init() sets it, or raises"
    return _current


def current_or_none() -> CoreWorker | None:
    return _current


def set_current(backend: CoreWorker | None) -> None:
    global _current, _forked_from, _minds_forks, cancels_interrupted
    _current = backend
    cancels_interrupted = False
    _forked_from = ""
    if not _minds_forks:
        _minds_forks = True
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
        )


def set_auto_init(hook: Callable[[], None]) -> None:
    global _auto_init
    _auto_init = hook


# -- forks ---------------------------------------------------------------------------------------


def _before_fork() -> None:
    global _held
    core = _current
    if core is not None:
        core.lock.acquire()
        _held = core
        try:
            if not core.is_shut:
                core.forked_views.before()
        except OSError as error:  # a fork cannot be refused here
            core.reactor.containment.contain(error, "making sure of arrays that a forked child may read")


def _after_fork_in_parent() -> None:
    global _held
    core, _held = _held, None
    if core is not None:
        try:
            if not core.is_shut:
                core.forked_views.after_in_parent()
        finally:
            core.lock.release()


def _after_fork_in_child() -> None:
    global _current, _forked_from, _held
    core, _held = _held, None
    _current = None
    if core is not None:
        _forked_from = "driver" if core.is_driver else "worker"
        core.forked_views.after_in_child()
        core.abandon()
        core.lock.release()
