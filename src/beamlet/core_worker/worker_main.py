"""The life of a worker: born by fork, given a job, leased or made an actor, gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import msgspec

from beamlet.base.ids import job_id_of_int, own_task_id
from beamlet.core_worker.context import TaskContext
from beamlet.core_worker.core_worker import CoreWorker, Identity
from beamlet.core_worker.executing.actor_process import ActorProcess, leave_process, shut_hook
from beamlet.core_worker.executing.execution import Execution
from beamlet.core_worker.executing.execution_queue import Item
from beamlet.core_worker.executing.output import Output
from beamlet.core_worker.executing.runner import Runner
from beamlet.core_worker.interrupts import may_raise, send_again
from beamlet.core_worker.waiting.blocking import WorkerBlocking
from beamlet.core_worker.waiting.explaining import WorkerExplaining
from beamlet.core_worker.waiting.waits import CallWaits
from beamlet.processes.forked_child import set_title
from beamlet.protocol.gcs import StartActor
from beamlet.protocol.node import DescribeTask, ExitedOnPurpose, ExitWorker, JobDescription, WorkerReady
from beamlet.protocol.peer import CallActor, PushTask
from beamlet.rpc.descriptors import Wire
from beamlet.rpc.turns import SharedReactor


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
        no_job = own_task_id(birth.identity.worker_id, job_id_of_int(0))
        self.core = CoreWorker(
            birth.identity,
            birth.sock,
            birth.arena_fd,
            TaskContext(no_job),
            make_ref,
            make_generator,
            self._raylet_lost,
            birth.reactor,
        )
        self.output = Output(self._speaker)
        self.execution = self.core.execution = Execution(self.core, self.output)
        self.runner = Runner(self.core, self.execution)
        self.actor = self.core.actor_process = ActorProcess(self.core, self.execution, self.runner)
        self._wait_as_worker()
        self.execution.run = self._run
        self.execution.on_job = self._join_job
        self._title = ""

    def _wait_as_worker(self) -> None:
        """What waits knows what runs here; what owns is told how threads wait, and when an answer may go."""
        core = self.core
        view = (core.peers, core.refs, core.tasks, core.submission, core.actors)
        core.waits = waits = CallWaits(core.reactor, *view, core.contexts, self.execution, self.actor)
        core.explaining = WorkerExplaining(core.reactor, core.link, *view, self.execution, waits)
        core.set_blocking(WorkerBlocking(core.reactor, core.link, core.explaining, self.execution, waits))
        core.releases.on_reply_may_go = self.execution.reply_may_go

    def serve(self) -> None:
        """Until the process ends."""
        self.output.install()
        signal.signal(signal.SIGINT, self._interrupted)
        self.core.start()
        with self.core.lock:
            self.core.link.send(WorkerReady(self.core.identity.worker_id, os.getpid()))
        try:
            self.execution.serve(self.execution.queue)
        except SystemExit as exit_:
            self._exit_of_user(exit_)

    # -- work ------------------------------------------------------------------------------------

    def _run(self, item: Item) -> None:
        sender, message = item
        kind = type(message)
        if kind is CallActor:
            self.actor.run_call(sender, message)
        elif kind is PushTask:
            self._set_title(message.name)
            self.runner.run_task(sender, message)
        elif kind is StartActor:
            self.actor.start(message)
            if message.spec.is_async and self.actor.instance is not None:
                self.actor.async_calls.run_forever()
        elif kind is ExitWorker:
            self._leave(message.reason)

    def _set_title(self, name: str) -> None:
        if name != self._title:
            self._title = name
            set_title(f"beamlet::{name}")
            # Sent at once: if this task kills the process, its certificate should name it.
            with self.core.lock:
                self.core.link.send(DescribeTask(name))
                self.core.reactor.flush()

    def _speaker(self) -> str:
        if self.actor.spec is not None:
            return self.actor.shown_as
        return self.core.context().name or self._title

    def _interrupted(self, signum: int, frame: Any) -> None:
        """SIGINT: only a cancelled task is interrupted; the terminal's Ctrl-C is the driver's affair."""
        for context, thread, _ in list(self.execution.running.values()):
            if context.cancelled and thread == threading.main_thread().ident:
                if may_raise(frame):
                    raise KeyboardInterrupt
                send_again(signum)
                return

    # -- job -------------------------------------------------------------------------------------

    def _join_job(self, job: JobDescription) -> None:
        """See the world as the job's driver does."""
        identity = self.core.identity
        self.core.job = job
        identity.job_id = job.job_id
        identity.namespace = job.namespace
        identity.strict_arrays = job.strict_arrays
        self.core.store.set_strict(job.strict_arrays)
        self.core.contexts.base = TaskContext(own_task_id(identity.worker_id, job.job_id))
        if job.script_dir and job.script_dir not in job.sys_path:
            sys.path[:] = [job.script_dir, *job.sys_path]
        else:
            sys.path[:] = job.sys_path
        if os.path.isdir(job.cwd):
            os.chdir(job.cwd)
        # As Ray does: libraries that start a thread per core in every worker fight each other for the cores.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.update(job.env_vars)

    # -- ends ------------------------------------------------------------------------------------

    def _leave(self, reason: str) -> None:
        with self.core.lock:
            self.core.link.send(ExitedOnPurpose(reason))
            self.core.reactor.flush()
        if self.actor.instance is not None:
            shut_hook(self.actor.instance)
        leave_process(self.execution, 0)

    def _exit_of_user(self, exit_: SystemExit) -> None:
        """User code called sys.exit(): the process ends with that code, and those who wait learn it."""
        code = exit_.code
        if not isinstance(code, int):
            if code is not None:
                print(code, file=sys.stderr)
            code = 0 if code is None else 1
        leave_process(self.execution, code)

    def _raylet_lost(self, reason: str) -> None:
        """The node is gone: nothing of ours may outlive it."""
        os.killpg(0, signal.SIGKILL)
