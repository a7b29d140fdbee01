"""The lease manager's shell: requests of core workers and of the GCS in, grants and refusals out."""

from __future__ import annotations

from beamlet.base.ids import ActorId, WorkerId
from beamlet.protocol import cluster, node
from beamlet.protocol.gcs import StartActor
from beamlet.protocol.message import Message
from beamlet.raylet import lease_effects as effects
from beamlet.raylet.event_service import EventService
from beamlet.raylet.lease_queue import Request, RequestKey, env_key
from beamlet.raylet.members import Member, PeerMisuse, check_amounts
from beamlet.raylet.node_services import NodeServices
from beamlet.raylet.worker_record import Found, NotFound, Want

#: Sums of backlogs must fit into what a message can carry.
_BACKLOG_MAX = 1 << 32


class LeaseService:
    def __init__(self, services: NodeServices, events: EventService) -> None:
        self._node = services
        self._events = events
        self._manager = services.leases
        self._pool = services.pool
        self._members = services.members
        self._introductions = services.introductions
        #: What the GCS asked to place and is not answered for yet.
        self._placements: dict[RequestKey, cluster.PlaceActor] = {}
        #: Where each living incarnation is.
        self._seats: dict[RequestKey, WorkerId] = {}
        performer, manager, pool = services.performer, services.leases, services.pool
        performer.on(effects.WantWorker, self._want_worker)
        performer.on(effects.UnwantWorker, lambda effect: pool.unwant(effect.lease_id))
        performer.on(effects.Granted, self._granted)
        performer.on(effects.Refused, self._refused)
        performer.on(effects.Spilled, self._spilled)
        performer.on(effects.Cancelled, self._cancelled)
        performer.on(effects.Pending, self._pending)
        performer.on(
            effects.WorkerFree, lambda e: performer.perform(pool.returned(e.worker, self._node.now()))
        )
        performer.on(effects.EndWorker, self._end_worker)
        performer.on(effects.AskBack, self._ask_back)
        performer.on(
            Found, lambda effect: performer.perform(manager.worker_found(effect.ticket, effect.worker))
        )
        performer.on(NotFound, self._no_worker)

    # ---- core workers ask ----

    def request(self, sender: Member, message: node.RequestLease) -> None:
        key = RequestKey(sender.address, message.req)
        if sender.job is None or self._manager.knows(key):
            raise PeerMisuse(f"RequestLease {message.req} from a process without a job, or asked twice")
        check_amounts(message.name, message.resources)
        if self._pool.is_over(sender.worker_id):
            sender.send(node.LeaseCancelled(message.req, "its job has ended"))
            return
        request = Request(
            key,
            sender.address,
            sender.job,
            message.resources,
            message.name,
            env=env_key(message.env_vars),
            strategy=message.strategy,
            lasting=self._pool.is_lasting(sender.worker_id),
            backlog=max(1, min(message.backlog, _BACKLOG_MAX)),
        )
        self._node.perform(self._manager.submit(request, self._node.now()))

    def cancel(self, sender: Member, message: node.CancelLeaseRequest) -> None:
        key = RequestKey(sender.address, message.req)
        self._node.perform(self._manager.cancel(key, "", self._node.now()))

    def give_back(self, sender: Member, message: node.ReturnLease) -> None:
        if message.lease.node != self._members.node_id:
            return  # not ours: that node, or what it lent, is gone
        number, now = message.lease.number, self._node.now()
        self._node.perform(self._manager.return_lease(sender.address, number, message.dispose, now))

    def force_cancel(self, sender: Member, message: node.ForceCancel) -> None:
        if message.lease.node == self._members.node_id:
            reason = f"cancel(force=True) of task {message.name}"
            self._node.perform(
                self._manager.force_cancel(sender.address, message.lease.number, reason, message.task)
            )

    def worker_stays(self, sender: Member) -> None:
        """Asked whether it could leave, it is needed; by nobody's lease."""
        now = self._node.now()
        self._node.perform(self._pool.stays(sender.worker_id, now))
        self._node.perform(self._manager.worker_stays(sender.worker_id, now))

    def blocked(self, sender: Member) -> None:
        self._node.perform(self._manager.blocked(sender.worker_id, self._node.now()))

    def unblocked(self, sender: Member) -> None:
        self._manager.unblocked(sender.worker_id)

    def why(self, sender: Member, message: node.WhyPending) -> None:
        reasons = self._manager.why(sender.address, self._node.now())
        if message.lease_req:
            reason = self._manager.why_request(RequestKey(sender.address, message.lease_req))
            reasons = [reason] if reason else []
        elif message.actor_id:
            waiting = [key for key in self._placements if key.asker == message.actor_id]
            reasons = [reason for key in waiting if (reason := self._manager.why_request(key))]
        sender.send(node.WhyPendingAnswer(message.req, reasons))

    # ---- the GCS asks ----

    def place(self, message: cluster.PlaceActor) -> None:
        spec = message.spec
        key = RequestKey(spec.actor_id, message.incarnation)
        if key in self._placements or key in self._seats:
            return  # repeat-safe: it is being placed, or has been
        self._placements[key] = message
        request = Request(
            key,
            spec.owner,
            spec.job,
            spec.lifetime_resources,
            spec.name or spec.class_name,
            env=env_key(spec.env_vars),
            strategy=spec.strategy,
            to_place=spec.placement_resources,
            actor=spec.actor_id,
            lasting=message.lasting,
            call_site=spec.call_site,
        )
        self._node.perform(self._manager.submit(request, self._node.now()))

    def cancel_placement(self, message: cluster.CancelPlacement) -> None:
        key = RequestKey(message.actor_id, message.incarnation)
        self._node.perform(self._manager.cancel(key, "the GCS withdrew it", self._node.now()))

    def stop_actor(self, message: cluster.StopActor) -> None:
        """End the incarnation wherever it is: still waiting, or in its worker."""
        key = RequestKey(message.actor_id, message.incarnation)
        now = self._node.now()
        worker = self._seats.get(key)
        if worker is None:
            self._node.perform(self._manager.cancel(key, message.reason, now))
        elif message.graceful:
            hurried = message.hurried
            self._node.perform(self._pool.ask_to_exit(worker, message.reason, now, hurried=hurried))
        else:
            self._events.last_words(worker, lambda: self._kill(key, worker, message.reason))

    def _kill(self, key: RequestKey, worker: WorkerId, reason: str) -> None:
        if self._seats.get(key) == worker:  # it is still there, and still this
            self._node.perform(self._pool.kill(worker, reason, self._node.now()))

    def forget_actor(self, actor: ActorId, incarnation: int) -> None:
        """Its worker is gone."""
        self._seats.pop(RequestKey(actor, incarnation), None)

    # ---- effects ----

    def _want_worker(self, effect: effects.WantWorker) -> None:
        request = effect.request
        incarnation = request.key.number if request.actor is not None else 0
        want = Want(effect.lease_id, request.job, request.env, request.actor, incarnation, request.lasting)
        self._node.perform(self._pool.want(want, self._node.now()))

    def _granted(self, effect: effects.Granted) -> None:
        worker = self._members.worker(effect.worker)
        if worker is None:
            self._granted_a_dead_worker(effect)
            return
        if effect.request.actor is not None:
            self._seat(effect, worker)
            return
        holder = self._members.get(effect.request.client)
        if holder is None:
            return  # client_gone, behind us in the queue, ends the lease
        name = node.LeaseName(self._members.node_id, effect.lease_id)
        req = effect.request.key.number
        answer = node.LeaseGranted(req, name, worker.address, worker.pid, effect.accelerators)
        if self._introductions.is_new(holder, worker):
            try:
                self._introductions.introduce(holder, worker, answer)
            except OSError:  # no descriptors left: the holder asks for an introduction until there are
                answer.fresh = False
                holder.send(answer)
        else:
            answer.fresh = False
            holder.send(answer)

    def _granted_a_dead_worker(self, effect: effects.Granted) -> None:
        """It was buried between being found and being granted: the lease ends, and is asked for again."""
        request = effect.request
        self._node.perform(self._manager.worker_gone(effect.worker, self._node.now()))
        if request.actor is None:
            self._answer(request, node.LeaseCancelled(request.key.number, ""))
        else:
            self.place(self._placements.pop(request.key))

    def _seat(self, effect: effects.Granted, worker: Member) -> None:
        placement = self._placements.pop(effect.request.key)
        self._seats[effect.request.key] = effect.worker
        what = placement.spec, placement.incarnation, effect.accelerators, placement.class_pickle
        worker.send(StartActor(*what))
        self._node.gcs.send(
            cluster.ActorPlaced(placement.spec.actor_id, placement.incarnation, worker.address, worker.pid)
        )

    def _refused(self, effect: effects.Refused) -> None:
        request = effect.request
        if request.actor is not None:
            self._placements.pop(request.key, None)
            self._unplaceable(request, effect.reason, effect.infeasible, given_up=not effect.infeasible)
        elif effect.infeasible:
            self._answer(request, node.LeaseInfeasible(request.key.number, effect.reason))
        else:
            self._answer(request, node.LeaseCancelled(request.key.number, effect.reason, effect.for_now))

    def _spilled(self, effect: effects.Spilled) -> None:
        request = effect.request
        self._answer(request, node.LeaseSpillback(request.key.number, effect.node, effect.address))

    def _cancelled(self, effect: effects.Cancelled) -> None:
        if effect.request.actor is not None:
            self._placements.pop(effect.request.key, None)
        else:
            self._answer(effect.request, node.LeaseCancelled(effect.request.key.number, effect.reason))

    def _pending(self, effect: effects.Pending) -> None:
        request = effect.request
        if request.actor is not None:
            self._unplaceable(request, effect.reason)
        else:
            self._answer(request, node.LeasePending(request.key.number, effect.reason))

    def _end_worker(self, effect: effects.EndWorker) -> None:
        now = self._node.now()
        if effect.at_once:
            self._node.perform(self._pool.kill(effect.worker, effect.reason, now, cancelled=effect.cancelled))
        else:
            self._node.perform(self._pool.wear_out(effect.worker, effect.reason, now))

    def _ask_back(self, effect: effects.AskBack) -> None:
        if (holder := self._members.get(effect.holder)) is not None:
            holder.send(node.LeaseWanted())

    def _no_worker(self, effect: NotFound) -> None:
        now = self._node.now()
        self._node.perform(self._manager.no_worker(effect.ticket, effect.reason, now, effect.for_now))

    def _unplaceable(
        self, request: Request, reason: str, infeasible: bool = False, given_up: bool = False
    ) -> None:
        assert request.actor is not None
        which = request.actor, request.key.number
        self._node.gcs.send(cluster.ActorUnplaceable(*which, reason, infeasible, given_up))

    def _answer(self, request: Request, message: Message) -> None:
        if (asker := self._members.get(request.client)) is not None:
            asker.send(message)
