"""The raylet: one per node. Puts its parts together and gives each message to the part it is for.

    core workers ══ links ══╗                              ╔══ link ══ factory
                            ║  leases   lease_manager ●    ║
                          raylet  workers  worker_pool ●  ═╝
                            ║  output   output_router ●
             GCS ═ calls ═══╝  store    object_store ●
                               introductions, drivers

The ● parts decide, the services beside them (``*_service.py``) carry out, ``Performer`` keeps the order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from beamlet.base.ids import JobId, NodeId, new_worker_id, node_of
from beamlet.base.resources import Amounts
from beamlet.base.say import say
from beamlet.object_store.arena import Arena
from beamlet.object_store.outcomes import StoreMisuse
from beamlet.object_store.store import ObjectStore
from beamlet.protocol import cluster, gcs, node
from beamlet.protocol.message import Message
from beamlet.raylet.alarm import Alarm
from beamlet.raylet.death_service import DeathService
from beamlet.raylet.driver_service import DriverService
from beamlet.raylet.introductions import Introductions
from beamlet.raylet.lease_manager import LeaseManager
from beamlet.raylet.lease_service import LeaseService
from beamlet.raylet.members import (
    FromCoreWorker,
    Member,
    Members,
    PeerMisuse,
    check_amounts,
)
from beamlet.raylet.output_service import Logs, OutputService
from beamlet.raylet.performer import Performer
from beamlet.raylet.resource_ledger import ResourceLedger
from beamlet.raylet.store_service import StoreService
from beamlet.raylet.worker_pool import MAX_STARTING, WorkerPool
from beamlet.raylet.worker_service import FromFactory, WorkerService
from beamlet.rpc.connection import Connection, Limits
from beamlet.rpc.descriptors import Wire
from beamlet.rpc.framing import FrameBudget
from beamlet.rpc.reactor import Reactor

#: The level's number in logging, a module that the head does without.
_WARNING = 30


#: How long a proven visitor may take for its first words, and how long these may be.
_HELLO_S = 10.0
_HELLO_BYTES = 4 << 20
#: What the unfinished messages of all core workers may take together.
_UNFINISHED_BYTES = 256 << 20
#: A core worker that leaves so many bytes of answers unread is not read from; after so many it is cut off.
_DEAF_BYTES = 16 << 20
_UNREAD_BYTES = 256 << 20


class NodeConfig(Struct, frozen=True):
    node_id: NodeId
    session_dir: Path
    socket_path: str
    #: What the node offers, in 1/10 000.
    resources: Amounts
    #: Workers started before anyone asks, and idle ones kept while a job is active.
    warm_workers: int
    #: Seconds an infeasible request waits before it is refused; None: for ever.
    infeasible_grace_s: float | None
    node_ip: str
    hostname: str
    version: str
    #: "3.11": drivers must run the same, for pickles to fit.
    python: str


class GcsPort(Protocol):
    """What the raylet needs of the GCS."""

    def new_job_id(self) -> JobId: ...
    def on_core_worker_message(self, sender: Any, message: Message) -> None: ...
    def on_raylet_message(self, node_id: NodeId, message: Message) -> None: ...


class Raylet:
    """``on_end(reason)`` is called when the cluster should end: its owner left, or the factory died."""

    def __init__(
        self,
        reactor: Reactor,
        config: NodeConfig,
        factory_socket: Wire,
        arena: Arena,
        store: ObjectStore,
        gcs_port: GcsPort,
        on_end: Callable[[str], None],
        logs: Logs,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._limits = Limits(
            frame_bytes=_HELLO_BYTES,
            budget=FrameBudget(_UNFINISHED_BYTES),
            deaf_bytes=_DEAF_BYTES,
            most_bytes=_UNREAD_BYTES,
        )
        self._gcs = gcs_port
        self._on_end = on_end
        self._ending = False
        #: The driver that started the cluster said goodbye.
        self.owner_left = False
        self._members = Members(config.node_id)
        performer = self._performer = Performer(self._rearm)
        ledger = ResourceLedger(config.resources)
        self._manager = LeaseManager(config.node_id, ledger, config.infeasible_grace_s, config.socket_path)
        self._pool = WorkerPool(config.node_id, config.warm_workers, new_worker_id)
        self._lease_alarm = Alarm(reactor, self._tick_leases)
        self._pool_alarm = Alarm(reactor, self._tick_pool)
        factory_link = Connection(
            factory_socket,
            reactor,
            messages=FromFactory,
            on_message=lambda _, message: self._workers.on_factory(message),
            on_close=self._factory_gone,
            label="the factory",
            # There is one, and no node without it: an error costs the message that led to it.
            indispensable=True,
        )
        self._factory_link = factory_link
        introductions = Introductions(self._members, reactor.descriptors)
        self._introductions = introductions
        self._output = OutputService(logs, self._members, performer, reactor, self._drained)
        self._store = StoreService(store, arena, self._members, performer, reactor)
        self._leases = LeaseService(
            self._manager, self._pool, self._members, introductions, performer, self._tell_gcs
        )
        self._workers = WorkerService(
            self._pool, self._members, self._output, performer, factory_link, self._link
        )
        deaths = DeathService(
            config.node_id,
            self._manager,
            self._pool,
            self._members,
            introductions,
            self._output,
            self._store,
            performer,
            self._mourned,
        )
        self._drivers = DriverService(
            config, arena, self._members, self._pool, self._manager, self._workers, self._output, deaths,
            performer, gcs_port,
        )  # fmt: skip
        self._handlers = self._message_handlers()

    # ---- from the composition root ----

    def start(self) -> None:
        """Join the cluster and fork the first workers."""
        self._tell_gcs(cluster.NodeJoined(self.info()))
        # A machine of 200 CPUs does not need 200 processes before anybody asked for one.
        count = min(self._config.warm_workers, MAX_STARTING)
        self._performer.perform(self._pool.prestart(count, time.monotonic()))

    def on_connection(self, sock: Wire) -> None:
        """A visitor that has proven the session's secret; it must say DriverHello first."""
        visitor = self._link(sock)

        def show_out() -> None:
            if visitor.context is None:
                visitor.fail(f"it said nothing within {_HELLO_S:g} s")

        self._reactor.call_later(_HELLO_S, show_out)

    def on_gcs_message(self, message: Message) -> None:
        match message:
            case cluster.PlaceActor():
                self._leases.place(message)
            case cluster.CancelPlacement():
                self._leases.cancel_placement(message)
            case cluster.StopActor():
                self._leases.stop_actor(message)
            case cluster.EndJob():
                self._drivers.end_job(message.job_id)
            case _:
                raise TypeError(f"the GCS sent a raylet {type(message).__name__}")

    def to_core_worker(self, address: Any, message: Message) -> None:
        """Pass on what the GCS says to one of our core workers; if it is gone, nobody misses it."""
        assert node_of(address) == self._config.node_id, "the GCS knows which node an address is on"
        if (member := self._members.get(address)) is not None:
            member.send(message)

    @property
    def driver_has_joined(self) -> bool:
        return self._drivers.has_joined

    @property
    def has_drivers(self) -> bool:
        return any(member.is_driver and member.job is not None for member in self._members)

    def report(self) -> cluster.NodeReport:
        """What there is, who runs, who waits: for QueryCluster."""
        now = time.monotonic()
        workers = [
            gcs.WorkerInfo(w.worker_id, w.pid, w.state.value, self._name_of(w.worker_id), now - w.since)
            for w in self._pool
        ]
        usage = self._store.usage()
        demand = self._manager.demand()
        return cluster.NodeReport(self.info(), workers, demand, usage.used_bytes, usage.capacity_bytes)

    def info(self) -> gcs.NodeInfo:
        view = self._manager.view[self._config.node_id]
        return gcs.NodeInfo(
            node_id=self._config.node_id,
            alive=True,
            ip=self._config.node_ip,
            hostname=self._config.hostname,
            socket_path=self._config.socket_path,
            total=dict(view.total),
            available={name: max(0, units) for name, units in view.available.items()},
            labels=dict(view.labels),
        )

    def warn_drivers(self, text: str) -> None:
        """Say it in the head's log and, through their logging, to all drivers here."""
        say(text)
        for member in self._members:
            if member.is_driver:
                member.send(node.Notice(_WARNING, text))

    def close(self) -> None:
        """Let the factory end all workers, and stop listening to anyone. Drivers see us leave last."""
        self._ending = True
        self._lease_alarm.cancel()
        self._pool_alarm.cancel()
        self._store.close()
        self._drivers.last_output()
        self._factory_link.close()
        self._output.close()

    # ---- core workers ----

    def _link(self, sock: Wire) -> Connection:
        return Connection(
            sock,
            self._reactor,
            messages=FromCoreWorker,
            on_message=self._on_message,
            on_close=self._on_close,
            label="a visitor",
            limits=self._limits,
        )

    def _on_message(self, connection: Connection, message: Any) -> None:
        member: Member | None = connection.context
        if member is not None and member.leaving:
            return
        try:
            if member is None:
                self._drivers.hello(connection, message)
            elif (handler := self._handlers.get(type(message))) is not None:
                handler(member, message)
            else:
                _check_sizes(message)
                self._gcs.on_core_worker_message(member.address, message)
        except (PeerMisuse, StoreMisuse) as error:
            pid = member.pid if member is not None else 0
            say(f"closed the connection of process {pid}: {error}")
            connection.close()
            self._on_close(connection, str(error))

    def _on_close(self, connection: Connection, reason: str) -> None:
        member: Member | None = connection.context
        if member is None or self._ending or self._members.get(member.address) is not member:
            return
        if member.is_driver:
            self._drivers.gone(member, reason)
            if member.owns_cluster:
                self._on_end(f"the driver (pid {member.pid}) that started the cluster is gone: {reason}")
        else:
            self._workers.link_closed(member)

    def _message_handlers(self) -> dict[type, Callable[[Member, Any], None]]:
        leases, store, pool = self._leases, self._store, self._pool
        return {
            node.DriverHello: _said_hello_twice,
            node.WorkerReady: self._workers.ready,
            node.RequestLease: leases.request,
            node.CancelLeaseRequest: leases.cancel,
            node.ReturnLease: leases.give_back,
            node.ForceCancel: leases.force_cancel,
            node.Blocked: lambda sender, _: leases.blocked(sender),
            node.Unblocked: lambda sender, _: leases.unblocked(sender),
            node.WhyPending: leases.why,
            node.ConnectPeer: self._introductions.connect,
            node.CreateObject: store.create,
            node.SealObject: store.seal,
            node.AbortObject: store.abort,
            node.PinObject: store.pin,
            node.UnpinObject: store.unpin,
            node.DeleteObjects: store.delete,
            node.OutputMark: lambda sender, message: self._output.mark(sender.worker_id, message.token),
            node.OutputPrinted: lambda _, message: self._output.printed(message.token),
            node.Staying: lambda sender, _: self._performer.perform(
                pool.stays(sender.worker_id, time.monotonic())
            ),
            node.ExitedOnPurpose: lambda sender, _: pool.leaves_on_purpose(sender.worker_id),
            node.DescribeTask: lambda sender, message: pool.described(sender.worker_id, message.name),
            node.Goodbye: lambda sender, _: self._goodbye(sender),
        }

    def _goodbye(self, sender: Member) -> None:
        if not sender.is_driver:
            raise PeerMisuse("only a driver says Goodbye")
        self._drivers.goodbye(sender)
        if sender.owns_cluster:
            self.owner_left = True
            self._on_end(f"its driver (pid {sender.pid}) said goodbye")

    # ---- the rest ----

    def _tell_gcs(self, message: Message) -> None:
        self._gcs.on_raylet_message(self._config.node_id, message)

    def _drained(self, worker: Any) -> None:
        self._workers.drained(worker)

    def _mourned(self, message: cluster.CoreWorkerGone) -> None:
        if message.actor_id:
            self._leases.forget_actor(message.actor_id, message.incarnation)  # type: ignore[arg-type]
        self._tell_gcs(message)
        self._drivers.farewells()

    def _factory_gone(self, _: Connection, reason: str) -> None:
        if self._ending:
            return
        text = f"the factory, which forks this node's workers, has died ({reason}): the cluster ends"
        for member in self._members:
            if member.is_driver:
                member.send(node.Notice(40, text))
                member.connection.flush()
        self._on_end(text)

    def _name_of(self, worker: Any) -> str:
        request = self._manager.holder_of(worker)
        return request.name if request is not None else ""

    def _rearm(self) -> None:
        """After decisions were carried out: look again when they say so."""
        if not self._ending:
            self._lease_alarm.by(self._manager.next_wake(time.monotonic()))
            self._pool_alarm.by(self._pool.next_wake())

    def _tick_leases(self) -> None:
        self._performer.perform(self._manager.tick(time.monotonic()))

    def _tick_pool(self) -> None:
        self._performer.perform(self._pool.tick(time.monotonic()))


def _said_hello_twice(sender: Member, _: Message) -> None:
    raise PeerMisuse("DriverHello is a driver's first message, and no other")


def _check_sizes(message: Message) -> None:
    if isinstance(message, gcs.CreateActor | gcs.ActorReady):
        spec = message.spec
        check_amounts(spec.class_name, spec.placement_resources, spec.lifetime_resources)
