"""The actor table against a small world of raylets, processes and owners, where anything may die at any time.

Each node has two first-in-first-out links, to the GCS and from it; what travels on them arrives when the
machine says so, and old news may arrive twice.  At the end everything in flight is delivered, and then what
the table says and what the world is must agree.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import (
    UNIQUE_ID_BYTES,
    ActorId,
    Address,
    FunctionKey,
    JobId,
    NodeId,
    WorkerId,
    job_id_of_int,
    make_address,
    node_of,
)
from beamlet.gcs.actor_history import ActorHistory
from beamlet.gcs.actor_states import TRANSITIONS, State
from beamlet.gcs.actors import ActorTable
from beamlet.gcs.effects import Effect, ToRaylet
from beamlet.gcs.storage import MemoryStorage
from beamlet.protocol.cluster import (
    ActorPlaced,
    ActorUnplaceable,
    CancelPlacement,
    CoreWorkerGone,
    PlaceActor,
    StopActor,
)
from beamlet.protocol.gcs import (
    ActorOutOfScope,
    ActorReady,
    ActorSpec,
    ActorStarted,
    ActorUpdate,
    CreateActor,
    Done,
    EndActors,
    FindActor,
    KillActor,
    ListNamedActors,
    NamedActors,
    SubscribeActor,
)
from beamlet.protocol.message import Message
from beamlet.protocol.node import JobDescription

NODES = [NodeId(bytes([n]) * UNIQUE_ID_BYTES) for n in (1, 2)]
#: Hears of every actor, and never dies.
OBSERVER = make_address(NodeId(b"o" * UNIQUE_ID_BYTES), WorkerId(b"o" * UNIQUE_ID_BYTES))
SUCCESSORS = {(at.name, to.name) for (at, _), to in TRANSITIONS.items()}
REQUESTS = (CreateActor, KillActor, FindActor, ListNamedActors)
REPEATABLE = (ActorPlaced, ActorStarted, CoreWorkerGone)

#: Picks one of what there is at the moment; the machine takes it modulo the number of choices.
PICK = st.integers(0, 50)


class JobEnded(NamedTuple):
    """The GCS's own decision, which reaches the table as its messages do."""

    job_id: JobId


@dataclass
class Process:
    address: Address
    job: JobId
    #: None for a driver.
    actor_id: ActorId | None = None
    incarnation: int = 0
    finishing: bool = False
    constructed: bool = False


@dataclass
class Node:
    node_id: NodeId
    to_gcs: deque[tuple[Address, Message]] = field(default_factory=deque)
    orders: deque[Message] = field(default_factory=deque)
    #: Placements asked for and not made.
    waiting: list[PlaceActor] = field(default_factory=list)


