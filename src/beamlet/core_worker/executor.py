"""The core worker of an executor: it runs what others push to it, besides what drivers do."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from beamlet.base.ids import Address, WorkerId, job_id_of_int, make_address, own_task_id
from beamlet.base.invariants import InvariantBroken
from beamlet.core_worker.context import TaskContext
from beamlet.core_worker.core_worker import CoreWorker, Identity
from beamlet.core_worker.executing.actor_process import ActorProcess
from beamlet.core_worker.executing.answers import Answers
from beamlet.core_worker.executing.blocked import BlockedThreads
from beamlet.core_worker.executing.execution import Execution
from beamlet.core_worker.executing.execution_queue import Item
from beamlet.core_worker.executing.in_place import Lending, Uses
from beamlet.core_worker.executing.leaving import Leaving
from beamlet.core_worker.executing.output import Output
from beamlet.core_worker.executing.producers import Producers
from beamlet.core_worker.executing.runner import Runner
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.waiting.blocking import WorkerBlocking
from beamlet.core_worker.waiting.explaining import WorkerExplaining
from beamlet.core_worker.waiting.waits import CallWaits
from beamlet.protocol import gcs, node, peer
from beamlet.rpc.descriptors import Wire
from beamlet.rpc.turns import SharedReactor


class ExecutorCore(CoreWorker):
    """``run(item)`` does one piece of work, ``on_job`` prepares for a job, ``speaker()`` signs output."""

    is_driver = False

    def __init__(
        self,
        identity: Identity,
        sock: Wire,
        arena_fd: int,
        make_ref: Any,
        make_generator: Any,
        *,
        on_raylet_lost: Callable[[str], None],
        run: Callable[[Item], None],
        on_job: Callable[[node.AssignJob], None],
        speaker: Callable[[], str],
        reactor: SharedReactor | None = None,
    ) -> None:
        context = TaskContext(own_task_id(identity.worker_id, job_id_of_int(0)))
        super().__init__(identity, sock, arena_fd, context, make_ref, make_generator, on_raylet_lost, reactor)
        self.output = Output(speaker)
        blocked = BlockedThreads(self.reactor, self.link, self.work)
        waits = self.call_waits = CallWaits(self.reactor, *self.wait_view, self.contexts, self.work)
        explaining = WorkerExplaining(self.reactor, self.link, *self.wait_view, self.work, waits)
        blocking = WorkerBlocking(self.reactor, self.link, explaining, blocked, waits)
        self.compose_waiting(waits, explaining, blocking)
        self.answers = Answers(self.reactor, self.link, self.peers, self.refs, self.releases, self.work)
        self.leaving = Leaving(
            self.reactor, self.link, self.peers, self.answers, self.output, self.task_events, self.leases
        )
        self.releases.on_reply_may_go = self.answers.may_go
        self.producers = Producers(self.reactor, blocking, self.work)
        self.execution = Execution(
            self.reactor, self.link, self.work, self.answers, self.producers, blocked, self, run
        )
        self.uses = Uses(self.link)
        self.runner = Runner(
            reactor=self.reactor,
            node_id=identity.node_id,
            node_ip=identity.node_ip,
            functions=self.functions,
            store=self.store,
            refs=self.refs,
            releases=self.releases,
            work=self.work,
            answers=self.answers,
            peers=self.peers,
            producers=self.producers,
            lending=Lending(self.reactor, self.store, self.uses),
            output=self.output,
            events=self.task_events,
            put=self.put,
        )
        self.actor_process = ActorProcess(
            reactor=self.reactor,
            link=self.link,
            functions=self.functions,
            refs=self.refs,
            releases=self.releases,
            work=self.work,
            execution=self.execution,
            runner=self.runner,
            leaving=self.leaving,
            output=self.output,
            contexts=self.contexts,
        )
        self._take_messages(on_job)
        self.link.on_unsent[gcs.ActorStarted] = _unheard

    def be_born(self, worker_id: WorkerId, link: int) -> None:
        """In a fork of the process that composed this core: be ``worker_id``.

        ``link``: leads to the raylet; ours to close.
        A core that each worker composes costs it the pages of 70 classes and what their constructors call.
        """
        os.set_blocking(link, False)
        os.dup2(link, self.link.connection.fd, inheritable=False)
        os.close(link)
        self.reactor.renew()
        identity = self.identity
        identity.worker_id = self.task_events.worker_id = worker_id
        address = make_address(identity.node_id, worker_id)
        self.address = self.refs.self_address = self.peers.own_address = address
        self.submission.address = self.call_waits.detector.address = address
        self.contexts.base = TaskContext(own_task_id(worker_id, job_id_of_int(0)))

    def _take_messages(self, on_job: Callable[[node.AssignJob], None]) -> None:
        execution, producers = self.execution, self.producers
        self.on_peer_message |= {
            peer.PushTask: execution.task_arrived,
            peer.CallActor: execution.call_arrived,
            peer.StealTasks: execution.steal,
            peer.CancelTask: execution.cancel,
            peer.Consumed: lambda _, message: producers.consumed(message.task_id, message.count),
            peer.StreamDropped: lambda _, message: producers.drop(message.task_id),
        }
        self.on_raylet_message |= {
            node.AssignJob: on_job,
            gcs.StartActor: execution.order_arrived,
            node.ExitWorker: execution.exit_asked,
            node.TellEvents: self._tell_events,
            node.OutputDelivered: lambda message: self.answers.may_go(message.token),
        }

    def _tell_events(self, message: node.TellEvents) -> None:
        """Somebody wants the timeline."""
        self.send_task_events()
        self.link.send(node.EventsTold(message.token))

    def _heard_of(self, dead: Address) -> None:
        self.uses.died(dead)

    def _on_idle(self) -> None:
        super()._on_idle()
        if self.work.loop is not None:
            self.work.loop.watch.look()

    def _peer_gone(self, gone: Peer) -> None:
        super()._peer_gone(gone)
        if not self.is_shut:
            self.execution.peer_gone(gone)


def _unheard(_: gcs.ActorStarted, error: Exception) -> None:
    """Those who call it would wait for ever: what they can learn of is its end."""
    raise InvariantBroken(f"nobody can be told that this actor is ready: {type(error).__name__}: {error}")
