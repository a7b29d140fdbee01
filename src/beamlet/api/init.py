"""init, shutdown, is_initialized: a driver's way into a cluster and out of it."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import TYPE_CHECKING, Any

from beamlet.api import backend, driver_logging, driver_output
from beamlet.api.advising import advise
from beamlet.api.argument_table import checked as checked_argument
from beamlet.api.context import ClusterContext
from beamlet.api.driver_place import driver_place, entrypoint
from beamlet.api.head_start import (
    FACTORY_ENDS_S,
    StartedHead,
    await_head,
    clean_up_after,
    find_session,
    head_options,
    join,
    let_go,
    new_session,
    start_head,
    stop_head,
)
from beamlet.api.init_options import InitOptions, checked
from beamlet.api.runtime_env import env_vars_of
from beamlet.base.deferring import is_from_handler
from beamlet.base.ids import Address, make_address
from beamlet.base.own_code import for_users
from beamlet.base.version import VERSION
from beamlet.processes import interrupts
from beamlet.processes.fate_sharing import is_stopped
from beamlet.processes.prompt_thread import PromptThread
from beamlet.processes.session import SessionDirectory, find_current, session_root
from beamlet.processes.standard_descriptors import hold_standard_descriptors
from beamlet.protocol.node import (
    DriverHello,
    Goodbye,
    JobDescription,
    OutputPrinted,
    Refused,
    Welcome,
)
from beamlet.rpc.connection import encode_frame
from beamlet.rpc.first_frame import receive_first
from beamlet.rpc.framing import FramingError
from beamlet.rpc.turns import Waiter

if TYPE_CHECKING:
    from beamlet.core_worker.core_worker import CoreWorker

logger = logging.getLogger("beamlet")
_JOIN_S = 15.0
_GOODBYE_S = 10.0
#: How long clean-up methods of actors may take at the end of the program.
_CLEAN_UP_S = 1.0
#: How long the end waits for who reads our streams.
_SHOWN_WITHIN_S = 10.0
#: A head that does not answer goodbye for so long may be a stopped process.
_STOPPED_S = 1.0


class Driver:
    """This process's membership of a cluster: one at a time."""

    def __init__(self, session: SessionDirectory, head: StartedHead | None, options: InitOptions) -> None:
        self.session = session
        self.head = head
        self.options = options
        self.core: CoreWorker | None = None
        self.context: ClusterContext | None = None
        self._left = threading.Event()
        self._shower = driver_output.Shower(self._shown, prefix=options.logging_config is None)

    # -- joining ---------------------------------------------------------------------------------

    def join(self) -> ClusterContext:
        """Connect, introduce ourselves, become the current backend."""
        from beamlet.api.generators import ObjectRefGenerator
        from beamlet.api.object_ref import ObjectRef
        from beamlet.core_worker.core_worker import Identity
        from beamlet.core_worker.driver import DriverCore

        sock = join(self.session)
        hello = self._hello()
        sock.sendall(encode_frame([hello]))
        welcome, arena_fd = _await_welcome(sock)
        identity = Identity(
            node_id=welcome.node_id,
            worker_id=welcome.worker_id,
            job_id=welcome.job_id,
            namespace=welcome.namespace,
            session_dir=welcome.session_dir,
            node_ip=welcome.node_ip,
            arena_bytes=welcome.arena_bytes,
            strict_arrays=hello.strict_arrays,
        )
        core = self.core = DriverCore(
            identity,
            sock,
            arena_fd,
            ObjectRef,
            ObjectRefGenerator,
            on_raylet_lost=self._lost,
            on_output=self._shower.put,
            on_notice=self._shower.put,
        )
        core.job = _job(hello, welcome, make_address(identity.node_id, identity.worker_id))
        core.runtime_env = dict(self.options.runtime_env)
        driver_logging.apply(hello.logging, identity)
        interrupts.install(core.lock)
        core.start()
        backend.set_current(core)
        backend.cancels_interrupted = self.options.compat != "ray"
        for remark in self.options.remarks():
            logger.warning("%s", remark)
        advise(core, self.options.compat)
        self.context = ClusterContext(identity, str(self.session.socket))
        return self.context

    def _hello(self) -> DriverHello:
        options = self.options
        place = driver_place()
        return DriverHello(
            pid=os.getpid(),
            python=f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}",
            version=VERSION,
            namespace=options.namespace,
            entrypoint=entrypoint(),
            sys_path=place.sys_path,
            cwd=place.cwd,
            script_dir=place.script_dir,
            env_vars=env_vars_of(options.runtime_env, "this job"),
            strict_arrays=options.compat == "ray",
            log_to_driver=options.log_to_driver,
            owns_cluster=self.head is not None,
            main_file=place.main_file,
            as_ray=place.as_ray,
            logging=driver_logging.logging_of(options),
        )

    # -- while joined ----------------------------------------------------------------------------

    def _shown(self, token: int) -> None:
        """The workers' lines up to this mark are printed. In any thread."""
        core = self.core
        if core is not None:
            core.reactor.call_soon_threadsafe(lambda: core.link.send(OutputPrinted(token)))

    def _lost(self, reason: str) -> None:
        """The raylet's connection closed. Under the core worker's lock, in any thread."""
        self._left.set()
        core = self.core
        if core is None or _leaving:
            return
        logger.error("lost the connection to the cluster in %s: %s", self.session.path, reason)
        PromptThread(target=self._after_loss, name="beamlet-cleanup", daemon=True).start()

    def _after_loss(self) -> None:
        """A head that was killed has cleaned up nothing: do it for it, whoever started it."""
        if self.head is not None:
            self.head.process.wait()
            clean_up_after(self.session)
            return
        deadline = monotonic() + FACTORY_ENDS_S
        while self.session.is_alive() and monotonic() < deadline:
            sleep(0.01)  # its connections close some moments before it and its factory are gone
        if not self.session.is_alive():
            clean_up_after(self.session)

    @property
    def is_lost(self) -> bool:
        """The cluster went away before we left it."""
        return self._left.is_set()

    # -- leaving ---------------------------------------------------------------------------------

    def leave(self) -> None:
        """Say goodbye, wait until all that was ours is down, close. Bounded."""
        core = self.core
        in_order = False
        try:
            if core is not None:
                is_heard = self._await(core, core.end_actors_in_order(), _CLEAN_UP_S)
                with core.lock:
                    core.link.leave("shutdown() was called in this process")
                    core.link.send(Goodbye())
                    core.reactor.flush()
                if is_heard:
                    self._await(core, None, _GOODBYE_S)
            in_order = True
        finally:  # a signal's handler may end the waits, and nothing else
            if core is not None:
                core.shut()
            self._shower.end(_SHOWN_WITHIN_S)
            if self.head is not None:
                stop_head(self.head, at_once=not in_order or is_stopped(self.head.process.pid))

    def _await(self, core: CoreWorker, done: Waiter | None, within_s: float) -> bool:
        """Until the head has done what it was asked to, or (None) has ended what was ours.

        False if it cannot: a stopped process never will.
        """
        looked = monotonic()
        deadline = looked + within_s
        while not self._left.is_set() and (done is None or done.remaining > 0):
            now = monotonic()
            if now > deadline or now > looked + _STOPPED_S:
                looked = now
                if self._head_is_stopped():
                    return False
            if now > deadline:
                break
            core.reactor.wait(done or Waiter(), min(deadline, now + 0.005))
        return True

    def _head_is_stopped(self) -> bool:
        info = self.session.info()
        if not info or not is_stopped(info.pid) or not self.session.head_is_here():
            return False
        logger.warning("the head of %s (pid %d) is stopped", self.session.path, info.pid)
        return True


