"""The raylet: one per node. Puts its parts together and gives each message to the part it is for.

    core workers ══ links ══╗                              ╔══ link ══ factory
                            ║  leases   lease_manager ●    ║
                          raylet  workers  worker_pool ●  ═╝
                            ║  output   output_router ●
             GCS ═ port ════╝  store    object_store ●
                               introductions, drivers

The ● parts decide, the services beside them (``*_service.py``) carry out, ``Performer`` keeps the order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beamlet.base.ids import ActorId
from beamlet.base.resources import OBJECT_STORE_MEMORY, UNIT
from beamlet.base.say import say
from beamlet.object_store.arena import Arena
from beamlet.object_store.lifecycle import Usage
from beamlet.object_store.outcomes import StoreMisuse
from beamlet.object_store.store import ObjectStore
from beamlet.protocol import cluster, gcs, node
from beamlet.protocol.message import Message
from beamlet.raylet.death_service import DeathService
from beamlet.raylet.deliveries import Deliveries
from beamlet.raylet.driver_service import DriverService
from beamlet.raylet.event_service import EventService
from beamlet.raylet.lease_service import LeaseService
from beamlet.raylet.lifelines import Lifelines
from beamlet.raylet.members import FromCoreWorker, Line, Member, PeerMisuse, is_still_heard
from beamlet.raylet.node_services import GcsPort, NodeConfig, NodeServices
from beamlet.raylet.output_service import Logs, OutputService
from beamlet.raylet.performer import Performer
from beamlet.raylet.permissions import check
from beamlet.raylet.store_service import StoreService
from beamlet.raylet.worker_pool import MAX_STARTING
from beamlet.raylet.worker_service import FromFactory, WorkerService
from beamlet.rpc.alarm import Alarm
from beamlet.rpc.connection import Connection, Limits
from beamlet.rpc.descriptors import Wire
from beamlet.rpc.ends import was_cut_off
from beamlet.rpc.frame_budget import LOOK_S, FrameBudget
from beamlet.rpc.limits import HELLO_BYTES
from beamlet.rpc.reactor import Reactor

#: How long a proven visitor may take for its first words.
_HELLO_S = 10.0
#: What the unfinished messages of all core workers may take together: two of the largest functions, and a
#: quarter of it for messages of a few MiB.
_UNFINISHED_BYTES = 256 << 20
#: A core worker that leaves so many bytes of answers unread is not read from, and large answers to it wait;
#: after so many it is cut off.
_DEAF_BYTES = 16 << 20
_UNREAD_BYTES = 256 << 20


class Raylet:
    """``on_end(reason)`` is called when the cluster should end: its owner left, or the factory died."""

    def __init__(
        self,
        reactor: Reactor,
        config: NodeConfig,
        factory_socket: Wire,
        arena: Arena,
        store: ObjectStore,
        gcs: GcsPort,
        on_end: Callable[[str], None],
        logs: Logs,
    ) -> None:
        self._reactor = reactor
        self._frames = FrameBudget(_UNFINISHED_BYTES, self._frames_wait)
        self._frames_alarm = Alarm(reactor, self._look_at_frames)
        self._limits = Limits(
            frame_bytes=HELLO_BYTES,
            budget=self._frames,
            full_bytes=_DEAF_BYTES,
            deaf_bytes=_DEAF_BYTES,
            most_bytes=_UNREAD_BYTES,
        )
        self._on_end = on_end
        self._ending = False
        #: Whom we stopped listening to last, and why; "" if nobody ever misbehaved.
        self.last_misuse = ""
        #: The driver that started the cluster said goodbye.
        self.owner_left = False
        performer = Performer(reactor.containment.contain, self._rearm)
        self._node = NodeServices.build(config, reactor, reactor.descriptors, performer, gcs)
        self._lease_alarm = Alarm(reactor, self._tick_leases)
        self._pool_alarm = Alarm(reactor, self._tick_pool)
        self._factory_link = Connection(
            factory_socket,
            reactor,
            messages=FromFactory,
            on_message=lambda _, message: self._workers.on_factory(message),
            on_close=self._factory_gone,
            label="the factory",
            # There is one, and no node without it: an error costs the message that led to it.
            indispensable=True,
        )
        members = self._node.members
        self._deliveries = Deliveries(members, reactor, lambda who, why: self._expel(who.connection, why))
        self._output = OutputService(logs, members, performer, reactor, self._drained)
        self._store = StoreService(self._node, store, arena)
        self._events = EventService(self._node)
        self._leases = LeaseService(self._node, self._events)
        self._workers = WorkerService(self._node, self._output, self._factory_link, self._link)
        self._lifelines = Lifelines(reactor.descriptors, reactor, self._store)
        deaths = DeathService(
            self._node, self._output, self._store, self._lifelines, self._events, self._mourned
        )
        self._drivers = DriverService(self._node, arena, self._output, deaths, self._lifelines)
        self._handlers = self._message_handlers()
        self._orders = self._gcs_handlers()

    # ---- from the composition root ----

    def start(self) -> None:
        """Join the cluster and fork the first workers."""
        self._node.gcs.send(cluster.NodeJoined(self.info(self._store.usage())))
        # A machine of 200 CPUs does not need 200 processes before anybody asked for one.
        count = min(self._node.config.warm_workers, MAX_STARTING)
        self._node.perform(self._node.pool.prestart(count, self._node.now()))

    def on_connection(self, sock: Wire) -> None:
        """A visitor that has proven the session's secret; it must say DriverHello first."""
        visitor = self._link(sock)

        def show_out() -> None:
            if visitor.context is None:
                visitor.fail(f"it said nothing within {_HELLO_S:g} s")

        self._reactor.call_later(_HELLO_S, show_out)

    def on_gcs_message(self, message: Message) -> None:
        handler = self._orders.get(type(message))
        if handler is None:
            raise TypeError(f"the GCS sent a raylet {type(message).__name__}")
        handler(message)

    @property
    def driver_has_joined(self) -> bool:
        return self._drivers.has_joined

    @property
    def has_drivers(self) -> bool:
        return any(member.is_driver and member.job is not None for member in self._node.members)

    def report(self, round: int = 0) -> cluster.NodeReport:
        """What there is, who runs, who waits: for QueryCluster."""
        now = self._node.now()
        workers = [
            gcs.WorkerInfo(w.worker_id, w.pid, w.state.value, self._name_of(w.worker_id), now - w.since)
            for w in self._node.pool
        ]
        usage = self._store.usage()
        demand = self._node.leases.demand()
        used, capacity = usage.used_bytes, usage.capacity_bytes
        kept = self._store.kept()
        return cluster.NodeReport(self.info(usage), workers, demand, used, capacity, round, kept)

    def info(self, usage: Usage) -> gcs.NodeInfo:
        view = self._node.leases.view[self._node.config.node_id]
        available = {name: max(0, units) for name, units in view.available.items()}
        if OBJECT_STORE_MEMORY in available:  # nobody is given it: it is what objects and slabs leave
            taken = (usage.used_bytes - usage.evictable_bytes) * UNIT
            available[OBJECT_STORE_MEMORY] = max(0, view.total[OBJECT_STORE_MEMORY] - taken)
        return gcs.NodeInfo(
            node_id=self._node.config.node_id,
            alive=True,
            ip=self._node.config.node_ip,
            hostname=self._node.config.hostname,
            socket_path=self._node.config.socket_path,
            total=dict(view.total),
            available=available,
            labels=dict(view.labels),
        )

    def warn_drivers(self, text: str) -> None:
        """Say it in the head's log and, through their logging, to all drivers here."""
        say(text)
        self._node.members.warn_drivers(text)

    def close(self, reason: str) -> None:
        """Let the factory end all workers, and stop listening to anyone. Drivers see us leave last."""
        self._ending = True
        for member in self._node.members:
            if member.is_driver:
                member.send(node.NodeEnds(reason))
        self._lease_alarm.cancel()
        self._pool_alarm.cancel()
        self._frames_alarm.cancel()
        self._store.close()
        self._lifelines.close()
        self._events.close()
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
            on_close=self._link_ended,
            label="a visitor",
            limits=self._limits,
        )

    def _on_message(self, connection: Connection, message: Any) -> None:
        member: Member | None = connection.context
        if member is not None and member.leaving and not is_still_heard(member, message):
            return
        try:
            if member is None:
                self._drivers.hello(connection, message)
                return
            check(member, message)
            handler = self._handlers.get(type(message))
            if handler is not None:
                handler(member, message)
            else:
                job = member.job.job_id if member.job is not None else b""
                lasting = self._node.pool.is_lasting(member.worker_id)
                self._node.gcs.send(cluster.Forwarded(member.address, job, message, lasting))
        except (PeerMisuse, StoreMisuse) as error:
            self._expel(connection, str(error))

    def _expel(self, connection: Line, reason: str) -> None:
        """What it said cannot be: it is not listened to any more. A worker without connection ends."""
        member: Member | None = connection.context
        pid = member.pid if member is not None else 0
        self.last_misuse = f"closed the connection of process {pid}: {reason}"
        say(self.last_misuse)
        connection.close()
        self._on_close(connection, reason)

    def _link_ended(self, connection: Connection, reason: str) -> None:
        member: Member | None = connection.context
        if was_cut_off(reason):
            who = "a visitor" if member is None else f"process {member.pid}"
            say(f"closed the connection of {who}: {reason}")
        self._on_close(connection, reason)

    def _on_close(self, connection: Line, reason: str) -> None:
        member: Member | None = connection.context
        if member is None or self._ending or self._node.members.get(member.address) is not member:
            return
        if member.is_driver:
            self._drivers.gone(member, reason)
            if member.owns_cluster:
                self._on_end(f"the driver (pid {member.pid}) that started the cluster is gone: {reason}")
        else:
            self._workers.link_closed(member, reason if was_cut_off(reason) else "")

    def _message_handlers(self) -> dict[type, Callable[[Member, Any], None]]:
        leases, store, pool = self._leases, self._store, self._node.pool
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
            node.ConnectPeer: self._node.introductions.connect,
            node.CreateObject: store.create,
            node.SealObject: store.seal,
            node.AbortObject: store.abort,
            node.PinObject: store.pin,
            node.UnpinObject: store.unpin,
            node.DeleteObjects: store.delete,
            node.LeaseSlab: store.lease_slab,
            node.ReturnSlab: store.return_slab,
            node.DeathHeard: store.heard,
            node.OutputMark: lambda sender, message: self._output.mark(sender.worker_id, message.token),
            node.OutputPrinted: lambda _, message: self._output.printed(message.token),
            node.Staying: lambda sender, _: leases.worker_stays(sender),
            node.ExitedOnPurpose: lambda sender, message: self._node.perform(
                pool.leaves_on_purpose(sender.worker_id, self._node.now(), message.reason, message.cancelled)
            ),
            node.DescribeTask: lambda sender, message: self._workers.described(sender, message.name),
            node.EventsTold: self._events.told,
            node.Goodbye: lambda sender, _: self._goodbye(sender),
        }

    def _goodbye(self, sender: Member) -> None:
        self._drivers.goodbye(sender)
        if sender.owns_cluster:
            self.owner_left = True
            self._on_end(f"its driver (pid {sender.pid}) said goodbye")

    def _gcs_handlers(self) -> dict[type, Callable[[Any], None]]:
        leases, drivers = self._leases, self._drivers
        return {
            cluster.PlaceActor: self._place_actor,
            cluster.CancelPlacement: leases.cancel_placement,
            cluster.StopActor: leases.stop_actor,
            cluster.JobStarted: drivers.job_started,
            cluster.EndJob: lambda order: drivers.end_job(order.job_id, order.outlived),
            cluster.AskReport: lambda order: self._node.gcs.send(self.report(order.round)),
            cluster.AskEvents: self._events.ask,
            cluster.Deliver: self._deliveries.deliver,
            cluster.Misbehaved: self._misbehaved,
        }

    def _place_actor(self, order: cluster.PlaceActor) -> None:
        if order.spec.is_async:
            self._workers.expect_async_actors()
        self._leases.place(order)

    def _misbehaved(self, order: cluster.Misbehaved) -> None:
        if (member := self._node.members.get(order.address)) is not None:
            self._expel(member.connection, order.reason)

    # ---- the rest ----

    def _drained(self, worker: Any) -> None:
        self._workers.drained(worker)

    def _mourned(self, message: cluster.CoreWorkerGone) -> None:
        if message.actor_id:
            self._leases.forget_actor(ActorId(message.actor_id), message.incarnation)
        self._drivers.farewells()

    def _factory_gone(self, _: Connection, reason: str) -> None:
        if self._ending:
            return
        why = self._workers.factory_failed or reason
        text = f"the factory, which forks this node's workers, has died ({why}): the cluster ends"
        self._on_end(text)

    def _name_of(self, worker: Any) -> str:
        request = self._node.leases.holder_of(worker)
        return request.name if request is not None else ""

    def _rearm(self) -> None:
        """After decisions were carried out: look again when they say so."""
        if not self._ending:
            self._lease_alarm.by(self._node.leases.next_wake(self._node.now()))
            self._pool_alarm.by(self._node.pool.next_wake())

    def _tick_leases(self) -> None:
        self._node.perform(self._node.leases.tick(self._node.now()))

    def _frames_wait(self) -> None:
        self._frames_alarm.by(self._node.now() + LOOK_S)

    def _look_at_frames(self) -> None:
        self._frames.tick(self._node.now())
        if self._frames.is_crowded:
            self._frames_wait()

    def _tick_pool(self) -> None:
        self._node.perform(self._node.pool.tick(self._node.now()))


def _said_hello_twice(sender: Member, _: Message) -> None:
    raise PeerMisuse("DriverHello is a driver's first message, and no other")