class ActorWorld(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.numbers = count(1)
        self.nodes = {node_id: Node(node_id) for node_id in NODES}
        self.processes: dict[Address, Process] = {}
        self.history = ActorHistory()
        self.table = ActorTable(self.choose_node, MemoryStorage(), self.history, validate=True)
        self.specs: dict[ActorId, ActorSpec] = {}
        self.heard: dict[tuple[Address, ActorId], ActorUpdate] = {}
        self.restarts: dict[ActorId, int] = {}
        self.old_news: list[tuple[Address, Message]] = []
        self.must_end: set[ActorId] = set()
        #: Whose owner never says that the constructor's arguments are there.
        self.never_ready: set[ActorId] = set()
        self.drivers: dict[JobId, Address] = {}
        #: Drivers that wait for their actors to clean up, by request.
        self.farewells: dict[int, Address] = {}

    @initialize()
    def two_drivers(self) -> None:
        for number, node_id in enumerate(NODES, 1):
            address = self.new_address(node_id)
            self.drivers[job_id_of_int(number)] = address
            self.processes[address] = Process(address, job_id_of_int(number))

    def new_address(self, node_id: NodeId) -> Address:
        return make_address(node_id, WorkerId(next(self.numbers).to_bytes(UNIQUE_ID_BYTES, "big")))

    def choose_node(self, spec: ActorSpec) -> NodeId | None:
        home = node_of(spec.owner)
        return home if home in self.nodes else next(iter(self.nodes), None)

    # --- the GCS ----------------------------------------------------------------------------------

    def hand_over(self, sender: Address, message: Message) -> None:
        """To the table, and check what comes back."""
        self.now += 0.25
        if isinstance(message, CreateActor):
            self.specs.setdefault(message.spec.actor_id, message.spec)
        if isinstance(message, KillActor) and message.no_restart:
            self.must_end.add(message.actor_id)
        self.perform(self.dispatch(sender, message), sender, message)

    def dispatch(self, sender: Address, message: Message) -> list[Effect]:
        table, now = self.table, self.now
        match message:
            case CreateActor():
                return table.handle_create(sender, message, now)
            case ActorReady():
                return table.handle_ready(sender, message, now)
            case ActorStarted():
                return table.handle_started(sender, message, now)
            case KillActor():
                return table.handle_kill(sender, message, now)
            case ActorOutOfScope():
                return table.handle_out_of_scope(sender, message, now)
            case EndActors():
                return table.handle_program_ends(sender, message, now)
            case SubscribeActor():
                return table.handle_subscribe(sender, message)
            case FindActor():
                return table.handle_find(sender, message, now)
            case ListNamedActors():
                return table.handle_list(sender, message)
            case ActorPlaced():
                return table.handle_placed(message, now)
            case ActorUnplaceable():
                return table.handle_unplaceable(message, now)
            case CoreWorkerGone():
                return table.handle_core_worker_gone(message, now)
            case JobEnded():
                return table.handle_job_ended(message.job_id, now)
        raise AssertionError(message)

    def perform(self, effects: list[Effect], sender: Address, cause: Message | None) -> None:
        answers = 0
        for effect in effects:
            if isinstance(effect, ToRaylet):
                self.order(effect)
            elif isinstance(effect.message, ActorUpdate):
                self.hear(effect.address, effect.message, resubscribed=isinstance(cause, SubscribeActor))
            elif isinstance(effect.message, Done) and effect.message.req in self.farewells:
                assert effect.address == self.farewells.pop(effect.message.req)
            else:
                assert effect.address == sender
                assert effect.message.req == cause.req  # type: ignore[attr-defined,union-attr]
                answers += 1
        assert answers == isinstance(cause, REQUESTS), f"{cause} was answered {answers} times"

    def order(self, effect: ToRaylet) -> None:
        message = effect.message
        if isinstance(message, PlaceActor):
            actor_id = message.spec.actor_id
            assert actor_id not in self.history, "a dead actor is placed"
            others = [each for each in self.processes.values() if each.actor_id == actor_id]
            assert not others, "placed while an earlier incarnation lives"
        if effect.node in self.nodes:
            self.nodes[effect.node].orders.append(message)

    def hear(self, address: Address, update: ActorUpdate, resubscribed: bool) -> None:
        before = self.heard.get((address, update.actor_id))
        waits_on = False  # there was no process for its restart
        if before is not None:
            step = (before.state, update.state)
            waits_on = step == ("RESTARTING",) * 2 and update.incarnation == before.incarnation
            assert step in SUCCESSORS or waits_on or (resubscribed and step[0] == step[1]), step
            assert update.incarnation >= before.incarnation
        assert bool(update.address) == (update.state == "ALIVE")
        assert update.cause or update.state not in ("DEAD", "RESTARTING")
        self.heard[address, update.actor_id] = update
        if address == OBSERVER and update.state == "RESTARTING" and not (resubscribed or waits_on):
            self.restarts[update.actor_id] = self.restarts.get(update.actor_id, 0) + 1
            most = self.specs[update.actor_id].max_restarts
            assert most < 0 or self.restarts[update.actor_id] <= most

    # --- processes that ask -----------------------------------------------------------------------

    def callers(self) -> list[Process]:
        """Those who can own actors: drivers, and actors whose constructor has returned."""
        return [each for each in self.processes.values() if each.actor_id is None or each.constructed]

    def send(self, process: Process, message: Message) -> None:
        self.nodes[node_of(process.address)].to_gcs.append((process.address, message))

    def caller(self, pick: int) -> Process:
        callers = self.callers()
        return callers[pick % len(callers)]

    def known_actor(self, pick: int) -> ActorId:
        return list(self.specs)[pick % len(self.specs)]

    @precondition(lambda self: self.callers())
    @rule(
        pick=PICK,
        name=st.sampled_from(["", "", "ann", "bob"]),
        detached=st.booleans(),
        max_restarts=st.sampled_from([0, 0, 1, 2, -1]),
        get_if_exists=st.booleans(),
        ready=st.sampled_from(["at once", "at once", "at once", "later", "never"]),
        observed_first=st.booleans(),
        cleans_up=st.booleans(),
    )
    def create(
        self,
        pick: int,
        name: str,
        detached: bool,
        max_restarts: int,
        get_if_exists: bool,
        ready: str,
        observed_first: bool,
        cleans_up: bool,
    ) -> None:
        owner = self.caller(pick)
        actor_id = ActorId(next(self.numbers).to_bytes(12, "big") + owner.job)
        driver = self.drivers[owner.job]
        spec = make_spec(actor_id, owner, driver, name, detached, max_restarts, cleans_up)
        if observed_first:
            self.hand_over(OBSERVER, SubscribeActor(actor_id))
        self.send(owner, CreateActor(next(self.numbers), spec, get_if_exists, ready == "at once"))
        if ready == "never":
            self.never_ready.add(actor_id)
        elif ready == "later":
            self.send(owner, ActorReady(spec, b"" if pick % 3 else b"pickled error"))

    @precondition(lambda self: self.specs and self.callers())
    @rule(pick=PICK, which=PICK, no_restart=st.booleans())
    def kill(self, pick: int, which: int, no_restart: bool) -> None:
        self.send(self.caller(pick), KillActor(next(self.numbers), self.known_actor(which), no_restart))

    @precondition(lambda self: self.specs)
    @rule(which=PICK)
    def let_go(self, which: int) -> None:
        spec = self.specs[self.known_actor(which)]
        if owner := self.processes.get(spec.owner):
            self.send(owner, ActorOutOfScope(spec.actor_id))

    def staying(self) -> list[Address]:
        """Drivers that have not said that they are about to leave."""
        return [d for d in self.drivers.values() if d in self.processes and d not in self.farewells.values()]

    @precondition(lambda self: self.specs and self.staying())
    @rule(pick=PICK)
    def program_ends(self, pick: int) -> None:
        driver = self.staying()[pick % len(self.staying())]
        req = next(self.numbers)
        self.farewells[req] = driver
        self.send(self.processes[driver], EndActors(req))

    @precondition(lambda self: self.specs and self.callers())
    @rule(pick=PICK, which=PICK)
    def subscribe(self, pick: int, which: int) -> None:
        self.send(self.caller(pick), SubscribeActor(self.known_actor(which)))

    @precondition(lambda self: self.specs)
    @rule(which=PICK)
    def observe(self, which: int) -> None:
        self.hand_over(OBSERVER, SubscribeActor(self.known_actor(which)))

    @rule(name=st.sampled_from(["ann", "bob", "an"]))
    def find(self, name: str) -> None:
        self.hand_over(OBSERVER, FindActor(next(self.numbers), name, "space"))

    # --- time passes ------------------------------------------------------------------------------

    def busy_links(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.to_gcs]

    @precondition(lambda self: self.busy_links())
    @rule(pick=PICK, most=st.integers(1, 5))
    def gcs_hears(self, pick: int, most: int) -> None:
        node = self.busy_links()[pick % len(self.busy_links())]
        for _ in range(min(most, len(node.to_gcs))):
            sender, message = node.to_gcs.popleft()
            self.hand_over(sender, message)
            if isinstance(message, REPEATABLE):
                self.old_news.append((sender, message))

    @precondition(lambda self: self.old_news)
    @rule(pick=PICK)
    def old_news_arrives_again(self, pick: int) -> None:
        self.hand_over(*self.old_news[pick % len(self.old_news)])

    @precondition(lambda self: any(node.orders for node in self.nodes.values()))
    @rule(most=st.integers(1, 5))
    def raylets_obey(self, most: int) -> None:
        for node in self.nodes.values():
            for _ in range(min(most, len(node.orders))):
                self.obey(node, node.orders.popleft())

    def obey(self, node: Node, message: Message) -> None:
        if isinstance(message, PlaceActor):
            node.waiting.append(message)
        elif isinstance(message, CancelPlacement):
            place = (message.actor_id, message.incarnation)
            node.waiting = [w for w in node.waiting if (w.spec.actor_id, w.incarnation) != place]
        elif isinstance(message, StopActor):
            for process in list(self.processes.values()):
                if (process.actor_id, process.incarnation) == (message.actor_id, message.incarnation):
                    process.finishing = True
                    if not message.graceful:
                        self.die(process, intended=True)

    def with_room_wanted(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.waiting]

    @precondition(lambda self: self.with_room_wanted())
    @rule(pick=PICK)
    def place(self, pick: int) -> None:
        nodes = self.with_room_wanted()
        node = nodes[pick % len(nodes)]
        wanted = node.waiting.pop(pick % len(node.waiting))
        address = self.new_address(node.node_id)
        spec = wanted.spec
        self.processes[address] = process = Process(
            address, spec.job.job_id, spec.actor_id, wanted.incarnation
        )
        self.send(process, ActorPlaced(spec.actor_id, wanted.incarnation, address, 4711))

    @precondition(lambda self: self.with_room_wanted())
    @rule(pick=PICK, infeasible=st.booleans(), given_up=st.booleans())
    def find_no_room(self, pick: int, infeasible: bool, given_up: bool) -> None:
        node = self.with_room_wanted()[pick % len(self.with_room_wanted())]
        wanted = node.waiting[-1]
        given_up = given_up and not infeasible
        if infeasible or given_up:
            node.waiting.pop()
        message = ActorUnplaceable(wanted.spec.actor_id, wanted.incarnation, "no room", infeasible, given_up)
        node.to_gcs.append((OBSERVER, message))

    @rule()
    def pauses_end(self) -> None:
        self.now += 0.5
        self.perform(self.table.start_due(self.now), OBSERVER, None)

    def constructing(self) -> list[Process]:
        return [each for each in self.processes.values() if each.actor_id and not each.constructed]

    @precondition(lambda self: self.constructing())
    @rule(pick=PICK, raises=st.sampled_from([False, False, False, True]))
    def constructor_ends(self, pick: int, raises: bool) -> None:
        process = self.constructing()[pick % len(self.constructing())]
        assert process.actor_id is not None
        process.constructed = True
        error = b"pickled error" if raises else b""
        self.send(process, ActorStarted(process.actor_id, process.incarnation, error))

    @precondition(lambda self: self.processes)
    @rule(pick=PICK, intended=st.booleans())
    def some_process_ends(self, pick: int, intended: bool) -> None:
        """A crash, exit_actor(), a driver that ends, or a graceful stop that is done."""
        actors = [each for each in self.processes.values() if each.actor_id]
        choices = actors if actors and pick < 45 else list(self.processes.values())
        self.die(choices[pick % len(choices)], intended)

    def die(self, process: Process, intended: bool) -> None:
        del self.processes[process.address]
        certificate = DeathCertificate(process.address, node_of(process.address), 4711, exit_code=1)
        gone = CoreWorkerGone(
            process.address, certificate, intended, process.actor_id or b"", process.incarnation
        )
        self.send(process, gone)
        if process.actor_id is None:
            self.send(process, JobEnded(process.job))

    @precondition(lambda self: len(self.nodes) > 1)
    @rule(heard_first=st.booleans())
    def a_node_is_lost(self, heard_first: bool) -> None:
        """The second one, with all that runs there and all that was on its way."""
        lost = NODES[1]
        node = self.nodes[lost]
        while heard_first and node.to_gcs:
            self.hand_over(*node.to_gcs.popleft())
        del self.nodes[lost]
        for address in [each for each in self.processes if node_of(each) == lost]:
            del self.processes[address]
        self.perform(self.table.handle_node_gone(lost, "unplugged", self.now), OBSERVER, None)

    @rule(most=st.integers(1, 12))
    def things_take_their_course(self, most: int) -> None:
        """Several ordinary steps in a row: without this, most actors would never get to live."""
        for _ in range(most):
            self.take_a_step()

    # --- what must hold ---------------------------------------------------------------------------

    @invariant()
    def table_is_sound(self) -> None:
        self.table.check_invariants()

    def teardown(self) -> None:
        self.let_everything_arrive()
        infos = {info.actor_id: info for info in self.table.infos()}
        for actor_id, info in infos.items():
            homes = [each for each in self.processes.values() if each.actor_id == actor_id]
            expected = 1 if info.state == State.ALIVE.name else 0
            assert len(homes) == expected, f"{info.state} with {len(homes)} processes"
            waits = actor_id in self.never_ready and self.specs[actor_id].owner in self.processes
            at_rest = ("ALIVE", "DEAD", "DEPENDENCIES_UNREADY")[: 3 if waits else 2]
            assert info.state in at_rest, f"for ever {info.state}: {self.table.story(actor_id)}"
            if actor_id in self.must_end or self.owner_is_gone(actor_id):
                assert info.state == "DEAD"
        waiting = set(self.farewells.values()) & self.processes.keys()
        assert not waiting, "a driver waits for actors that have ended"
        self.check_names({(i.name, i.namespace) for i in infos.values() if i.name and i.state != "DEAD"})

    def owner_is_gone(self, actor_id: ActorId) -> bool:
        spec = self.specs.get(actor_id)
        return spec is not None and not spec.detached and spec.owner not in self.processes

    def check_names(self, living: set[tuple[str, str]]) -> None:
        (answer,) = self.table.handle_list(OBSERVER, ListNamedActors(1, True, ""))
        assert isinstance(answer.message, NamedActors)
        assert set(answer.message.actors) == living

    def let_everything_arrive(self) -> None:
        """No more accidents: all that waits happens."""
        for _ in range(2_000):
            if not self.take_a_step():
                finishing = [each for each in self.processes.values() if each.finishing]
                if not finishing:
                    return
                self.die(finishing[0], intended=True)
        raise AssertionError("the world does not come to rest")

    def take_a_step(self) -> bool:
        """Whether there was anything left that happens by itself."""
        if self.busy_links():
            self.gcs_hears(0, 50)
        elif any(node.orders for node in self.nodes.values()):
            self.raylets_obey(50)
        elif self.with_room_wanted():
            self.place(0)
        elif self.constructing():
            self.constructor_ends(0, False)
        else:
            return False
        return True


def make_spec(
    actor_id: ActorId,
    owner: Process,
    driver: Address,
    name: str,
    detached: bool,
    max_restarts: int,
    cleans_up: bool,
) -> ActorSpec:
    job = JobDescription(owner.job, "space", [], b"/", b"", {}, False, driver)
    return ActorSpec(
        actor_id,
        job,
        owner.address,
        FunctionKey(b"class"),
        "Counter",
        b"arguments",
        [],
        [],
        {"CPU": 10_000},
        {},
        name=name,
        namespace="space",
        detached=detached,
        max_restarts=max_restarts,
        call_site="app.py:12",
        cleans_up=cleans_up,
    )


TestActorWorld = ActorWorld.TestCase
TestActorWorld.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
