"""The life of a worker: born by fork, given a job, leased or made an actor, gone."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from beamlet.base.death import NO_THREAD_EXIT
from beamlet.base.environment import expanded, from_wire
from beamlet.base.ids import own_task_id
from beamlet.base.invariants import InvariantBroken
from beamlet.base.resources import UNIT
from beamlet.base.say import say
from beamlet.core_worker import job_logging
from beamlet.core_worker.context import TaskContext
from beamlet.core_worker.core_worker import Identity
from beamlet.core_worker.executing import breakpoints
from beamlet.core_worker.executing.execution_queue import Item, Order, Pushed
from beamlet.core_worker.executor import ExecutorCore
from beamlet.processes import interrupts
from beamlet.processes.forked_child import set_title
from beamlet.protocol.gcs import StartActor
from beamlet.protocol.node import AssignJob, DescribeTask, ExitWorker, WorkerReady
from beamlet.protocol.peer import CallActor, PushTask
from beamlet.rpc.descriptors import Wire
from beamlet.rpc.turns import SharedReactor

if TYPE_CHECKING:
    from beamlet.core_worker.executing.async_actor import AsyncCalls

#: What a worker whose own books are wrong exits with; its last words on stderr say which.
BROKEN_EXIT = 70
OMP_THREADS = "OMP_NUM_THREADS"


class Birth(msgspec.Struct):
    """What all workers of a node are born with, beside what is theirs alone."""

    identity: Identity
    sock: Wire
    arena_fd: int
    #: None: one of its own.
    reactor: SharedReactor | None = None


class Worker:
    """One worker process."""

    def __init__(self, birth: Birth, make_ref: Any, make_generator: Any) -> None:
        self.core = ExecutorCore(
            birth.identity,
            birth.sock,
            birth.arena_fd,
            make_ref,
            make_generator,
            on_raylet_lost=self._raylet_lost,
            run=self._run,
            on_job=self._join_job,
            speaker=self._speaker,
            reactor=birth.reactor,
        )
        self.output = self.core.output
        self.runner = self.core.runner
        self.actor = self.core.actor_process
        self._title = ""
        #: The user has not said how many threads libraries may start.
        self._chooses_threads = False
        #: The resources by which it was chosen.
        self._offered: dict[str, int] | None = None
        self.core.reactor.containment.on_broken = _broken

    def serve(self) -> None:
        """Until the process ends."""
        self.output.install()
        breakpoints.install()
        interrupts.install(self.core.lock, self._is_idle)
        signal.signal(signal.SIGINT, self._interrupted)
        try:
            self.core.start()
        except RuntimeError:  # nothing has begun: the raylet tries again, as if the fork had failed
            raise SystemExit(NO_THREAD_EXIT) from None
        with self.core.lock:
            self.core.link.send(WorkerReady(self.core.identity.worker_id, os.getpid()))
        try:
            self.core.execution.serve(self.core.work.queue)
        except SystemExit as exit_:
            self.core.leaving.end_as_asked(exit_)

    # -- work ------------------------------------------------------------------------------------

    def _run(self, item: Item) -> None:
        sender, message = item
        if sender is None:
            self._follow(message)
        elif type(message) is CallActor:
            self.actor.run_call(sender, message)
        elif type(message) is PushTask:
            if message.name != self._title:
                self._set_title(message.name)
            if message.resources != self._offered:
                self._offer_threads(message.resources)
            self.runner.run_task(sender, message)

    def _follow(self, order: Pushed | Order) -> None:
        if isinstance(order, StartActor):
            self._offer_threads(order.spec.lifetime_resources)
            self.actor.start(order)
            if self.core.work.loop is not None:
                self._serve_loop(self.core.work.loop)
        elif isinstance(order, ExitWorker):
            self._leave(order.reason)

    def _serve_loop(self, loop: AsyncCalls) -> NoReturn:
        """The main thread's life from now on; what was ordered meanwhile is passed on."""
        with self.core.lock:
            while (item := self.core.work.queue.pop()) is not None:
                _, order = item
                assert isinstance(order, Order), "calls come when the actor is known to be alive"
                loop.take_order(order)
        try:
            loop.serve()
        except Exception as error:
            traceback.print_exc()
            # Nobody would run its calls: its death is what their callers can learn of.
            raise SystemExit(f"the event loop of actor {self.actor.shown_as} broke: {error!r}") from error

    def _set_title(self, name: str) -> None:
        self._title = name
        set_title(f"beamlet::{name}")
        self.output.forget_names()
        # Sent at once: if this task kills the process, its certificate should name it, and what C code
        # writes stands under this name.
        with self.core.lock:
            self.core.link.send(DescribeTask(name))
            self.core.reactor.flush()

    def _speaker(self) -> str:
        if self.core.work.spec is not None:
            return self.actor.shown_as
        return self.core.context().name or self._title

    def _interrupted(self, signum: int, frame: Any) -> None:
        """SIGINT: only a cancelled task is interrupted; the terminal's Ctrl-C is the driver's affair."""
        if self.core.work.hears_cancel(threading.main_thread().ident or 0):
            raise KeyboardInterrupt

    def _is_idle(self) -> bool:
        """Whether the main thread runs nothing that users sent, or only what their event loop has put off."""
        main = threading.main_thread().ident
        return all(context.thread != main for context in list(self.core.work.running.values()))

    def _offer_threads(self, resources: dict[str, int] | None) -> None:
        """Let numerical libraries use as many threads as the work has CPUs, as Ray does.

        Those that start a thread per core in every worker fight each other for the cores.
        """
        self._offered = resources
        if self._chooses_threads:
            cpus = resources.get("CPU", 0) // UNIT if resources else 1
            os.environ[OMP_THREADS] = str(max(1, cpus))

    # -- job -------------------------------------------------------------------------------------

    def _join_job(self, assigned: AssignJob) -> None:
        """See the world as the job's driver does, or end: nothing may run that sees only half of it."""
        try:
            self._see_as_driver(assigned)
        except Exception as error:
            raise InvariantBroken(f"it could not join its job: {type(error).__name__}: {error}") from error

    def _see_as_driver(self, assigned: AssignJob) -> None:
        identity = self.core.identity
        job = self.core.job = assigned.job
        self.core.env_vars = assigned.env_vars
        identity.job_id = job.job_id
        identity.namespace = job.namespace
        identity.strict_arrays = job.strict_arrays
        self.core.store.set_strict(job.strict_arrays)
        self.core.contexts.base = TaskContext(own_task_id(identity.worker_id, job.job_id))
        sys_path = job.sys_path
        if job.script_dir and job.script_dir not in sys_path:
            sys_path = [job.script_dir, *sys_path]
        sys.path[:] = map(os.fsdecode, sys_path)
        unentered = _enter(job.cwd)
        job_logging.apply(job.logging, self._logging_facts)
        env_vars = from_wire(job.env_vars | assigned.env_vars)
        os.environ.update(expanded(env_vars, os.environ))
        # No options of the driver's: modules that parse their arguments when imported are as without any.
        sys.argv = [os.fsdecode(job.main_file)]
        if job.as_ray:
            sys.modules["ray"] = sys.modules["beamlet"]
        self._chooses_threads = OMP_THREADS not in os.environ
        self._offer_threads(None)
        if unentered:
            say(unentered, "beamlet")

    def _logging_facts(self) -> dict[str, str]:
        """Where a line is logged, for those who asked for it."""
        core, spec, task = self.core, self.core.work.spec, self.core.context()
        facts = {
            "job_id": core.identity.job_id.hex(),
            "worker_id": core.identity.worker_id.hex(),
            "node_id": core.identity.node_id.hex(),
        }
        if spec is not None:
            facts |= {"actor_id": spec.actor_id.hex(), "actor_name": spec.name or ""}
        if task is not core.contexts.base:
            facts |= {
                "task_id": task.task_id.hex(),
                "task_name": task.name,
                "task_func_name": task.function_name,
            }
        return facts

    # -- ends ------------------------------------------------------------------------------------

    def _leave(self, reason: str) -> None:
        if self.core.work.spec is not None and self.actor.instance is not None:
            self.actor.leave_when_done(reason)
        self.core.leaving.tell(reason)
        self.core.leaving.end(0)

    def _raylet_lost(self, reason: str) -> None:
        """The node is gone: nothing of ours may outlive it."""
        os.killpg(0, signal.SIGKILL)


def _enter(folder: bytes) -> str:
    """Work in the driver's directory; what keeps us from it, if it is there."""
    try:
        os.chdir(folder)
    except FileNotFoundError:
        return ""  # removed under the driver, which knows
    except OSError as error:
        with contextlib.suppress(OSError):
            if os.getcwdb() == folder:
                return ""  # born in it, as the driver was: no better and no worse off
        return (
            f"this worker cannot enter the driver's directory {os.fsdecode(folder)} ({error.strerror}): "
            "relative paths mean something else here. Start the driver in a directory that it may enter."
        )
    return ""


def _broken(_: InvariantBroken) -> NoReturn:
    """Reported already: its last words are in the death certificate."""
    os._exit(BROKEN_EXIT)