_driver: Driver | None = None
_leaving = False
_lock = threading.RLock()


@for_users
def init(address: str | None = None, **options: Any) -> ClusterContext:
    """Start a local cluster, or join a running one, and make this process its driver.

    address: None (join BEAMLET_ADDRESS / RAY_ADDRESS or a session that ``beamlet start --head`` announced,
    else start one), "local" (always start), "auto" (join or fail), a session's directory.
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
        logger.info("Calling init() again after it has already been called.")
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
    driver = Driver(find_session(address), None, given)
    driver.join()
    logger.info("Connected to Beamlet session %s", driver.session.path)
    return driver


def _start_new(given: InitOptions) -> Driver:
    session = new_session()
    driver: Driver | None = None
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
        await_head(head)
        driver = Driver(session, head, given)
        driver.join()
        let_go(head)
    except BaseException:
        stop_head(head, at_once=True)
        raise
    driver_logging.tell_start(options.resources, str(session.logs))
    return driver


def _load_the_rest() -> None:
    """What every program needs next, while the head does the same: it is half of what a start takes."""
    importlib.import_module("beamlet.core_worker.driver")
    importlib.import_module("beamlet.api.remote")
    importlib.import_module("beamlet.api.values")


@for_users
def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:
    """Leave the cluster; one that ``init`` started ends, and leaves no process, socket or shared memory.

    Idempotent.  wait_for_processes: accepted for Ray's sake; it is always so.
    """
    global _driver, _leaving
    checked_argument("shutdown", "wait_for_processes", wait_for_processes)
    checked_argument("shutdown", "_exiting_interpreter", _exiting_interpreter)
    with _lock:
        driver, _driver = _driver, None
        if driver is None:
            return
        _leaving = True
        try:
            driver.leave()
        finally:
            _leaving = False
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


# -- parts ---------------------------------------------------------------------------------------


def _await_welcome(sock: socket.socket) -> tuple[Welcome, int]:
    """The raylet's answer to our hello. Raises ConnectionError saying why it refused."""
    try:
        message, fds = receive_first(sock, Welcome | Refused, _JOIN_S)
    except TimeoutError as error:
        sock.close()
        if is_from_handler(error):
            raise
        raise ConnectionError(f"the head did not answer within {_JOIN_S:g} s") from None
    except (OSError, FramingError) as error:
        sock.close()
        if is_from_handler(error):
            raise
        raise ConnectionError(f"the cluster refused this driver: {error}") from error
    if isinstance(message, Refused):
        sock.close()
        raise ConnectionError(f"the cluster refused this driver: {message.reason}")
    if len(fds) != 1:
        sock.close()
        raise ConnectionError("the object store's memory did not reach this process (too many open files?)")
    return message, fds[0]


def _job(hello: DriverHello, welcome: Welcome, address: Address) -> JobDescription:
    return JobDescription(
        job_id=welcome.job_id,
        namespace=welcome.namespace,
        sys_path=hello.sys_path,
        cwd=hello.cwd,
        script_dir=hello.script_dir,
        env_vars=hello.env_vars,
        strict_arrays=hello.strict_arrays,
        driver=address,
        log_to_driver=hello.log_to_driver,
        main_file=hello.main_file,
        as_ray=hello.as_ray,
        logging=hello.logging,
    )


def session_path() -> Path | None:
    """The directory of the session this driver is in."""
    return _driver.session.path if _driver is not None else None


__all__ = ["init", "is_initialized", "session_path", "shutdown"]
