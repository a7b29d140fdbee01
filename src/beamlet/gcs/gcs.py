"""The GCS as a part of the head: gives each message to its table and carries out what the table decides.

No sockets: links to raylets and core workers are callables.  The raylet of the head's own node is called
directly and may call back before it returns; effects therefore queue, and leave in the order they were made.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from beamlet.base.ids import Address, JobId, NodeId, short
from beamlet.gcs.actors import ActorTable
from beamlet.gcs.effects import Effect, ToCoreWorker
from beamlet.gcs.jobs import JobTable
from beamlet.gcs.kv import KvTable
from beamlet.gcs.nodes import NodeTable
from beamlet.gcs.storage import MemoryStorage, Storage
from beamlet.gcs.task_events import TaskEventTable
from beamlet.protocol import cluster, gcs
from beamlet.protocol.message import Message

log = logging.getLogger(__name__)

FromCoreWorker = Callable[[Address, Any, float], list[Effect]]
FromRaylet = Callable[[Any, float], list[Effect]]


class UnexpectedMessage(Exception):
    """Somebody sent the GCS what is not for it."""


class Gcs:
    def __init__(
        self,
        send_to_core_worker: Callable[[Address, Message], None],
        send_to_raylet: Callable[[NodeId, Message], None],
        clock: Callable[[], float],
        *,
        wall_clock: Callable[[], float] = time.time,
        session_dir: str = "",
        storage: Storage | None = None,
        validate: bool = False,
    ) -> None:
        """``clock``: monotonic seconds. ``validate``: check every table's invariants after every message."""
        storage = MemoryStorage() if storage is None else storage
        self._send_to_core_worker = send_to_core_worker
        self._send_to_raylet = send_to_raylet
        self._clock = clock
        self._wall_clock = wall_clock
        self._session_dir = session_dir
        self._validate = validate
        self.kv = KvTable(storage)
        self.jobs = JobTable(storage)
        self.nodes = NodeTable()
        self.actors = ActorTable(lambda spec: self.nodes.node_for(spec.owner), storage, validate=validate)
        self.task_events = TaskEventTable()
        #: Nodes that can be asked for a report on the spot, because they live in this process.
        self._fresh_reports: dict[NodeId, Callable[[], cluster.NodeReport]] = {}
        self._effects: deque[Effect] = deque()
        self._performing = False
        self._on_core_worker = self._core_worker_handlers()
        self._on_raylet = self._raylet_handlers()

    # --- what the head calls ----------------------------------------------------------------------

    def new_job_id(self) -> JobId:
        return self.jobs.new_id()

    def ask_freshly(self, node_id: NodeId, fresh_report: Callable[[], cluster.NodeReport]) -> None:
        """QueryCluster calls ``fresh_report`` instead of trusting the node's last NodeReport."""
        self._fresh_reports[node_id] = fresh_report

    def on_core_worker_message(self, sender: Address, message: Message) -> None:
        handle = self._on_core_worker.get(type(message))
        if handle is None:
            raise _unexpected(message, f"core worker {short(sender)}", self._on_core_worker)
        self._perform(handle(sender, message, self._clock()))

    def on_raylet_message(self, node_id: NodeId, message: Message) -> None:
        handle = self._on_raylet.get(type(message))
        if handle is None:
            raise _unexpected(message, f"raylet {short(node_id)}", self._on_raylet)
        self._perform(handle(message, self._clock()))

    def core_worker_gone(self, message: cluster.CoreWorkerGone) -> None:
        self._perform(self._core_worker_gone(message, self._clock()))

    def node_gone(self, node_id: NodeId, reason: str) -> None:
        """Its connection has closed for good, or it stopped answering."""
        self._fresh_reports.pop(node_id, None)
        if self.nodes.handle_gone(node_id, reason):
            log.warning("node gone node=%s reason=%s", short(node_id), reason)
            self._perform(self.actors.handle_node_gone(node_id, reason, self._clock()))

    def cluster_state(self, req: int) -> gcs.ClusterState:
        for fresh_report in self._fresh_reports.values():
            self.nodes.handle_report(fresh_report())
        reports = self.nodes.reports()
        return gcs.ClusterState(
            req,
            nodes=self.nodes.infos(),
            actors=self.actors.infos(),
            workers=[worker for report in reports for worker in report.workers],
            pending=[demand for report in reports for demand in report.pending],
            store_used=sum(report.store_used for report in reports),
            store_capacity=sum(report.store_capacity for report in reports),
            session_dir=self._session_dir,
        )

    def check_invariants(self) -> None:
        for table in (self.kv, self.jobs, self.nodes, self.actors):
            table.check_invariants()

    # --- which message goes where -----------------------------------------------------------------

    def _core_worker_handlers(self) -> dict[type[Message], FromCoreWorker]:
        kv, actors = self.kv, self.actors
        return {
            gcs.KvPut: _timeless(kv.handle_put),
            gcs.KvGet: _timeless(kv.handle_get),
            gcs.KvDel: _timeless(kv.handle_del),
            gcs.KvKeys: _timeless(kv.handle_keys),
            gcs.CreateActor: actors.handle_create,
            gcs.ActorReady: actors.handle_ready,
            gcs.ActorStarted: actors.handle_started,
            gcs.KillActor: actors.handle_kill,
            gcs.ActorOutOfScope: actors.handle_out_of_scope,
            gcs.SubscribeActor: _timeless(actors.handle_subscribe),
            gcs.FindActor: actors.handle_find,
            gcs.ListNamedActors: _timeless(actors.handle_list),
            gcs.TaskEvents: _timeless(self._task_events),
            gcs.QueryTimeline: _timeless(self.task_events.handle_query),
            gcs.QueryCluster: _timeless(self._query_cluster),
        }

    def _raylet_handlers(self) -> dict[type[Message], FromRaylet]:
        return {
            cluster.NodeJoined: self._node_joined,
            cluster.NodeReport: self._node_report,
            cluster.JobStarted: self._job_started,
            cluster.JobEnded: lambda message, now: self._end_job(message.job_id, now),
            cluster.ActorPlaced: self.actors.handle_placed,
            cluster.ActorUnplaceable: self.actors.handle_unplaceable,
            cluster.CoreWorkerGone: self._core_worker_gone,
        }

    # --- what concerns several tables, or none of their effects -----------------------------------

    def _task_events(self, sender: Address, message: gcs.TaskEvents) -> list[Effect]:
        self.task_events.handle_events(message)
        return []

    def _query_cluster(self, sender: Address, message: gcs.QueryCluster) -> list[Effect]:
        return [ToCoreWorker(sender, self.cluster_state(message.req))]

    def _node_joined(self, message: cluster.NodeJoined, now: float) -> list[Effect]:
        self.nodes.handle_joined(message)
        log.info("node joined node=%s host=%s", short(message.node.node_id), message.node.hostname)
        return self.actors.handle_node_joined(now)

    def _node_report(self, message: cluster.NodeReport, now: float) -> list[Effect]:
        self.nodes.handle_report(message)
        return []

    def _job_started(self, message: cluster.JobStarted, now: float) -> list[Effect]:
        self.jobs.handle_started(message, self._wall_clock())
        log.info("job started job=%s pid=%d", message.job_id.hex(), message.pid)
        return []

    def _core_worker_gone(self, message: cluster.CoreWorkerGone, now: float) -> list[Effect]:
        """A driver's job ends after its actors have: their story then names how the driver died."""
        self.kv.handle_core_worker_gone(message.address)
        effects = self.actors.handle_core_worker_gone(message, now)
        job_id = self.jobs.driven_by(message.address)
        return effects if job_id is None else [*effects, *self._end_job(job_id, now)]

    def _end_job(self, job_id: JobId, now: float) -> list[Effect]:
        if self.jobs.is_running(job_id):
            log.info("job ended job=%s", job_id.hex())
        actors_end = self.actors.handle_job_ended(job_id, now)
        return [*actors_end, *self.jobs.handle_ended(job_id, self.nodes.alive_ids(), self._wall_clock())]

    # --- effects ----------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        if self._validate:
            self.check_invariants()
        self._effects.extend(effects)
        if self._performing:
            return  # whoever performs now, further up the stack, will come to these
        self._performing = True
        try:
            while self._effects:
                self._send(self._effects.popleft())
        finally:
            self._performing = False

    def _send(self, effect: Effect) -> None:
        if isinstance(effect, ToCoreWorker):
            self._send_to_core_worker(effect.address, effect.message)
        elif self.nodes.is_alive(effect.node):  # a node's death was dealt with when it was noticed
            self._send_to_raylet(effect.node, effect.message)


def _timeless(handle: Callable[[Address, Any], list[Effect]]) -> FromCoreWorker:
    return lambda sender, message, now: handle(sender, message)


def _unexpected(message: Message, sender: str, handlers: dict[type[Message], Any]) -> UnexpectedMessage:
    expected = ", ".join(each.__name__ for each in handlers)
    return UnexpectedMessage(
        f"{sender} sent {type(message).__name__} to the GCS, which has no handler for it but for {expected}. "
        "Sender and GCS are probably of different versions of beamlet"
    )
