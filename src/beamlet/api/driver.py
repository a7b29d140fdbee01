"""A driver's membership of a cluster: joining, the loss of it, leaving.

Loaded when the head has been started, and is loading, too: with all that it needs it is half of a start.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import warnings
from time import monotonic, sleep

from beamlet.api import backend, driver_logging, driver_output
from beamlet.api.advising import advise
from beamlet.api.context import ClusterContext
from beamlet.api.driver_place import driver_place, entrypoint
from beamlet.api.generators import ObjectRefGenerator
from beamlet.api.head_process import StartedHead
from beamlet.api.head_start import FACTORY_ENDS_S, clean_up_after, join, stop_head
from beamlet.api.init_options import InitOptions
from beamlet.api.object_ref import ObjectRef
from beamlet.api.runtime_env import env_vars_of
from beamlet.base.deferring import is_from_handler
from beamlet.base.ids import Address, make_address
from beamlet.base.version import VERSION
from beamlet.core_worker.core_worker import Identity
from beamlet.core_worker.driver import DriverCore
from beamlet.object_store.lifeline import Lifeline
from beamlet.processes import interrupts
from beamlet.processes.fate_sharing import is_stopped
from beamlet.processes.prompt_thread import PromptThread, can_start
from beamlet.processes.session import SessionDirectory
from beamlet.protocol.node import (
    DriverHello,
    JobDescription,
    Notice,
    OutputPrinted,
    Refused,
    Welcome,
)
from beamlet.rpc.connection import encode_frame
from beamlet.rpc.first_frame import receive_first
from beamlet.rpc.framing import FramingError
from beamlet.rpc.limits import HELLO_BYTES
from beamlet.rpc.turns import Waiter

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
        self.core: DriverCore | None = None
        self.context: ClusterContext | None = None
        self._is_leaving = False
        self._left = threading.Event()
        self._shower = driver_output.Shower(self._shown, prefix=options.logging_config is None)

    # -- joining ---------------------------------------------------------------------------------

    def join(self) -> ClusterContext:
        """Connect, introduce ourselves, become the current backend."""
        hello = self._hello()
        frame = encode_frame([hello])
        if len(frame) > HELLO_BYTES:
            raise ValueError(
                f"what the cluster must know of this program takes {len(frame) / (1 << 20):.1f} MiB, and "
                f"{HELLO_BYTES >> 20} are allowed: its env_vars, sys.path and command line are too long"
            )
        sock = join(self.session)
        sock.sendall(frame)
        welcome, arena_fd, lifeline_fd = _await_welcome(sock)
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
            lifeline=Lifeline(lifeline_fd),
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

    def tell_start(self, resources: dict[str, float]) -> None:
        """That there is a cluster now, and where its logs are."""
        driver_logging.tell_start(resources, str(self.session.logs))

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
        if core is None or self._is_leaving:
            return
        text = f"lost the connection to the cluster in {self.session.path}: {reason}"
        self._shower.put(Notice(logging.ERROR, text))  # handlers of logging are code of users: not here
        # Without a thread for it the next start on this machine sweeps what is left (``sweep_dead``).
        can_start(PromptThread(target=self._after_loss, name="beamlet-cleanup", daemon=True))

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

    def leave(self, *, keeps_arrays: bool = True) -> None:
        """Say goodbye, wait until all that was ours is down, close. Bounded.

        keeps_arrays: what the program has read of a cluster that lives on stays as it is.
        """
        self._is_leaving = True
        core = self.core
        in_order = False
        try:
            if core is not None:
                with core.lock:
                    core.link.leave("shutdown() was called in this process")
                is_heard = self._await(core, core.end_actors_in_order(), _CLEAN_UP_S)
                if keeps_arrays and self.head is None:
                    _keep_arrays(core)
                core.store.end_writing(_GOODBYE_S)
                core.store.leave()
                core.say_goodbye()
                if is_heard:
                    self._await(core, None, _GOODBYE_S)
            in_order = True
        finally:  # a signal's handler may end the waits, and nothing else
            if core is not None:
                core.shut()
            self._shower.end(_SHOWN_WITHIN_S)
            if self.head is not None:
                stop_head(self.head, at_once=not in_order or is_stopped(self.head.process.pid))

    def _await(self, core: DriverCore, done: Waiter | None, within_s: float) -> bool:
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


def _keep_arrays(core: DriverCore) -> None:
    """The room that our arrays take becomes others'. Leaving goes on in any case."""
    with core.lock:
        # Forks may read on what only they still have: its pins end with them.
        core.releases.keep_pins()
        core.forked_views.close()
    try:
        core.store.keep_all()
    except OSError as error:
        warnings.warn(
            f"shutdown() could not copy every array that was read from the cluster ({error}): the rest keep "
            "their room in the object store until they are deleted, or this process ends.",
            RuntimeWarning,
            stacklevel=2,
        )


def _await_welcome(sock: socket.socket) -> tuple[Welcome, int, int]:
    """The raylet's answer to our hello, the arena, our lifeline. Raises ConnectionError: why it refused."""
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
    if len(fds) != 2:
        for fd in fds:
            os.close(fd)
        sock.close()
        raise ConnectionError("the object store's memory did not reach this process (too many open files?)")
    return message, fds[0], fds[1]


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
