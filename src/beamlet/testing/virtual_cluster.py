"""A cluster of virtual processes, composed of the production classes.

    driver ══ wire ══╗                              ╔══ wire ══ factory ──"fork"──▶ worker
    driver ══ wire ══╬══ head: GCS + raylet ════════╣
    worker ══ wire ══╝                              ╚═ pipes of output (real ones)

The counterparts of ``head/main.py``, ``processes/factory.py``, ``core_worker/worker_main.py`` and
``api/init.py``: they differ from these in what the operating system does, and in nothing that decides.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from beamlet.api import backend
from beamlet.api.driver_place import driver_place
from beamlet.api.generators import ObjectRefGenerator
from beamlet.base.ids import WorkerId, job_id_of_int, make_address, new_node_id
from beamlet.base.resources import from_floats
from beamlet.base.version import VERSION
from beamlet.core_worker.core_worker import Identity
from beamlet.core_worker.driver import DriverCore
from beamlet.core_worker.worker_main import Birth, Worker
from beamlet.gcs.gcs import Gcs
from beamlet.object_store.arena import Arena
from beamlet.object_store.store import ObjectStore
from beamlet.protocol import cluster as cluster_messages
from beamlet.protocol.factory import ChildExited, Forked, ForkWorker, KillWorker, LoadModule
from beamlet.protocol.node import (
    DriverHello,
    JobDescription,
    Notice,
    OutputLines,
    OutputPrinted,
    Refused,
    Welcome,
    WorkerReady,
)
from beamlet.raylet.node_services import NodeConfig
from beamlet.raylet.raylet import Raylet
from beamlet.rpc.connection import Connection, encode_frame
from beamlet.rpc.loopback import loopback
from beamlet.rpc.reactor import Reactor
from beamlet.rpc.turns import Waiter
from beamlet.testing.virtual_process import VirtualProcess, VirtualReactor
from beamlet.testing.virtual_refs import VirtualRef
from beamlet.testing.virtual_wires import End, Kernel, VirtualWire
from beamlet.testing.world import World

_IP = "10.0.0.1"
_GOODBYE_S = 30.0


class VirtualCluster:
    """One node for now: GCS and raylet share a head, as they do in production."""

    def __init__(
        self, world: World, cpus: float = 2, warm_workers: int = 1, arena_bytes: int = 4 << 20
    ) -> None:
        self.world = world
        self.kernel = Kernel()
        self.drivers: list[VirtualDriver] = []
        self.head = VirtualHead(self, cpus, warm_workers, arena_bytes)

    def driver(self, name: str, script: Callable[[VirtualDriver], None]) -> VirtualDriver:
        """A program that joins and runs ``script``; it leaves in order when that returns."""
        driver = VirtualDriver(self, name, script)
        self.drivers.append(driver)
        return driver

    @property
    def workers(self) -> list[VirtualWorker]:
        """Those that live."""
        return [worker for worker in self.head.factory.children.values() if not worker.process.ended]

    def peer_wires(self) -> list[End]:
        """Connections between two living core workers, one end of each."""
        ends = [end for process in self.world.processes for end in process.descriptors.open.values()]
        node = {self.head.process, self.head.factory.process}
        return [
            end
            for end in ends
            if end.name < end.other.name
            and not end.eof
            and not node.intersection(holders := [*end.holders, *end.other.holders])
            and len(holders) == 2
        ]

    def close(self) -> None:
        """End all processes, whatever they do; what goes wrong now is no news."""
        self.world.after_event.clear()
        self.world.failures.clear()
        for process in self.world.processes:
            if not process.ended:
                process.kill()
        self.world.run_for(0.001)
        self.head.clean_up()


class VirtualHead:
    """The head's process, and its factory's."""

    def __init__(self, cluster: VirtualCluster, cpus: float, warm_workers: int, arena_bytes: int) -> None:
        world = cluster.world
        self.cluster = cluster
        self.process = VirtualProcess(world, cluster.kernel, "head")
        self.session_dir = Path(tempfile.mkdtemp(prefix="virtual-session-"))
        (self.session_dir / "logs").mkdir()
        self.arena = Arena.create(arena_bytes)
        self.ended_because = ""
        reactor = self.process.reactor = Reactor(
            poller=self.process.poller, clock=world.now, descriptors=self.process.descriptors
        )
        reactor.containment.on_contained = world.contained
        self.node_id = new_node_id()
        ours, theirs = self.process.descriptors.pair()
        self.factory = VirtualFactory(self, theirs)
        self.gcs = Gcs(reactor, reactor.containment.contain, session_dir=str(self.session_dir), validate=True)
        to_gcs, to_raylet = loopback(reactor, cluster_messages.FromGcs, cluster_messages.ToGcs)
        self.gcs.attach(to_raylet)
        self.config = NodeConfig(
            node_id=self.node_id,
            session_dir=self.session_dir,
            socket_path=str(self.session_dir / "node.sock"),
            resources=from_floats({"CPU": cpus}),
            warm_workers=warm_workers,
            infeasible_grace_s=10.0,
            node_ip=_IP,
            hostname="virtual",
            version=VERSION,
            python=_python(),
        )
        self.store = ObjectStore(arena_bytes, 10.0)
        self.raylet: Raylet

        def build() -> None:
            self.raylet = Raylet(
                reactor, self.config, ours, self.arena, self.store, to_gcs, self._end, VirtualLogs()
            )
            to_gcs.listen(self.raylet.on_gcs_message)
            self.raylet.start()

        self.process.run(build)

    def visit(self, process: VirtualProcess) -> VirtualWire:
        """A connection of ``process`` to this node's socket, already proven."""
        ours, theirs = process.descriptors.pair()
        wire = move(theirs, process, self.process)
        self.process.world.later(
            process.world.latency(), lambda: self.process.run(lambda: self.raylet.on_connection(wire))
        )
        return ours

    def _end(self, reason: str) -> None:
        """Nothing in a simulation ends the cluster while drivers that did not start it live."""
        self.ended_because = self.ended_because or reason
        raise AssertionError(f"the head ends: {reason}")

    def clean_up(self) -> None:
        self.raylet._output.close()
        self.arena.close()
        shutil.rmtree(self.session_dir, ignore_errors=True)


