"""The submitting room of one process without sockets: what is sent is kept, what comes is said by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import ActorId, Address, FunctionKey, JobId, TaskId
from beamlet.core_worker.context import Contexts, TaskContext
from beamlet.core_worker.owning import unseen
from beamlet.core_worker.owning.own_slab import OwnSlab, Place
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.submitting.actors import ActorAccess
from beamlet.core_worker.submitting.arguments import Arguments
from beamlet.core_worker.submitting.cancelling import Cancelling
from beamlet.core_worker.submitting.leases import Leases
from beamlet.core_worker.submitting.obligations import Obligations
from beamlet.core_worker.submitting.outcomes import Outcomes
from beamlet.core_worker.submitting.raylets import Raylets
from beamlet.core_worker.submitting.results import ResultTaker
from beamlet.core_worker.submitting.submission import Submission
from beamlet.core_worker.submitting.task_spec import MethodTemplate, SchedulingKey, TaskTemplate
from beamlet.protocol.gcs import ActorSpec, ActorUpdate
from beamlet.protocol.message import Message
from beamlet.protocol.node import JobDescription, LeaseGranted, LeaseName, RequestLease
from beamlet.protocol.peer import CallActor, PushTask, Result, Results
from beamlet.serialization.values import Serialized, dump_error, dumps
from support.owner import NODE, FakeRef, Owner

ONE_CPU = SchedulingKey((("CPU", 10_000),))
ACTOR_JOB = JobId(b"\x01\0\0\0")
#: Every test has ids of its own: references that live on in another's traceback are not ours.
_numbers = itertools.count(1)


def on_the_wire(message: Message) -> Any:
    """What the other side reads: the message must be one that can travel, and changes no more."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=type(message))


class FakeRaylet:
    """Requests wait for the test to answer them."""

    def __init__(self, first_req: int = 1) -> None:
        self.sent: list[Any] = []
        self.awaited: dict[int, tuple[Any, Callable[[Any], None]]] = {}
        self._count = first_req - 1

    def send(self, message: Message) -> None:
        self.sent.append(on_the_wire(message))

    send_first = send

    def request(self, message: Any, on_answer: Callable[[Any], None]) -> int:
        self._count += 1
        message.req = self._count
        self.awaited[self._count] = on_the_wire(message), on_answer
        return self._count

    def call(self, message: Any) -> Any:
        raise AssertionError("it would wait")

    def take_socket(self) -> Any:
        return "a socket"

    def gone(self) -> Exception:
        return RuntimeError("the raylet is gone")

    def asked(self, kind: type) -> list[Any]:
        """Requests of a kind that wait for an answer."""
        return [message for message, _ in self.awaited.values() if isinstance(message, kind)]

    def answer(self, message: Any) -> None:
        _, on_answer = self.awaited.pop(message.req)
        on_answer(message)

    def took(self, kind: type) -> list[Any]:
        """Messages of a kind, and forget them."""
        taken = [message for message in self.sent if isinstance(message, kind)]
        self.sent = [message for message in self.sent if not isinstance(message, kind)]
        return taken


class Peers:
    """Peers without connections: what they are sent stays in their queues."""

    def __init__(self) -> None:
        self.by_address: dict[Address, Peer] = {}
        self.full: set[Any] = set()

    def get(self, address: Address) -> Peer:
        return self.by_address.setdefault(address, Peer(address))

    def adopt(self, address: Address, take_socket: Any, generation: int = 1) -> Peer:
        assert take_socket() == "a socket"
        return self.get(address)

    def wait_for_room(self, peer: Any) -> None:
        raise AssertionError("nobody is full")


