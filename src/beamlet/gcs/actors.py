"""● The actor table: which actors are started, restarted and ended, under which name, and who hears of it.

Messages in, effects out; ``now`` is monotonic seconds.  Requests are answered in the call that brings them.

Three rules explain most of what follows.
* *A start is named by its incarnation.* A message about an earlier one is old news (its process is gone, or
  has been told to go) and must not touch the present one.  Only ActorPlaced is answered: there, a process
  nobody wants any more has just begun to exist.
* *What was asked for is final.* Killed, out of scope, exit_actor, owner or job gone: no restart, whatever
  max_restarts says.  Only unintended deaths, and kill(no_restart=False), draw on max_restarts.
* *A new incarnation is placed when the old process is gone*, never before: two would share one name's state
  and one actor's resources.

Names of the states and what may follow what: actor_states.py.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import ActorId, Address, JobId, NodeId, node_of, short, worker_of
from beamlet.gcs import actor_causes
from beamlet.gcs.actor_causes import Cause, who
from beamlet.gcs.actor_history import NOWHERE, ActorHistory
from beamlet.gcs.actor_record import STARTING, ActorRecord
from beamlet.gcs.actor_states import State, Step
from beamlet.gcs.effects import Effect, ToCoreWorker, ToRaylet
from beamlet.gcs.farewells import Farewells
from beamlet.gcs.living_actors import LivingActors
from beamlet.gcs.restart_pauses import RestartPauses
from beamlet.gcs.storage import Storage
from beamlet.gcs.subscriptions import Subscriptions
from beamlet.protocol.cluster import (
    ActorPlaced,
    ActorUnplaceable,
    CancelPlacement,
    CoreWorkerGone,
    PlaceActor,
    StopActor,
)
from beamlet.protocol.gcs import (
    ActorAccepted,
    ActorFound,
    ActorInfo,
    ActorNameTaken,
    ActorNotFound,
    ActorOutOfScope,
    ActorReady,
    ActorRefused,
    ActorSpec,
    ActorStarted,
    ActorUpdate,
    Answer,
    CreateActor,
    Done,
    EndActors,
    FindActor,
    KillActor,
    ListNamedActors,
    NamedActors,
    SubscribeActor,
)

TABLE = "actors"
#: Processes known to be gone: what arrives from them is late, and creates nothing.
MOST_GONE = 10_000
#: Actors killed by somebody who heard of them sooner than we did.
MOST_KILLED_EARLY = 1_000
#: How many of the dead a listing shows.
MOST_DEAD_SHOWN = 1_000


class ActorTable:
    def __init__(
        self,
        choose_node: Callable[[ActorSpec], NodeId | None],
        storage: Storage,
        history: ActorHistory | None = None,
        class_of: Callable[[bytes], bytes] = lambda key: b"",
        driver_at: Callable[[Address], str] = lambda address: "",
        validate: bool = False,
    ) -> None:
        """``choose_node``: whose raylet to ask for room; None while there is none.

        class_of: the pickle of a class, by its key, that shall go with the order to be its instance.
        driver_at: which driver runs there, in words; "" if none does.
        """
        self._choose_node = choose_node
        self._class_of = class_of
        self._driver_at = driver_at
        self._storage = storage
        self._history = history or ActorHistory()
        self._validate = validate
        self._live = LivingActors()
        self._subscriptions = Subscriptions()
        self.pauses = RestartPauses()
        self._gone: dict[Address, None] = {}
        #: → who killed it.
        self._killed_early: dict[ActorId, str] = {}
        self._farewells = Farewells(lambda driver, req: self._tell(driver, Done(req)))
        self._effects: list[Effect] = []

    # --- creation ---------------------------------------------------------------------------------

    def handle_create(
        self, sender: Address, message: CreateActor, now: float, lasting: bool = False
    ) -> list[Effect]:
        """Repeat-safe: the same actor id is created once. ``lasting``: who creates it outlives the job."""
        spec, req = message.spec, message.req
        holder = self._live.named(spec.namespace, spec.name)
        if self._live.get(spec.actor_id) or spec.actor_id in self._history:
            self._tell(sender, ActorAccepted(req, spec.actor_id))
        elif holder is not None and message.get_if_exists:
            introduction = holder.introduction()
            self._tell(sender, ActorAccepted(req, introduction.actor_id, existing=True, spec=introduction))
        elif holder is not None:
            self._tell(sender, ActorNameTaken(req, holder.spec.actor_id))
        elif spec.owner in self._gone and not (spec.detached and message.ready):
            self._tell(sender, ActorRefused(req, f"its owner, {self._describe(spec.owner, spec)}, is gone"))
        else:
            self._tell(sender, ActorAccepted(req, spec.actor_id))
            self._create(spec, message.ready, lasting, now)
        return self._done()

    def _create(self, spec: ActorSpec, ready: bool, lasting: bool, now: float) -> None:
        record = ActorRecord(spec, now, lasting=lasting or spec.detached)
        self._live.add(record)
        self._save(record)
        if killer := self._killed_early.pop(spec.actor_id, None):
            self._end(record, actor_causes.killed(spec, killer), now)
        elif ready:
            self._make_ready(record, now)
        else:
            self._publish(record.update())

    def handle_ready(self, sender: Address, message: ActorReady, now: float) -> list[Effect]:
        """The owner's word; repeat-safe: what counts is the first. Of an actor that will never be created,
        because an argument failed, it is all that others who hold a handle ever hear."""
        spec = message.spec
        record = self._live.get(spec.actor_id)
        if record is None and message.error and spec.actor_id not in self._history:
            spec = msgspec.structs.replace(spec, name="")  # it was never claimed
            record = ActorRecord(spec, now, lasting=spec.detached)
            self._live.add(record)
        if record is None or record.state is not State.DEPENDENCIES_UNREADY or record.spec.owner != sender:
            return self._done()
        if message.error:
            self._end(record, actor_causes.arguments_failed(spec, message.error), now)
        else:
            record.spec = msgspec.structs.replace(
                record.spec, args=spec.args, deps=spec.deps, nested=spec.nested
            )
            self._save(record)
            self._make_ready(record, now)
        return self._done()

    def _make_ready(self, record: ActorRecord, now: float) -> None:
        record.step(Step.READY, now, "arguments are there")
        self._live.stepped(record)
        self._publish(record.update())
        self._place(record, now)

    def _place(self, record: ActorRecord, now: float) -> None:
        record.node = self._choose_node(record.spec)
        if record.node is None:
            record.tell(now, "no node to place it on")
        else:
            record.tell(now, f"placement asked of node {short(record.node)}")
            pickled = self._class_of(record.spec.class_key)
            order = PlaceActor(record.spec, record.incarnation, pickled, record.lasting)
            self._effects.append(ToRaylet(record.node, order))

    def handle_placed(self, message: ActorPlaced, now: float) -> list[Effect]:
        record = self._live.present(message.actor_id, message.incarnation)
        if record is None:
            reason = "its actor had ended, or was being started elsewhere, before it was placed"
            stop = StopActor(message.actor_id, message.incarnation, reason, graceful=False)
            self._effects.append(ToRaylet(node_of(message.address), stop))
        elif record.address in (NOWHERE, message.address):
            self._live.settle(record, message.address)
            record.pid, record.waits_for, record.placed_at = message.pid, "", now
            record.tell(now, f"given to process {message.pid}")
        return self._done()

    def handle_unplaceable(self, message: ActorUnplaceable, now: float) -> list[Effect]:
        record = self._live.present(message.actor_id, message.incarnation)
        if record is None or record.address:
            return self._done()
        record.waits_for = message.reason
        record.tell(now, f"waits: {message.reason}")
        if message.infeasible or message.given_up:
            record.node = None  # the raylet has given up: there is nothing to cancel
        if message.infeasible:
            self._end(record, actor_causes.no_room_ever(record.spec, message.reason), now)
        elif message.given_up and record.state is State.RESTARTING:
            self.pauses.begin_again(record, now)  # a full node is no death of it: the restart stands
            record.remark = actor_causes.still_restarting(record.spec, message.reason)
            self._publish(record.update())
        elif message.given_up:  # its creator is told, and may create it again
            self._end(record, actor_causes.no_process(record.spec, message.reason), now)
        return self._done()

    def handle_started(self, sender: Address, message: ActorStarted, now: float) -> list[Effect]:
        record = self._live.present(message.actor_id, message.incarnation)
        if record is None or record.state not in STARTING or record.address != sender:
            return self._done()  # its raylet said ActorPlaced first: nobody else can have started it
        if message.init_error:
            cause = actor_causes.constructor_raised(record.spec, message.init_error)
            self._end(record, cause, now, graceful=True)  # what it printed is still on its way
        else:
            record.step(Step.STARTED, now, "constructor returned")
            record.remark, record.waits_for, record.certificate = "", "", None
            self._publish(record.update())
        return self._done()

    # --- ends that are asked for ------------------------------------------------------------------

    def handle_kill(self, sender: Address, message: KillActor, now: float) -> list[Effect]:
        """Answered when the order is given, which is before the process is gone."""
        self._tell(sender, Done(message.req))
        record = self._live.get(message.actor_id)
        if record is not None:
            self._kill(record, self._describe(sender, record.spec), message.no_restart, now)
        elif message.no_restart and message.actor_id not in self._history:
            self._killed_early[message.actor_id] = self._describe(sender)
            _keep_newest(self._killed_early, MOST_KILLED_EARLY)
        return self._done()

    def _kill(self, record: ActorRecord, killer: str, no_restart: bool, now: float) -> None:
        cause = actor_causes.killed(record.spec, killer)
        if no_restart or record.leaving or not record.may_restart:
            self._end(record, cause, now)
        elif record.address and record.recycling is None:
            record.recycling = cause
            record.tell(now, "told to die, to be restarted")
            self._stop(record, cause.text, graceful=False)

    def handle_out_of_scope(self, sender: Address, message: ActorOutOfScope, now: float) -> list[Effect]:
        """The owner's word alone counts, and a detached actor has no owner: it is ended by kill only."""
        record = self._live.get(message.actor_id)
        if record is None or record.spec.detached or record.spec.owner != sender or record.leaving:
            return self._done()
        self._let_finish(record, actor_causes.out_of_scope(record.spec), now)
        return self._done()

    def _let_finish(self, record: ActorRecord, cause: Cause, now: float, hurried: bool = False) -> None:
        if record.address and record.recycling is None:
            self._live.free_name(record)
            record.leaving = cause
            record.tell(now, "told to finish what is queued, and to end")
            self._stop(record, cause.text, True, hurried)
        else:
            self._end(record, cause, now)

    def handle_program_ends(self, sender: Address, message: EndActors, now: float) -> list[Effect]:
        """Of the driver's actors those that clean up do so, whoever has created them, all at the same time.

        Answered when they have ended. Until then no owner's end takes one of them along.
        """
        wanted = [record for record in self._live if self._parts_with(record, sender)]
        self._farewells.begin(sender, message.req, [record.spec.actor_id for record in wanted])
        for record in wanted:
            if not record.leaving:
                cause = actor_causes.job_ended(record.spec, record.spec.job.job_id)
                self._let_finish(record, cause, now, record.spec.only_del)
        self._farewells.settle(sender)
        return self._done()

    def _parts_with(self, record: ActorRecord, driver: Address) -> bool:
        spec = record.spec
        return spec.cleans_up and spec.job.driver == driver and not record.lasting

    def _is_parting(self, record: ActorRecord) -> bool:
        return self._farewells.is_awaited(record.spec.job.driver, record.spec.actor_id)

    def _wait_no_longer(self, driver: Address, now: float) -> None:
        """It is gone: what outlived its owner for its sake ends."""
        for actor_id in self._farewells.gone(driver):
            record = self._live.get(actor_id)
            if record is not None and record.spec.owner in self._gone:
                self._end(record, actor_causes.job_ended(record.spec, record.spec.job.job_id), now)

    def outlive(self, job_id: JobId) -> bool:
        """Whether detached actors of it live, and so keep what works for them after the job's end."""
        return self._live.any_detached(job_id)

    def handle_job_ended(self, job_id: JobId, now: float) -> list[Effect]:
        """Its actors end, except those that are lasting, while there is a detached one to last for."""
        outlived = self._live.any_detached(job_id)
        for record in self._live:
            if record.spec.job.job_id == job_id and not (record.lasting and outlived):
                cause = actor_causes.family_ended if record.lasting else actor_causes.job_ended
                self._end(record, cause(record.spec, job_id), now)
        return self._done()

    # --- ends that happen -------------------------------------------------------------------------

    def handle_core_worker_gone(self, message: CoreWorkerGone, now: float) -> list[Effect]:
        """What lived in it has died; what it owned ends; what it wanted to hear nobody hears."""
        certificate, how = message.certificate, message.certificate.describe()
        # Owned ones first: an actor may have been placed in the very process that owns it.
        self._process_gone(message.address, how, message.intended, now)
        if record := self._living_in(message):
            self._died(record, how, certificate, message.intended, now)
        elif message.actor_id:
            self._history.attach(ActorId(message.actor_id), message.incarnation, certificate)
        return self._done()

    def _living_in(self, message: CoreWorkerGone) -> ActorRecord | None:
        """The actor whose present incarnation the process was."""
        if message.actor_id:
            return self._live.present(ActorId(message.actor_id), message.incarnation)
        return self._live.at(message.address)

    def _process_gone(self, address: Address, how: str, intended: bool, now: float) -> None:
        self._gone[address] = None
        _keep_newest(self._gone, MOST_GONE)
        self._wait_no_longer(address, now)
        self._subscriptions.drop_subscriber(address)
        for record in self._live.owned_by(address):
            if self._is_parting(record):
                continue
            owner = self._describe(address, record.spec)
            gone = actor_causes.creator_gone if record.spec.detached else actor_causes.owner_gone
            self._end(record, gone(record.spec, owner, intended, how), now)

    def _died(
        self, record: ActorRecord, how: str, certificate: DeathCertificate | None, intended: bool, now: float
    ) -> None:
        """Its process is gone: restart it, or not."""
        spec = record.spec
        final: Cause | None = None
        if record.leaving:
            final = record.leaving
        elif record.recycling is None and intended:
            final = actor_causes.left(spec, how)
        elif not record.may_restart:
            final = actor_causes.crashed(spec, record.restarts, how)
        self._live.unsettle(record)
        if final:
            self._end(record, final._replace(certificate=certificate), now)
        else:
            self._restart(record, record.recycling.text if record.recycling else how, certificate, now)

    def _restart(self, record: ActorRecord, how: str, proof: DeathCertificate | None, now: float) -> None:
        pause_s = self.pauses.begin(record, now)
        why = actor_causes.restarting(record.spec, record.restarts + 1, how, pause_s)
        record.restarts += 1
        record.next_incarnation()
        record.step(Step.RESTART, now, why)
        record.remark, record.certificate = why, proof
        self._save(record)
        self._publish(record.update())
        if not pause_s:
            self._place(record, now)

    def start_due(self, now: float) -> list[Effect]:
        """Actors that were not to be restarted at once (``pauses``) are, when their time has come."""
        for record in map(self._live.get, self.pauses.over(now)):
            if record is not None and record.state is State.RESTARTING and record.node is None:
                self._place(record, now)
        return self._done()

    def handle_node_gone(self, node_id: NodeId, reason: str, now: float) -> list[Effect]:
        """All its processes are gone at once, and nobody is left there to send their certificates."""
        how = f"its node {short(node_id)} is gone: {reason}"
        subscribers = [each for each in self._subscriptions.addresses() if node_of(each) == node_id]
        for address in dict.fromkeys([*self._live.owners_on(node_id), *subscribers]):
            self._process_gone(address, how, False, now)
        for record in self._live:
            if record.node != node_id:
                continue
            if record.address:
                self._died(record, how, None, False, now)
            else:  # no attempt has failed, only nobody works at it any more
                record.next_incarnation()
                self._place(record, now)
        return self._done()

    def handle_node_joined(self, now: float) -> list[Effect]:
        for record in self._live:
            if record.state in STARTING and record.node is None:
                self._place(record, now)
        return self._done()

    # --- the end ----------------------------------------------------------------------------------

    def _end(self, record: ActorRecord, cause: Cause, now: float, graceful: bool = False) -> None:
        """For good. Its process, if it has one, is told to go; nobody waits for that."""
        spec = record.spec
        record.step(Step.END, now, cause.text)
        if record.address:
            self._stop(record, cause.text, graceful)
        elif record.node is not None:
            self._effects.append(ToRaylet(record.node, CancelPlacement(spec.actor_id, record.incarnation)))
        self._live.remove(record)
        if spec.detached:
            self._storage.delete(TABLE, spec.actor_id)
        dead = record.as_dead(cause, now)
        self._history.add(dead)
        self._publish(dead.update())
        self._subscriptions.drop_actor(spec.actor_id)
        self._farewells.ended(spec.job.driver, spec.actor_id)

    def _stop(self, record: ActorRecord, reason: str, graceful: bool, hurried: bool = False) -> None:
        stop = StopActor(record.spec.actor_id, record.incarnation, reason, graceful, hurried)
        self._effects.append(ToRaylet(node_of(record.address), stop))

    # --- who asks ---------------------------------------------------------------------------------

    def handle_subscribe(self, sender: Address, message: SubscribeActor) -> list[Effect]:
        """An actor not heard of yet is one whose creation is on its way by another path: wait for it."""
        if record := self._live.get(message.actor_id):
            self._tell(sender, record.update())
        elif update := self._history.last_update(message.actor_id):
            self._tell(sender, update)
            return self._done()
        if sender not in self._gone:
            self._subscriptions.add(message.actor_id, sender)
        return self._done()

    def handle_find(self, sender: Address, message: FindActor, now: float) -> list[Effect]:
        if record := self._live.named(message.namespace, message.name):
            self._tell(sender, ActorFound(message.req, record.introduction()))
        else:
            where = message.namespace, message.name, now
            hint = " ".join([*self._live.names.hint(*where), *self._history.hint(*where)])
            self._tell(sender, ActorNotFound(message.req, hint))
        return self._done()

    def handle_list(self, sender: Address, message: ListNamedActors) -> list[Effect]:
        names = self._live.names.listing(None if message.all_namespaces else message.namespace)
        self._tell(sender, NamedActors(message.req, names))
        return self._done()

    def infos(self) -> list[ActorInfo]:
        """Those that live, then the newest of the dead."""
        return [
            *(record.info() for record in self._live),
            *(dead.info() for dead in self._history.newest(MOST_DEAD_SHOWN)),
        ]

    def story(self, actor_id: ActorId) -> list[str]:
        """What happened to it lately, while it lives."""
        record = self._live.get(actor_id)
        return list(record.story) if record else []

    # --- small things -----------------------------------------------------------------------------

    def _tell(self, address: Address, message: Answer) -> None:
        self._effects.append(ToCoreWorker(address, message))

    def _publish(self, update: ActorUpdate) -> None:
        for address in self._subscriptions.subscribers(update.actor_id):
            self._tell(address, update)

    def _save(self, record: ActorRecord) -> None:
        """Only detached actors are for longer than their driver, and so perhaps for longer than this GCS."""
        if record.spec.detached:
            row = (record.incarnation, record.restarts, record.spec)
            self._storage.put(TABLE, record.spec.actor_id, msgspec.msgpack.encode(row))

    def _describe(self, address: Address, spec: ActorSpec | None = None) -> str:
        """A process, for a person who looks at what happened to the actor of ``spec``."""
        if record := self._live.at(address):
            return who(record.spec)
        if driver := self._driver_at(address):
            return driver
        if spec and address == spec.job.driver:
            return f"the driver of job {spec.job.job_id.hex()}"
        return f"worker {short(worker_of(address))} on node {short(node_of(address))}"

    def _done(self) -> list[Effect]:
        if self._validate:
            self.check_invariants()
        effects, self._effects = self._effects, []
        return effects

    def check_invariants(self) -> None:
        self._live.check_invariants()
        self._subscriptions.check_invariants()
        for record in self._live:
            spec = record.spec
            assert spec.actor_id not in self._history, f"{who(spec)} both lives and has ended"
            needs_owner = not spec.detached or record.state is State.DEPENDENCIES_UNREADY
            outlives = needs_owner and spec.owner in self._gone and not self._is_parting(record)
            assert not outlives, f"{who(spec)} outlives its owner"
        for actor_id in self._subscriptions.actors():
            assert actor_id not in self._history, f"somebody still waits for {short(actor_id)}, which is dead"
        self._farewells.check_invariants(self._gone.__contains__, self._live.get)


def _keep_newest(table: dict[Address, None] | dict[ActorId, str], most: int) -> None:
    while len(table) > most:
        del table[next(iter(table))]  # type: ignore[arg-type]