class VirtualLogs:
    """What workers printed, by the name of the log file."""

    def __init__(self) -> None:
        self.files: dict[str, VirtualLog] = {}

    def open(self, name: str, /) -> VirtualLog:
        return self.files.setdefault(name, VirtualLog())


class VirtualLog:
    def __init__(self) -> None:
        self.text = b""
        self.is_closed = False

    def write(self, data: bytes, /) -> None:
        assert not self.is_closed, "written after its end"
        self.text += data

    def close(self) -> None:
        self.is_closed = True


class VirtualFactory:
    """Forks by composing a worker; reaps by listening to its end."""

    def __init__(self, head: VirtualHead, wire: VirtualWire) -> None:
        """``wire``: the head's, to be inherited."""
        self.head = head
        self.process = VirtualProcess(head.cluster.world, head.cluster.kernel, "factory")
        self.children: dict[WorkerId, VirtualWorker] = {}
        self.process.reactor = Reactor(
            poller=self.process.poller,
            clock=self.process.world.now,
            descriptors=self.process.descriptors,
        )
        self.process.reactor.containment.on_contained = self.process.world.failures.append
        self._link = Connection(
            move(wire, head.process, self.process),
            self.process.reactor,
            messages=ForkWorker | KillWorker | LoadModule,
            on_message=self._on_message,
            on_close=lambda _, reason: None,
            label="head",
            carries_fds=True,
        )

    def _on_message(self, link: Connection, message: ForkWorker | KillWorker | LoadModule) -> None:
        if isinstance(message, ForkWorker):
            fds = [link.take_fd() for _ in range(3)]
            worker = VirtualWorker(self.head, message.worker_id, self.process, fds)
            worker.process.on_end = lambda process: self._reap(message.worker_id, process)
            self.children[message.worker_id] = worker
            link.send(Forked(message.worker_id, worker.process.pid))
        elif isinstance(message, LoadModule):
            pass  # every virtual process has every module
        elif (child := self.children.get(message.worker_id)) is not None:
            child.process.world.later(0.0, lambda: child.process.kill(message.signal))

    def _reap(self, worker_id: WorkerId, child: VirtualProcess) -> None:
        def report() -> None:
            del self.children[worker_id]
            self._link.send(ChildExited(worker_id, child.pid, child.exit_code, child.signal, 1 << 20))
            self._link.flush()

        # What it wrote to a Unix socket lies at the other end before its parent can know of its death.
        reported_at = max(child.world.time_s + child.world.latency(), child.last_words_at)
        child.world.at(reported_at, lambda: self.process.run(report))
        # The real kernel closed the worker's pipes: their reader has something to see.
        child.world.later(child.world.latency(), self.head.process.turn_soon)


class VirtualWorker:
    """A worker process: ``Worker`` on a virtual reactor, its main thread a fiber."""

    def __init__(
        self, head: VirtualHead, worker_id: WorkerId, factory: VirtualProcess, fds: list[int]
    ) -> None:
        world = head.cluster.world
        number = len(world.processes)
        self.head = head
        self.process = VirtualProcess(world, head.cluster.kernel, f"worker{number}")
        link = move(factory.descriptors.wire(fds[0]), factory, self.process)
        self._output_fds = fds[1:]
        for fd in fds[1:]:
            self.process.at_end.append(partial(os.close, fd))
        self.worker: Worker | None = None
        self._identity = Identity(
            node_id=head.node_id,
            worker_id=worker_id,
            job_id=job_id_of_int(0),
            namespace="",
            session_dir=str(head.session_dir),
            node_ip=_IP,
            arena_bytes=head.arena.capacity,
        )
        self._link = link
        self.process.start_fiber("main", self._main)

    def _main(self) -> None:
        reactor = VirtualReactor(self.process)
        arena_fd = os.dup(self.head.arena.fd)
        birth = Birth(self._identity, self._link, arena_fd, reactor)
        worker = self.worker = Worker(birth, VirtualRef, ObjectRefGenerator)
        worker.output.stdout._fd, worker.output.stderr._fd = self._output_fds
        core = worker.core
        self.process.at_end.append(core.store.close)
        reactor._on_idle = core._on_idle
        backend.set_current(core)
        core.start()
        with core.lock:
            core.link.send(WorkerReady(self._identity.worker_id, self.process.pid))
        try:
            core.execution.serve(core.work.queue)
        except SystemExit as exit_:
            core.leaving.end_as_asked(exit_)
        self.process.exit(0)


