"""init, shutdown, is_initialized: a driver's way into a cluster and out of it."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

# What a head is started with, and no more: the rest is loaded while the head loads (``_load_the_rest``).
from beamlet.api import backend
from beamlet.api.argument_table import checked as checked_argument
from beamlet.api.head_process import head_options, new_session, start_head
from beamlet.api.head_start import await_head, explain_end, find_session, let_go, stop_head
from beamlet.api.init_options import InitOptions, checked
from beamlet.base.memory_limits import is_want_of_memory, why_no_memory
from beamlet.base.own_code import for_users
from beamlet.processes import interrupts
from beamlet.processes.session import SessionDirectory, find_current, session_root
from beamlet.processes.standard_descriptors import hold_standard_descriptors

if TYPE_CHECKING:
    from beamlet.api.context import ClusterContext
    from beamlet.api.driver import Driver

_driver: Driver | None = None
_lock = threading.RLock()


@for_users
def init(address: str | None = None, **options: Any) -> ClusterContext:
    """Start a local cluster, or join a running one, and make this process its driver.

    address: None (join BEAMLET_ADDRESS / RAY_ADDRESS or a session that ``beamlet start --head`` announced,
    else start one), "local" (always start), "auto" (join or fail), a session's name, directory or socket.
    num_cpus, num_gpus, resources, _memory, object_store_memory (bytes): what the new node offers; detected by
    default.  namespace: scope of actor names.  runtime_env: {"env_vars": {…}} for all workers.
    ignore_reinit_error, log_to_driver, logging_level, compat="ray": see docs/guide.md.  Ray's other arguments
    are accepted.

    Returns a context: ``with init(): …`` shuts down at the end.  Raises RuntimeError when called twice,
    ConnectionError when there is nothing to join, ValueError/TypeError/RuntimeError for bad arguments.

    >>> import beamlet as ray
    >>> context = ray.init(num_cpus=2, ignore_reinit_error=True)
    >>> ray.is_initialized()
    True
    """
    global _driver
    given = checked(address, options, os.environ)
    with _lock:
        if _driver is not None and _driver.is_lost:
            shutdown()
        if _driver is not None:
            return _again(_driver, given)
        if backend.is_connected():
            return _again_in_worker(given)
        hold_standard_descriptors()
        interrupts.install()
        driver = _join_running(given) or _start_new(given)
        _driver = driver
    _install_ends()
    assert driver.context is not None
    return driver.context


def _again(driver: Driver, given: InitOptions) -> ClusterContext:
    assert driver.context is not None
    if given.ignore_reinit_error:
        logging.getLogger("beamlet").info("Calling init() again after it has already been called.")
        return driver.context
    raise RuntimeError(
        "Maybe you called ray.init twice by accident? This process is connected to "
        f"{driver.session.path} already; init(ignore_reinit_error=True) makes the second call harmless, "
        "shutdown() makes room for another cluster."
    )


def _again_in_worker(given: InitOptions) -> ClusterContext:
    """Modules that begin with ``init(ignore_reinit_error=True)`` are imported by workers as well."""
    if not given.ignore_reinit_error:
        raise RuntimeError(
            "init() was called inside a worker: tasks and actors are connected already. "
            "init(ignore_reinit_error=True) makes it harmless."
        )
    from beamlet.api.context import ClusterContext

    identity = backend.current().identity
    return ClusterContext(identity, str(SessionDirectory(Path(identity.session_dir)).socket))


def _join_running(given: InitOptions) -> Driver | None:
    """The driver of an existing session; None: none is meant."""
    address = given.address
    if address in (None, "auto"):
        address = os.environ.get("BEAMLET_ADDRESS") or os.environ.get("RAY_ADDRESS") or address
    if address is None and find_current(session_root()) is not None:
        address = "auto"
    if address is None or address == "local":
        return None
    given.refuse_node_arguments(address)
    session = find_session(address)
    from beamlet.api.driver import Driver

    driver = Driver(session, None, given)
    _join(driver)
    logging.getLogger("beamlet").info("Connected to Beamlet session %s", session.path)
    return driver


def _start_new(given: InitOptions) -> Driver:
    session = new_session()
    try:
        options = head_options(
            session,
            num_cpus=given.num_cpus,
            num_gpus=given.num_gpus,
            resources=given.resources,
            memory=given.memory,
            object_store_memory=given.object_store_memory,
            owned=True,
            infeasible_grace_s=None if given.waits_for_infeasible else given.infeasible_grace_s,
            preload=given.preload,
        )
        head = start_head(session, options)
    except BaseException:
        session.remove()
        raise
    try:
        _load_the_rest()
        from beamlet.api.driver import Driver

        await_head(head)
        driver = Driver(session, head, given)
        _join(driver)
        let_go(head)
    except BaseException as error:
        if isinstance(error, ConnectionError):
            explain_end(head)
        stop_head(head, at_once=True)
        raise
    driver.tell_start(options.resources)
    return driver


def _join(driver: Driver) -> None:
    try:
        driver.join()
    except (MemoryError, OSError, RuntimeError) as error:
        no_thread = isinstance(error, RuntimeError) and "start new thread" in str(error)
        if not (no_thread or is_want_of_memory(error)):
            raise
        from beamlet.exceptions import ProcessMemoryError

        lacking = "may start no further thread (ulimit -u counts them, too)" if no_thread else "has no memory"
        text = f"init(): this process (pid {os.getpid()}) {lacking} for its connection to the cluster."
        raise ProcessMemoryError(f"{text} {why_no_memory()}") from error


def _load_the_rest() -> None:
    """What every program needs next, while the head does the same: it is half of what a start takes."""
    importlib.import_module("beamlet.api.driver")
    importlib.import_module("beamlet.api.remote")
    importlib.import_module("beamlet.api.values")


@for_users
def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:
    """Leave the cluster; one that ``init`` started ends, and leaves no process, socket or shared memory.

    Idempotent.  wait_for_processes: accepted for Ray's sake; it is always so.
    """
    global _driver
    checked_argument("shutdown", "wait_for_processes", wait_for_processes)
    checked_argument("shutdown", "_exiting_interpreter", _exiting_interpreter)
    with _lock:
        driver, _driver = _driver, None
        if driver is None:
            return
        try:
            driver.leave(keeps_arrays=not _exiting_interpreter)
        finally:
            backend.set_current(None)


def is_initialized() -> bool:
    """Whether this process is connected to a cluster."""
    return backend.is_connected()


# -- the process's end ---------------------------------------------------------------------------

_ends_installed = False


def _install_ends() -> None:
    """Leave in order when the interpreter exits or is asked to terminate; never in a forked child."""
    global _ends_installed
    if _ends_installed:
        return
    _ends_installed = True
    atexit.register(shutdown, _exiting_interpreter=True)
    os.register_at_fork(after_in_child=_forget_in_child)
    if threading.current_thread() is threading.main_thread():
        with contextlib.suppress(ValueError):
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, _terminated)


def _terminated(signum: int, frame: FrameType | None) -> None:
    """SIGTERM becomes SystemExit, so that ``finally`` and atexit run."""
    sys.exit(128 + signum)


def _forget_in_child() -> None:
    """A fork of the driver (multiprocessing) is not the driver: it must not speak on its connections."""
    global _driver
    _driver = None


def _auto_init() -> None:
    """The first use of the API starts a local cluster, unless that was switched off."""
    if os.environ.get("BEAMLET_ENABLE_AUTO_CONNECT", os.environ.get("RAY_ENABLE_AUTO_CONNECT", "1")) == "0":
        from beamlet.exceptions import RaySystemError

        raise RaySystemError(
            RuntimeError("Ray has not been started yet. You can start Ray with 'ray.init()'.")
        )
    if sys.is_finalizing():
        # A __del__ of something global. Threads can no longer be started: it would hang, with its cluster.
        raise RuntimeError("the program ends: no cluster is started for what is called now (by a __del__?)")
    with _lock:  # several threads may come here at once: the first connects all
        if not backend.is_connected():
            init()


backend.set_auto_init(_auto_init)


def session_path() -> Path | None:
    """The directory of the session this driver is in."""
    return _driver.session.path if _driver is not None else None


__all__ = ["init", "is_initialized", "session_path", "shutdown"]
