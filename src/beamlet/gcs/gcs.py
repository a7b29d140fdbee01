"""The GCS: gives each message to its table and carries out what the table decides.

Raylets reach it through ports (``attach``): in the head a loopback, elsewhere a connection.  Either way a
message is heard in a turn of its own and nothing is returned to its sender, so no table is called while
another decides, and this class does not know which raylet shares its process. A message of a core worker that
a table cannot digest costs that core worker its connection, never the cluster.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from beamlet.base.ids import Address, JobId, NodeId, node_of, short, worker_of
from beamlet.base.roll_call import Answered, Ask, RollCall
from beamlet.gcs.actors import ActorTable
from beamlet.gcs.effects import Effect, Misuse, ToCoreWorker, ToRaylet
from beamlet.gcs.jobs import JobTable
from beamlet.gcs.kv import FUNCTIONS, KvTable
from beamlet.gcs.nodes import NodeTable
from beamlet.gcs.storage import MemoryStorage, Storage
from beamlet.gcs.task_events import TaskEventTable
from beamlet.protocol import cluster, gcs
from beamlet.protocol.message import Message
from beamlet.rpc.alarm import Alarm, Clock

log = logging.getLogger(__name__)

#: How long a node may take to say how it is, and what its workers ran.
REPORT_S = 2.0
#: Questions of one process about the cluster that may wait for their answers.
MOST_QUESTIONS = 256

FromCoreWorker = Callable[[Address, Any, float], list[Effect]]
FromRaylet = Callable[[NodeId, Any, float], list[Effect]]


class Port(Protocol):
    """To one raylet."""

    def listen(self, on_message: Callable[[Any], None]) -> None: ...
    def send(self, message: Message) -> None: ...


class UnexpectedMessage(Exception):
    """Somebody sent the GCS what is not for it."""


class Asker(NamedTuple):
    """Who wants to know, and under which request."""

    address: Address
    req: int


Steps = list[Ask[NodeId] | Answered[NodeId, Asker]]


class Gcs:
    def __init__(
        self,
        clock: Clock,
        contain: Callable[[Exception, str, str], None],
        *,
        wall_clock: Callable[[], float] = time.time,
        session_dir: str = "",
        storage: Storage | None = None,
        validate: bool = False,
    ) -> None:
        """``contain``: is told what went wrong with whose message. ``validate``: check every table's
        invariants after every message."""
        storage = MemoryStorage() if storage is None else storage
        self._clock = clock
        self._contain = contain
        self._wall_clock = wall_clock
        self._session_dir = session_dir
        self._validate = validate
        self._ports: dict[NodeId, Port] = {}
        self.kv = KvTable(storage)
        self.jobs = JobTable(storage)
        self.nodes = NodeTable()
        self.actors = ActorTable(
            lambda spec: self.nodes.node_for(spec.owner),
            storage,
            class_of=self.kv.short_function,
            driver_at=self.jobs.describe_driver,
            validate=validate,
        )
        self.task_events = TaskEventTable()
        #: Jobs whose driver is gone, but not all their detached actors: what they exported is still needed.
        self._outlived: set[JobId] = set()
        self._reports: RollCall[NodeId, Asker] = RollCall(REPORT_S)
        self._timelines: RollCall[NodeId, Asker] = RollCall(REPORT_S)
        self._reports_alarm = Alarm(clock, self._reports_late)
        self._timelines_alarm = Alarm(clock, self._timelines_late)
        self._starts_alarm = Alarm(clock, self._start_due)
        #: Workers that have not told what they ran, in the round under way.
        self._silent = 0
        self._on_core_worker = self._core_worker_handlers()
        self._on_raylet = self._raylet_handlers()

    # --- raylets --------------------------------------------------------------------------------------

    def attach(self, port: Port) -> None:
        """A raylet has come; it must say NodeJoined first."""
        node: list[NodeId] = []

        def heard(message: Message) -> None:
            if isinstance(message, cluster.NodeJoined):
                node[:] = [message.node.node_id]
                self._ports[message.node.node_id] = port
            if not node:
                raise UnexpectedMessage(f"a raylet that has not joined sent {type(message).__name__}")
            self.on_raylet_message(node[0], message)

        port.listen(heard)

    def on_raylet_message(self, node_id: NodeId, message: Message) -> None:
        if isinstance(message, cluster.Forwarded):
            effects = self._forwarded(message)
        elif (handle := self._on_raylet.get(type(message))) is not None:
            effects = handle(node_id, message, self._clock.now())
        else:
            raise UnexpectedMessage(f"raylet {short(node_id)} sent {type(message).__name__} to the GCS")
        if self._outlived:
            effects = [*effects, *self._bury_jobs(self._clock.now())]
        self._perform(effects)
        self._starts_alarm.by(self.actors.pauses.next_end)

    def _start_due(self) -> None:
        self._perform(self.actors.start_due(self._clock.now()))
        self._starts_alarm.by(self.actors.pauses.next_end)

    def node_gone(self, node_id: NodeId, reason: str) -> None:
        """Its connection has closed for good, or it stopped answering."""
        self._ports.pop(node_id, None)
        if self.nodes.handle_gone(node_id, reason):
            log.warning("node gone node=%s reason=%s", short(node_id), reason)
            now, alive = self._clock.now(), self.nodes.alive_ids()
            self._perform(self.actors.handle_node_gone(node_id, reason, now))
            self._starts_alarm.by(self.actors.pauses.next_end)
            self._perform(self._report_steps(self._reports.gone(node_id, alive, now)))
            self._perform(self._timeline_steps(self._timelines.gone(node_id, alive, now)))

    def check_invariants(self) -> None:
        for table in (self.kv, self.jobs, self.nodes, self.actors):
            table.check_invariants()

    # --- which message goes where ---------------------------------------------------------------------

    def _forwarded(self, message: cluster.Forwarded) -> list[Effect]:
        """What a core worker said. Whatever goes wrong with it is between us and that core worker."""
        sender, said = message.sender, message.message
        try:
            if type(said) is gcs.CreateActor:
                return self._create_actor(sender, JobId(message.job), said, message.lasting)
            if type(said) is gcs.TaskEvents:
                return self._task_events(sender, JobId(message.job), said)
            if type(said) is gcs.KvPut and said.namespace == FUNCTIONS:
                return self._export(sender, JobId(message.job), said)
            return self._on_core_worker[type(said)](sender, said, self._clock.now())
        except Exception as error:
            where = f"the GCS handling {type(said).__name__}"
            self._contain(error, where, f"core worker {short(worker_of(sender))}")
            return [Misuse(sender, f"the GCS could not handle its {type(said).__name__}: {error}")]

    def _core_worker_handlers(self) -> dict[type[Message], FromCoreWorker]:
        kv, actors = self.kv, self.actors
        return {
            gcs.KvPut: _timeless(kv.handle_put),
            gcs.KvGet: _timeless(kv.handle_get),
            gcs.KvDel: _timeless(kv.handle_del),
            gcs.KvKeys: _timeless(kv.handle_keys),
            gcs.ActorReady: actors.handle_ready,
            gcs.ActorStarted: actors.handle_started,
            gcs.KillActor: actors.handle_kill,
            gcs.EndActors: actors.handle_program_ends,
            gcs.ActorOutOfScope: actors.handle_out_of_scope,
            gcs.SubscribeActor: _timeless(actors.handle_subscribe),
            gcs.FindActor: actors.handle_find,
            gcs.ListNamedActors: _timeless(actors.handle_list),
            gcs.QueryTimeline: self._query_timeline,
            gcs.QueryCluster: self._query_cluster,
        }

    def _raylet_handlers(self) -> dict[type[Message], FromRaylet]:
        actors = self.actors
        return {
            cluster.NodeJoined: self._node_joined,
            cluster.NodeReport: self._node_report,
            cluster.EventsTold: self._events_told,
            cluster.StartJob: self._start_job,
            cluster.ActorPlaced: lambda _, message, now: actors.handle_placed(message, now),
            cluster.ActorUnplaceable: lambda _, message, now: actors.handle_unplaceable(message, now),
            cluster.CoreWorkerGone: self._core_worker_gone,
        }

    # --- nodes and jobs -------------------------------------------------------------------------------

    def _node_joined(self, node_id: NodeId, message: cluster.NodeJoined, now: float) -> list[Effect]:
        self.nodes.handle_joined(message)
        log.info("node joined node=%s host=%s", short(node_id), message.node.hostname)
        return self.actors.handle_node_joined(now)

    def _start_job(self, node_id: NodeId, message: cluster.StartJob, now: float) -> list[Effect]:
        log.info("job starts driver=%s pid=%d", short(message.driver), message.pid)
        return self.jobs.handle_start(node_id, message, self._wall_clock())

    def _core_worker_gone(self, _: NodeId, message: cluster.CoreWorkerGone, now: float) -> list[Effect]:
        """A driver's job ends after its actors have: their story then names how the driver died."""
        self.kv.handle_core_worker_gone(message.address)
        for calls in (self._reports, self._timelines):
            for asker in [each for each in calls.waiting() if each.address == message.address]:
                calls.forget(asker)
        effects = self.actors.handle_core_worker_gone(message, now)
        job_id = self.jobs.driven_by(message.address)
        return effects if job_id is None else [*effects, *self._end_job(job_id, now)]

    def _end_job(self, job_id: JobId, now: float) -> list[Effect]:
        log.info("job ended job=%s", job_id.hex())
        outlived = self.actors.outlive(job_id)
        actors_end = self.actors.handle_job_ended(job_id, now)
        nodes = self.nodes.alive_ids()
        told = self.jobs.handle_ended(job_id, nodes, self._wall_clock(), outlived)
        if outlived:
            self._outlived.add(job_id)
        else:
            self._forget(job_id)
        return [*actors_end, *told]

    def _is_over(self, job: JobId) -> bool:
        """Its driver is gone, and so are its detached actors: nothing of it is needed any more."""
        return not self.jobs.is_running(job) and job not in self._outlived

    def _bury_jobs(self, now: float) -> list[Effect]:
        """The last that outlived a job has gone: the rest of it ends."""
        effects: list[Effect] = []
        for job in [job for job in self._outlived if not self.actors.outlive(job)]:
            self._outlived.discard(job)
            log.info("what outlived job=%s has ended", job.hex())
            effects += self.actors.handle_job_ended(job, now)
            effects += [ToRaylet(node, cluster.EndJob(job)) for node in self.nodes.alive_ids()]
            self._forget(job)
        return effects

    def _forget(self, job: JobId) -> None:
        self.kv.job_is_over(job)
        self.task_events.job_is_over(job)

    def _create_actor(
        self, sender: Address, job: JobId, message: gcs.CreateActor, lasting: bool
    ) -> list[Effect]:
        goes_on = self.jobs.is_running(job) or (lasting and job in self._outlived)
        if not goes_on:  # a worker of it lives on for what it owns, or is being ended
            return [ToCoreWorker(sender, gcs.ActorRefused(message.req, "its job has ended"))]
        return self.actors.handle_create(sender, message, self._clock.now(), lasting)

    def _export(self, sender: Address, job: JobId, message: gcs.KvPut) -> list[Effect]:
        if self._is_over(job):  # a last word of a process that is being ended
            return [ToCoreWorker(sender, gcs.KvDone(message.req, changed=False))]
        return self.kv.handle_export(sender, job, message)

    # --- what is asked of all nodes -------------------------------------------------------------------

    def _query_cluster(self, sender: Address, message: gcs.QueryCluster, now: float) -> list[Effect]:
        if _asks_too_much(self._reports, sender):
            return [
                Misuse(sender, f"{MOST_QUESTIONS} of its questions about the cluster are not answered yet")
            ]
        asker = Asker(sender, message.req)
        return self._report_steps(self._reports.ask(asker, self.nodes.alive_ids(), now))

    def _node_report(self, node_id: NodeId, message: cluster.NodeReport, now: float) -> list[Effect]:
        self.nodes.handle_report(message)
        return self._report_steps(self._reports.told(node_id, message.round, self.nodes.alive_ids(), now))

    def _report_steps(self, steps: Steps) -> list[Effect]:
        effects: list[Effect] = []
        for step in steps:
            if isinstance(step, Ask):
                effects += [ToRaylet(node, cluster.AskReport(step.round)) for node in step.parties]
            else:
                effects += [ToCoreWorker(who, self.cluster_state(req)) for who, req in step.askers]
        self._reports_alarm.by(self._reports.deadline)
        return effects

    def _reports_late(self) -> None:
        self._perform(self._report_steps(self._reports.tick(self.nodes.alive_ids(), self._clock.now())))

    def cluster_state(self, req: int) -> gcs.ClusterState:
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
            kept=[sentence for report in reports for sentence in report.kept],
        )

    def _task_events(self, sender: Address, job: JobId, message: gcs.TaskEvents) -> list[Effect]:
        if not self._is_over(job):
            self.task_events.handle_events(job, message)
        return []

    def _query_timeline(self, sender: Address, message: gcs.QueryTimeline, now: float) -> list[Effect]:
        if _asks_too_much(self._timelines, sender):
            return [
                Misuse(sender, f"{MOST_QUESTIONS} of its questions for the timeline are not answered yet")
            ]
        asker = Asker(sender, message.req)
        return self._timeline_steps(self._timelines.ask(asker, self.nodes.alive_ids(), now))

    def _events_told(self, node_id: NodeId, message: cluster.EventsTold, now: float) -> list[Effect]:
        self._silent += message.silent
        return self._timeline_steps(self._timelines.told(node_id, message.round, self.nodes.alive_ids(), now))

    def _timeline_steps(self, steps: Steps) -> list[Effect]:
        effects: list[Effect] = []
        for step in steps:
            if isinstance(step, Ask):
                self._silent = 0
                effects += [ToRaylet(node, cluster.AskEvents(step.round)) for node in step.parties]
            else:
                batches, dropped = self.task_events.batches(), self.task_events.dropped
                silent = self._silent + len(step.silent)
                effects += [
                    ToCoreWorker(who, gcs.Timeline(req, batches, dropped, silent)) for who, req in step.askers
                ]
        self._timelines_alarm.by(self._timelines.deadline)
        return effects

    def _timelines_late(self) -> None:
        self._perform(self._timeline_steps(self._timelines.tick(self.nodes.alive_ids(), self._clock.now())))

    # --- effects --------------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        if self._validate:
            self.check_invariants()
        for effect in effects:
            if isinstance(effect, ToRaylet):
                self._send(effect.node, effect.message)
            elif isinstance(effect, ToCoreWorker):
                self._send(node_of(effect.address), cluster.Deliver(effect.address, effect.message))
            else:
                self._send(node_of(effect.address), cluster.Misbehaved(effect.address, effect.reason))

    def _send(self, node_id: NodeId, message: Message) -> None:
        port = self._ports.get(node_id)
        if port is not None:  # a node's death was dealt with when it was noticed
            port.send(message)


def _asks_too_much(calls: RollCall[NodeId, Asker], sender: Address) -> bool:
    waiting = calls.waiting()
    if len(waiting) < MOST_QUESTIONS:
        return False
    return sum(each.address == sender for each in waiting) >= MOST_QUESTIONS


def _timeless(handle: Callable[[Address, Any], list[Effect]]) -> FromCoreWorker:
    return lambda sender, message, now: handle(sender, message)
