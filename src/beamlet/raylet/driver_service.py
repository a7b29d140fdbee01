"""Drivers: how they join, what becomes of their jobs, how they leave.

DriverHello ──fits──► StartJob ──GCS──► JobStarted ──► Welcome      (an observer has no job: at once)
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from beamlet.base.ids import Address, JobId, WorkerId
from beamlet.object_store.arena import Arena
from beamlet.protocol import cluster, node
from beamlet.raylet.death_service import DeathService
from beamlet.raylet.lifelines import Lifelines
from beamlet.raylet.members import Line, Member, PeerMisuse
from beamlet.raylet.node_services import NodeServices
from beamlet.raylet.output_service import OutputService
from beamlet.raylet.performer import Step
from beamlet.rpc.descriptors import Wire

#: What an observer (the CLI) is told in place of a job.
NO_JOB = JobId(b"\0\0\0\0")


class _Arrival(Struct):
    hello: node.DriverHello
    #: The driver's end of its lifeline.
    lifeline: Wire


class _Leaving(Struct):
    """A driver that said goodbye and waits, by our closing the connection, to hear that all is down."""

    connection: Line
    #: Which processes that concerns; None: the GCS has not ended the job yet.
    doomed: set[WorkerId] | None = None


class DriverService:
    def __init__(
        self,
        services: NodeServices,
        arena: Arena,
        output: OutputService,
        deaths: DeathService,
        lifelines: Lifelines,
    ) -> None:
        self._node = services
        self._config = services.config
        self._arena = arena
        self._output = output
        self._deaths = deaths
        self._lifelines = lifelines
        #: Those who wait for the GCS to give their job an id.
        self._arriving: dict[Address, _Arrival] = {}
        self._leaving: dict[JobId, _Leaving] = {}
        #: Whether anybody ever came who may submit work.
        self.has_joined = False
        self._owner_came = False

    # ---- joining ----

    def hello(self, connection: Line, message: Any) -> None:
        """The first words of a visitor."""
        if not isinstance(message, node.DriverHello):
            raise PeerMisuse(f"the first message must be DriverHello, not {type(message).__name__}")
        if reason := self._misfit(message):
            self._refuse(connection, reason)
            return
        if message.observer:
            self._welcome(self._join(connection, message), NO_JOB, message.namespace)
            return
        try:
            ours, theirs = self._lifelines.pair()
        except OSError as error:
            self._refuse(connection, _no_room(error))
            return
        member = self._join(connection, message)
        self._arriving[member.address] = _Arrival(message, theirs)
        self._lifelines.tie(member.address, ours)
        self.has_joined = True
        self._node.gcs.send(
            cluster.StartJob(member.address, message.pid, message.namespace, message.entrypoint)
        )

    def _refuse(self, connection: Line, reason: str) -> None:
        connection.send(node.Refused(reason))
        connection.flush()
        connection.close()

    def _join(self, connection: Line, message: node.DriverHello) -> Member:
        member = self._node.members.join(self._node.new_id(), connection, self._node.now())
        member.pid, member.is_driver, member.owns_cluster = message.pid, True, message.owns_cluster
        self._owner_came = self._owner_came or message.owns_cluster
        return member

    def _misfit(self, message: node.DriverHello) -> str:
        """Why this driver cannot work with this cluster; "" if it can."""
        if message.owns_cluster and (message.observer or self._owner_came or not self._config.owned):
            return "the cluster was not started by this driver, and does not end with it"
        if reason := self._why_no_room():
            return reason
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

    def _why_no_room(self) -> str:
        """Whether the arena's descriptor can still be passed on."""
        descriptors = self._node.descriptors
        try:
            descriptors.close(descriptors.dup(self._arena.fd))
        except OSError as error:
            return _no_room(error)
        return ""

    def job_started(self, message: cluster.JobStarted) -> None:
        """The GCS: the driver's job has this id. One that left meanwhile is told nothing."""
        arrival = self._arriving.pop(message.driver, None)
        member = self._node.members.get(message.driver)
        if arrival is None or member is None:
            return
        hello = arrival.hello
        description = node.JobDescription(
            job_id=message.job_id,
            namespace=hello.namespace,
            sys_path=hello.sys_path,
            cwd=hello.cwd,
            script_dir=hello.script_dir,
            env_vars=hello.env_vars,
            strict_arrays=hello.strict_arrays,
            driver=member.address,
            log_to_driver=hello.log_to_driver,
            logging=hello.logging,
            main_file=hello.main_file,
            as_ray=hello.as_ray,
        )
        self._node.members.drives(member, description)
        self._node.pool.job_started(message.job_id)
        if hello.log_to_driver:
            self._output.router.listen(message.job_id)
        self._welcome(member, message.job_id, hello.namespace, arrival.lifeline.fileno())
        arrival.lifeline.close()
        self._node.members.tell_warnings(member)

    def _welcome(self, member: Member, job: JobId, namespace: str, *lifeline: int) -> None:
        welcome = node.Welcome(
            job_id=job,
            worker_id=member.worker_id,
            node_id=self._config.node_id,
            namespace=namespace,
            session_dir=str(self._config.session_dir),
            node_ip=self._config.node_ip,
            arena_bytes=self._arena.capacity,
            version=self._config.version,
            python=self._config.python,
        )
        member.connection.send(welcome, self._arena.fd, *lifeline)
        member.connection.flush()  # in a frame of its own: the driver reads it before it has a connection

    # ---- leaving ----

    def goodbye(self, driver: Member) -> None:
        """An orderly end: everything printed so far is passed on, then the job ends."""
        driver.leaving = True
        job = driver.job
        if job is not None:
            self._output.pass_on_all(job.job_id)
            self._leaving[job.job_id] = _Leaving(driver.connection)
        self.gone(driver, "it said goodbye", intended=True)
        if job is None:
            driver.connection.close()

    def gone(self, driver: Member, reason: str, intended: bool = False) -> None:
        """Its job ends: the GCS, told of the death, says so to all nodes."""
        if (arrival := self._arriving.pop(driver.address, None)) is not None:
            arrival.lifeline.close()
        job = driver.job
        steps = [Step("a driver's death", lambda: self._deaths.driver_gone(driver, reason, intended))]
        if job is not None:
            steps.insert(0, Step("the end of its output", lambda: self._output.driver_gone(job.job_id)))
        self._node.perform(steps)

    def end_job(self, job: JobId, outlived: bool) -> None:
        """The GCS: its driver is gone, and all detached actors of it too, unless it is ``outlived``."""
        now = self._node.now()
        leases, pool, perform = self._node.leases, self._node.pool, self._node.perform
        perform(
            [
                Step("a job's last requests", lambda: perform(leases.job_ended(job, outlived, now))),
                Step("the end of a job's workers", lambda: perform(pool.job_ended(job, outlived, now))),
                Step("whom its driver waits for", lambda: self._awaits_the_dying(job)),
                Step("farewells", self.farewells),
            ]
        )

    def _awaits_the_dying(self, job: JobId) -> None:
        if (leaving := self._leaving.get(job)) is not None:
            ours = (each for each in self._node.pool if each.job == job)
            leaving.doomed = {each.worker_id for each in ours if not each.usable}

    def farewells(self) -> None:
        """Let those drivers go whose jobs' processes are all down, but for those that outlive the job."""
        for job, leaving in list(self._leaving.items()):
            doomed = leaving.doomed
            if doomed is not None and not any(self._node.pool.get(worker) for worker in doomed):
                del self._leaving[job]
                leaving.connection.close()

    def last_output(self) -> None:
        """The node ends: what its workers have printed must not end with it."""
        for member in self._node.members:
            if member.is_driver and member.job is not None:
                self._output.pass_on_all(member.job.job_id)
                member.connection.flush()


def _no_room(error: OSError) -> str:
    return (
        f"the cluster's head cannot take in another process: {error.strerror}. It has too many "
        "workers and drivers for its limit of open files (ulimit -n when it was started)."
    )
