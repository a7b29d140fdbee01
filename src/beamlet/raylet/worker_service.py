"""The worker pool's shell: forks through the factory, orders to workers, signs of their deaths."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Protocol

from beamlet.base.ids import WorkerId
from beamlet.base.say import say
from beamlet.processes.fork_failure import explain_no_descriptors
from beamlet.processes.oom_kills import OomKills
from beamlet.protocol import factory, node
from beamlet.protocol.message import Message
from beamlet.raylet.members import Line, Member
from beamlet.raylet.node_services import NodeServices
from beamlet.raylet.output_service import OutputService
from beamlet.raylet.worker_record import AskExit, Assign, Exit, Fork, Kill
from beamlet.rpc.descriptors import Wire

FromFactory = (
    factory.Forked | factory.ForkFailed | factory.ChildExited | factory.Preloaded | factory.FactoryFails
)

#: The link is flushed after this many: one sendmsg carries 253 descriptors at most, a fork needs three.
_FORKS_AT_ONCE = 64
#: Kept free for introductions, logs and visitors: a worker that could not be reached is of no use.
_SPARE_DESCRIPTORS = 40

#: Named as text only: the raylet knows nothing of what runs in workers.
FOR_ASYNC_ACTORS = "beamlet.core_worker.executing.async_actor"


def check_room() -> None:
    """Raises OSError when one more worker would leave too few descriptors for what those here need."""
    spares: list[int] = []
    try:
        for _ in range(_SPARE_DESCRIPTORS):
            spares.append(os.dup(2))  # noqa: PERF401  what was made before a failure is closed below
    finally:
        for fd in spares:
            os.close(fd)


class FactoryLine(Protocol):
    """The connection to the factory."""

    def send(self, message: Message, /, *fds: int) -> None: ...
    def flush(self) -> None: ...


class WorkerService:
    """``link_worker(wire)`` makes the connection to a worker that is being forked.

    ``check_room`` raises OSError when there is no room for one more.
    """

    def __init__(
        self,
        services: NodeServices,
        output: OutputService,
        factory_line: FactoryLine,
        link_worker: Callable[[Wire], Line],
        check_room: Callable[[], None] = check_room,
    ) -> None:
        self._node = services
        self._pool = services.pool
        self._members = services.members
        self._output = output
        self._factory = factory_line
        self._link_worker = link_worker
        self._check_room = check_room
        #: Why the factory ends, in its own words.
        self.factory_failed = ""
        self._oom_kills = OomKills()
        self._forks = 0
        self._loaded_for_async = False
        performer = services.performer
        performer.on(Fork, self._fork)
        performer.on(Kill, self._kill)
        performer.on(Assign, self._assign)
        performer.on(AskExit, self._ask_exit)

    # ---- the factory and the workers say ----

    def on_factory(self, message: FromFactory) -> None:
        now = self._node.now()
        match message:
            case factory.Forked():
                self._pool.forked(message.worker_id, message.pid)
                self._output.started(message.worker_id, message.pid)
                if (member := self._members.worker(message.worker_id)) is not None:
                    member.pid = message.pid
            case factory.ForkFailed():
                self._fork_failed(message.worker_id, message.reason)
            case factory.ChildExited():
                exit_code = message.exit_code if message.signal < 0 else None
                signal = message.signal if message.signal >= 0 else None
                oom_kill = signal == 9 and self._oom_kills.another_one(now)
                exit = Exit(exit_code, signal, message.peak_rss_bytes, oom_kill)
                self._node.perform(self._pool.child_exited(message.worker_id, exit, now))
            case factory.Preloaded():
                for module, reason in message.unfit:
                    self._warn(f"{module} was not preloaded, each worker imports it itself: {reason}")
            case factory.FactoryFails():
                self.factory_failed = message.reason

    def ready(self, sender: Member, message: node.WorkerReady) -> None:
        sender.pid = message.pid
        self._output.started(sender.worker_id, message.pid)
        self._node.perform(self._pool.ready(sender.worker_id, message.pid, self._node.now()))

    def _warn(self, text: str) -> None:
        say(text)
        self._members.warn_drivers(text, later_too=True)

    def expect_async_actors(self) -> None:
        """Have the factory load what they need: once for all, instead of 10 ms and 2 MB for each."""
        if not self._loaded_for_async:
            self._loaded_for_async = True
            self._factory.send(factory.LoadModule(FOR_ASYNC_ACTORS))

    def described(self, sender: Member, task_name: str) -> None:
        """It begins a task of that name."""
        self._pool.described(sender.worker_id, task_name)
        self._node.perform(self._output.router.described(sender.worker_id, task_name))

    def link_closed(self, worker: Member, cut_off: str = "") -> None:
        """``cut_off``: why we closed it, if we did."""
        self._node.perform(self._pool.link_closed(worker.worker_id, self._node.now(), cut_off))

    def drained(self, worker: WorkerId) -> None:
        self._node.perform(self._pool.outputs_drained(worker, self._node.now()))

    # ---- effects ----

    def _fork(self, effect: Fork) -> None:
        try:
            ours, theirs = self._node.descriptors.pair()
        except OSError as error:
            self._fork_failed(effect.worker, explain_no_descriptors("its connection", error))
            return
        with contextlib.ExitStack() as passed_on:
            passed_on.callback(theirs.close)
            try:
                self._check_room()
                pipes = self._output.open(effect.worker)
            except OSError as error:
                ours.close()
                self._fork_failed(effect.worker, explain_no_descriptors("its output", error))
                return
            for fd in pipes:
                passed_on.callback(os.close, fd)
            self._members.join(effect.worker, self._link_worker(ours), self._node.now())
            self._factory.send(factory.ForkWorker(effect.worker), theirs.fileno(), *pipes)
        self._forks += 1
        if self._forks % _FORKS_AT_ONCE == 0:
            self._factory.flush()

    def _fork_failed(self, worker: WorkerId, reason: str) -> None:
        if (member := self._members.worker(worker)) is not None:
            member.connection.close()
            self._members.vanish(member)
            self._output.finish(worker)
            self._output.forget(worker)
        self._node.perform(self._pool.fork_failed(worker, reason, self._node.now()))

    def _assign(self, effect: Assign) -> None:
        worker = self._members.worker(effect.worker)
        assert worker is not None, "a worker that was just ready is known"
        worker.job = effect.job
        self._output.assign(effect.worker, effect.job.job_id)
        worker.send(node.AssignJob(effect.job, dict(effect.env)))

    def _kill(self, effect: Kill) -> None:
        if (worker := self._members.worker(effect.worker)) is not None:
            worker.leaving = True
        self._factory.send(factory.KillWorker(effect.worker, effect.signal))

    def _ask_exit(self, effect: AskExit) -> None:
        if (worker := self._members.worker(effect.worker)) is not None:
            worker.send(
                node.ExitWorker(
                    effect.reason, effect.graceful, effect.optional, effect.hurried, effect.job_is_over
                )
            )
