"""Drivers: how they join, what becomes of their jobs, how they leave."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from beamlet.base.ids import JobId, make_address, new_worker_id
from beamlet.object_store.arena import Arena
from beamlet.protocol import cluster, node
from beamlet.raylet.death_service import DeathService
from beamlet.raylet.lease_manager import LeaseManager
from beamlet.raylet.members import Member, Members, PeerMisuse
from beamlet.raylet.output_service import OutputService
from beamlet.raylet.performer import Performer
from beamlet.raylet.worker_pool import WorkerPool
from beamlet.raylet.worker_service import WorkerService
from beamlet.rpc.connection import Connection

if TYPE_CHECKING:
    from beamlet.raylet.raylet import GcsPort, NodeConfig

#: What an observer (the CLI) is told in place of a job.
NO_JOB = JobId(b"\0\0\0\0")


class DriverService:
    def __init__(
        self,
        config: NodeConfig,
        arena: Arena,
        members: Members,
        pool: WorkerPool,
        manager: LeaseManager,
        workers: WorkerService,
        output: OutputService,
        deaths: DeathService,
        performer: Performer,
        gcs: GcsPort,
    ) -> None:
        self._config = config
        self._arena = arena
        self._members = members
        self._pool = pool
        self._manager = manager
        self._workers = workers
        self._output = output
        self._deaths = deaths
        self._performer = performer
        self._gcs = gcs
        #: Drivers that said goodbye and wait, by our closing the connection, to hear that all is down.
        self._leaving: dict[JobId, Connection] = {}
        #: Whether anybody ever came who may submit work.
        self.has_joined = False

    # ---- joining ----

    def hello(self, connection: Connection, message: Any) -> None:
        """The first words of a visitor."""
        if not isinstance(message, node.DriverHello):
            raise PeerMisuse(f"the first message must be DriverHello, not {type(message).__name__}")
        if reason := self._misfit(message):
            connection.send(node.Refused(reason))
            connection.flush()
            connection.close()
            return
        member = self._members.join(new_worker_id(), connection, time.monotonic())
        member.pid, member.is_driver, member.owns_cluster = message.pid, True, message.owns_cluster
        job = NO_JOB if message.observer else self._start_job(member, message)
        welcome = node.Welcome(
            job_id=job,
            worker_id=member.worker_id,
            node_id=self._config.node_id,
            namespace=message.namespace,
            session_dir=str(self._config.session_dir),
            node_ip=self._config.node_ip,
            arena_bytes=self._arena.capacity,
            version=self._config.version,
            python=self._config.python,
        )
        member.send_with_fd(welcome, self._arena.fd)

    def _misfit(self, message: node.DriverHello) -> str:
        """Why this driver cannot work with this cluster; "" if it can."""
        if message.observer:
            return ""
        ours, theirs = self._config.python, ".".join(message.python.split(".")[:2])
        if theirs != ours:
            return (
                f"this cluster runs Python {ours}, the driver Python {theirs}: functions pickled by one "
                f"do not load in the other. Start the driver with Python {ours} or the cluster with {theirs}."
            )
        if message.version != self._config.version:
            return (
                f"this cluster runs beamlet {self._config.version}, the driver beamlet {message.version}: "
                "install the same version for both, or restart the cluster."
            )
        return ""

    def _start_job(self, member: Member, message: node.DriverHello) -> JobId:
        self.has_joined = True
        job = self._gcs.new_job_id()
        description = node.JobDescription(
            job_id=job,
            namespace=message.namespace,
            sys_path=message.sys_path,
            cwd=message.cwd,
            script_dir=message.script_dir,
            env_vars=message.env_vars,
            strict_arrays=message.strict_arrays,
            driver=member.address,
            log_to_driver=message.log_to_driver,
            logging_level=message.logging_level,
            main_file=message.main_file,
        )
        self._members.drives(member, description)
        self._pool.job_started(job)
        if message.log_to_driver:
            self._output.router.listen(job)
        started = cluster.JobStarted(job, member.address, message.pid, message.namespace, message.entrypoint)
        self._gcs.on_raylet_message(self._config.node_id, started)
        return job

    # ---- leaving ----

    def goodbye(self, driver: Member) -> None:
        """An orderly end: everything printed so far is passed on, then the job ends."""
        driver.leaving = True
        if driver.job is not None:
            self._output.pass_on_all(driver.job.job_id)
            self._leaving[driver.job.job_id] = driver.connection
        self.gone(driver, "it said goodbye")
        if driver.job is None:
            driver.connection.close()

    def gone(self, driver: Member, reason: str) -> None:
        if driver.job is not None:
            self._output.driver_gone(driver.job.job_id)
        self._deaths.driver_gone(driver, reason, intended=driver.leaving)
        if driver.job is not None:
            self._gcs.on_raylet_message(self._config.node_id, cluster.JobEnded(driver.job.job_id))

    def end_job(self, job: JobId) -> None:
        """The GCS: its driver is gone. Detached actors stay, and those who work for them."""
        now = time.monotonic()
        detached = [each.worker_id for each in self._pool if each.job == job and each.detached]
        spared = self._manager.survivors(detached)
        addresses = {make_address(self._config.node_id, worker) for worker in spared}
        self._performer.perform(self._manager.job_ended(job, addresses, now))
        self._performer.perform(self._pool.job_ended(job, spared, now))
        self.farewells()

    def farewells(self) -> None:
        """Let those drivers go whose jobs' processes are all down."""
        for job, connection in list(self._leaving.items()):
            if not any(each.job == job and not each.detached for each in self._pool):
                del self._leaving[job]
                connection.close()

    def last_output(self) -> None:
        """The node ends: what its workers have printed must not end with it."""
        for member in self._members:
            if member.is_driver and member.job is not None:
                self._output.pass_on_all(member.job.job_id)
                member.connection.flush()