class VirtualDriver:
    """A driver process. ``script(driver)`` runs in its main fiber and uses the public API."""

    def __init__(self, cluster: VirtualCluster, name: str, script: Callable[[VirtualDriver], None]) -> None:
        self.cluster = cluster
        self.process = VirtualProcess(cluster.world, cluster.kernel, name)
        self.core: DriverCore | None = None
        #: The script returned, and with what error.
        self.done = False
        self.lost = ""
        self._script = script
        self.process.start_fiber("main", self._main)

    def _main(self) -> None:
        core = self.core = self._join()
        try:
            self._script(self)
        finally:
            self.done = True
        self._leave(core)

    def _join(self) -> DriverCore:
        world, process = self.cluster.world, self.process
        reactor = VirtualReactor(process)
        hello = self._hello()
        wire = self.cluster.head.visit(process)
        wire.sendall(encode_frame([hello]))
        received: list[Any] = []
        waiter = Waiter()

        def on_message(connection: Connection, message: Any) -> None:
            fds = [connection.take_fd() for _ in range(2)] if isinstance(message, Welcome) else []
            received.append((message, *fds))
            waiter.complete()

        probe = Connection(
            wire.dup(),
            reactor,
            messages=Welcome | Refused,
            on_message=on_message,
            on_close=lambda _, reason: waiter.complete(),
            carries_fds=True,
        )
        reactor.wait(waiter)
        probe.close()
        if not received:
            world.tell(f"{process!r} was not let in")
            process.exit(1)
        welcome, arena_fd, lifeline_fd = received[0]
        identity = Identity(
            node_id=welcome.node_id,
            worker_id=welcome.worker_id,
            job_id=welcome.job_id,
            namespace=welcome.namespace or "default",
            session_dir=welcome.session_dir,
            node_ip=welcome.node_ip,
            arena_bytes=welcome.arena_bytes,
        )
        core = DriverCore(
            identity,
            wire,
            arena_fd,
            VirtualRef,
            ObjectRefGenerator,
            on_raylet_lost=self._raylet_lost,
            on_output=self._show,
            on_notice=self._noticed,
            reactor=reactor,
            lifeline=VirtualLifeline(process, lifeline_fd),
        )
        process.at_end.append(core.store.close)
        address = make_address(identity.node_id, identity.worker_id)
        core.job = JobDescription(
            job_id=welcome.job_id,
            namespace=identity.namespace,
            sys_path=hello.sys_path,
            cwd=hello.cwd,
            script_dir=hello.script_dir,
            env_vars=hello.env_vars,
            strict_arrays=hello.strict_arrays,
            driver=address,
        )
        reactor._on_idle = core._on_idle
        backend.set_current(core)
        core.start()
        world.tell(f"{process!r} joined")
        return core

    def _hello(self) -> DriverHello:
        return DriverHello(
            pid=self.process.pid,
            python=_python() + ".0",
            version=VERSION,
            namespace="default",
            entrypoint=self.process.name,
            sys_path=driver_place().sys_path,
            cwd=driver_place().cwd,
            script_dir=b"",
            env_vars={},
            strict_arrays=False,
            log_to_driver=True,
            owns_cluster=False,
        )

    def _show(self, lines: OutputLines) -> None:
        if lines.token and self.core is not None:
            self.core.link.send(OutputPrinted(lines.token))

    def _noticed(self, notice: Notice) -> None:
        self.cluster.world.tell(f"{self.process!r} was told: {notice!r}")

    def _raylet_lost(self, reason: str) -> None:
        self.lost = reason

    def _leave(self, core: DriverCore) -> None:
        core.store.leave()
        core.say_goodbye()
        deadline = self.cluster.world.now() + _GOODBYE_S
        while not self.lost and self.cluster.world.now() < deadline:
            core.reactor.wait(Waiter(), self.cluster.world.now() + 0.005)
        assert self.lost, f"{self.process!r} said goodbye and was not let go within {_GOODBYE_S:g} s"
        core.shut()
        self.process.exit(0)


class VirtualLifeline:
    """As ``Lifeline``: with its last holder the descriptor closes."""

    def __init__(self, process: VirtualProcess, fd: int) -> None:
        self._process = process
        self._fd = fd

    def __del__(self) -> None:
        if not self._process.ended:
            self._process.descriptors.close(self._fd)


def move(wire: VirtualWire, source: VirtualProcess, target: VirtualProcess) -> VirtualWire:
    """Hand an end from one process to another, as inheritance does."""
    travelling = source.descriptors.send_off(wire.fileno())
    wire.close()
    return target.descriptors.wire(target.descriptors.receive(travelling))


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