class FakeStore:
    """Values are not written anywhere; which places they would lie at is decided by the real books."""

    def __init__(self, own: OwnSlab) -> None:
        self.own = own

    def put_in_place(self, values: Sequence[Serialized]) -> list[tuple[Place, int]] | None:
        places = [self.own.take(value.total_bytes) for value in values]
        if None in places:
            self.let_go([place for place in places if place is not None])
            return None
        return [(place, value.total_bytes) for place, value in zip(places, values, strict=True) if place]

    def let_go(self, places: Sequence[Place]) -> None:
        for place in places:
            self.own.let_go(place)

    def perform(self) -> None: ...


class Caller:
    """The room, composed as core_worker.py does. ``owner`` is the room on its left."""

    def __init__(self) -> None:
        self.owner = owner = Owner()
        self.now = 100.0
        self.reactor = owner.reactor
        self.reactor.now = lambda: self.now
        self.raylet, self.peers = FakeRaylet(), Peers()
        self.raylets = Raylets(NODE, self.raylet)
        contexts = Contexts(TaskContext(TaskId(next(_numbers).to_bytes(8, "big") + b"\xff" * 12 + ACTOR_JOB)))
        self.store = FakeStore(owner.own)
        store: Any = self.store
        self.outcomes = Outcomes(owner.refs, owner.objects, owner.streams, owner.unseen, owner.own)
        self.arguments = Arguments(owner.refs, owner.objects, owner.unseen, FakeRef, store)
        self.leases = Leases(self.reactor, self.raylets, self.peers, self.outcomes)
        self.actors = ActorAccess(
            *(self.reactor, self.raylet, self.peers, owner.refs, owner.objects, contexts),
            *(self.arguments, self.outcomes, owner.unseen, FakeRef),
        )
        peers: Any = self.peers
        self.submission = Submission(
            *(self.reactor, owner.refs, owner.releases, contexts, owner.streams, self.arguments),
            *(self.outcomes, self.leases.submitter, self.actors, FakeRef, lambda *parts: parts, peers),
            store,
        )
        self.results = ResultTaker(
            *(owner.refs, owner.objects, owner.streams, self.outcomes, self.leases, self.actors)
        )
        self.cancelling = Cancelling(
            *(self.reactor, self.raylets, self.peers, owner.refs, owner.releases, self.outcomes),
            *(self.leases.submitter, self.actors),
        )
        owner.releases.on_freed = self.actors.handle_freed
        self.obligations = Obligations(self.reactor, owner.refs, owner.releases, self.outcomes, self.actors)

    # -- the program -----------------------------------------------------------------------------

    def task(self, *args: Any, retries: int = 0, retry: Any = False, num_returns: int = 1) -> Any:
        """``f.remote(*args)``."""
        template = TaskTemplate(FunctionKey(b"f"), "f", num_returns, ONE_CPU, {"CPU": 10_000}, retries, retry)
        return self.submission.submit_task(template, args, {})

    def actor(self, *args: Any, restarts: int = 0, name: str = "", detached: bool = False) -> Any:
        """``A.remote(*args)``."""
        spec = ActorSpec(
            actor_id=ActorId(b""),
            job=JobDescription(ACTOR_JOB, "", [], b"", b"", {}, False, Address(b"")),
            owner=Address(b""),
            class_key=FunctionKey(b"A"),
            class_name="A",
            args=b"",
            deps=[],
            nested=[],
            placement_resources={},
            lifetime_resources={},
            name=name,
            detached=detached,
            max_restarts=restarts,
            call_site="app.py:7",
        )
        return self.actors.create(spec, args, {}, False)

    def someones_actor(self) -> Any:
        """An actor that another process has created."""
        actor = SimpleNamespace(actor_id=ActorId(next(_numbers).to_bytes(16, "big")))
        self.actors.subscribe(self.actors.link(actor.actor_id, "A"))
        return actor

    def call(self, actor: Any, *args: Any, retries: int = 0, retry: Any = False) -> Any:
        """``actor.m.remote(*args)``."""
        link = self.actors.link(actor.actor_id, "A")
        return self.submission.submit_call(link, MethodTemplate("m", 1, retries, retry), args, {})

    def promise(self) -> FakeRef:
        """A value that is still to come."""
        return self.owner.promise(next(_numbers))

    def outcome(self, ref: Any) -> Any:
        """The value of a result that is there, or its error."""
        try:
            return self.owner.objects.get([ref], 0)[0]
        except Exception as error:
            return error

    def is_pending(self, ref: Any) -> bool:
        return self.owner.refs.objects[ref._id].state == 0

    # -- the raylet and the GCS ------------------------------------------------------------------

    def grant(self, worker: bytes = b"w") -> Peer:
        """Answer the oldest lease request with ``worker``."""
        request = self.raylet.asked(RequestLease)[0]
        address = Address(worker.ljust(32, b"w"))
        lease = LeaseName(NODE, request.req)
        fresh = address not in self.peers.by_address
        self.raylet.answer(LeaseGranted(request.req, lease, address, 77, {}, fresh))
        return self.peers.by_address[address]

    def tell(self, actor: Any, state: str, incarnation: int = 0, **facts: Any) -> Peer:
        """The GCS tells of an actor; the peer that it is, if it lives."""
        address = Address(b"a%d" % incarnation).ljust(32, b"a")
        self.actors.updated(ActorUpdate(actor.actor_id, state, address, incarnation, **facts))
        return self.peers.get(address)

    def die(self, peer: Peer, certificate: DeathCertificate | None = None, given_up: str = "") -> None:
        """The raylet's word, with or without a certificate (it was given up)."""
        peer.certificate = certificate
        self.peers.by_address.pop(peer.address)
        if peer.leased is not None:
            self.leases.worker_lost(peer)
        if peer.actor is not None:
            self.actors.peer_gone(peer.actor, given_up)

    # -- the workers -----------------------------------------------------------------------------

    def pushed(self, peer: Peer) -> list[PushTask | CallActor]:
        """The work that it was sent since the last look."""
        sent, peer.queue = peer.queue, []
        return [on_the_wire(m) for m in sent if isinstance(m, PushTask | CallActor)]

    def sent(self, peer: Peer) -> list[Any]:
        sent, peer.queue = peer.queue, []
        return [on_the_wire(message) for message in sent]

    def answer(self, peer: Peer, work: PushTask | CallActor, value: Any) -> None:
        data = dumps(value)
        assert isinstance(data, bytes)
        self._came(peer, Result(work.seq, data, 10))

    def answer_with(self, peer: Peer, message: Results) -> None:
        self._came(peer, message)

    def answer_error(self, peer: Peer, work: PushTask | CallActor, error: BaseException, *types: str) -> None:
        payload = dump_error(error)
        self._came(peer, Results(work.seq, [payload], 10, failed=True, error_types=types))

    def _came(self, peer: Peer, message: Result | Results) -> None:
        if isinstance(message, Result):
            self.results.take_result(peer, message)
        else:
            self.results.take_results(peer, message)
        if peer.leased is not None:
            self.leases.after_results(peer.leased)
        self.owner.releases.perform()

    # -- time ------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.reactor._run_timers()

    def check(self) -> None:
        """What holds at every moment."""
        self.leases.submitter.check_invariants()
        for link in self.actors.links.values():
            link.check_invariants()
        self.owner.refs.check_invariants()

    def close(self) -> None:
        self.owner.close()


def told(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what failed and nobody asked for, so far."""
    names: list[str] = []
    monkeypatch.setattr(unseen, "_tell", lambda errors: names.extend(error.name for error in errors))
    caller.owner.unseen.tell_all()
    return names


def certificate(**facts: Any) -> DeathCertificate:
    return DeathCertificate(b"w", NODE, 77, **facts)


def warmed(caller: Caller) -> Peer:
    """A worker whose tasks are short: several are pushed ahead."""
    caller.task()
    worker = caller.grant()
    caller.answer(worker, caller.pushed(worker)[0], 1)
    return worker
