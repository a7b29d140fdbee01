"""One raylet's services without sockets, processes or time.

The deciders and services are the production ones; at their edges are lines that keep what is sent, a GCS that
is a list, and workers that live when the test says so.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from beamlet.base.ids import ActorId, FunctionKey, NodeId, WorkerId, job_id_of_int, make_address
from beamlet.base.resources import from_floats
from beamlet.object_store.store import ObjectStore
from beamlet.protocol import cluster, gcs, node
from beamlet.protocol.message import Message
from beamlet.raylet.death_service import DeathService
from beamlet.raylet.driver_service import DriverService
from beamlet.raylet.event_service import EventService
from beamlet.raylet.lease_service import LeaseService
from beamlet.raylet.lifelines import Lifelines
from beamlet.raylet.members import Member
from beamlet.raylet.node_services import NodeConfig, NodeServices
from beamlet.raylet.performer import Performer
from beamlet.raylet.store_service import StoreService
from beamlet.raylet.worker_record import AskExit, Assign, Exit, Fork, Kill
from support.hand_loop import HandLoop
from support.jobs import a_job

NODE = NodeId(b"n" * 28)
M = TypeVar("M", bound=Message)


class FakeLine:
    """Fits ``members.Line``."""

    def __init__(self) -> None:
        self.context: Any = None
        self.label = ""
        self.closed = False
        self.sent: list[Message] = []
        #: What went along.
        self.fds: list[int] = []
        self.backlog_bytes = 0
        self.is_full = False
        self.on_full: Callable[[bool], None] | None = None
        self.unread: list[Callable[[], None]] = []

    def send(self, message: Message, fd: int = -1, *more_fds: int) -> None:
        if not self.closed:
            self.sent.append(message)
            self.fds += [each for each in (fd, *more_fds) if each >= 0]

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    def read(self, buffer: bytearray, /) -> bool:
        """Handles the next of ``unread``."""
        if not self.unread:
            return False
        self.unread.pop(0)()
        return True

    def limit_frames(self, most_bytes: int) -> None: ...

    def take(self, kind: type[M]) -> list[M]:
        """What was sent of this kind; it is forgotten."""
        found = [message for message in self.sent if isinstance(message, kind)]
        self.sent = [message for message in self.sent if not isinstance(message, kind)]
        return found


class FakeDescriptors:
    """Descriptors are numbers. ``exhausted``: there are no more."""

    exhausted = False

    def __init__(self) -> None:
        self._numbers = count(100)
        #: Ends that were made, by descriptor.
        self.ends: dict[int, FakeEnd] = {}

    def dup(self, fd: int) -> int:
        if self.exhausted:
            raise OSError(24, "Too many open files")
        return 99

    def close(self, fd: int) -> None: ...

    def pair(self) -> tuple[Any, Any]:
        if self.exhausted:
            raise OSError(24, "Too many open files")
        one, other = FakeEnd(next(self._numbers)), FakeEnd(next(self._numbers))
        self.ends |= {one.fd: one, other.fd: other}
        return one, other


class FakeEnd(AbstractContextManager[None]):
    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.closed = False
        self.other_has_ended = False

    def __exit__(self, *_: object) -> None: ...

    def setblocking(self, flag: bool) -> None: ...

    def fileno(self) -> int:
        return self.fd

    def recv_into(self, buffer: bytearray) -> int:
        if not self.other_has_ended:
            raise BlockingIOError
        return 0

    def close(self) -> None:
        self.closed = True


class FakeOutput:
    """What the services ask of ``OutputService``; workers print nothing."""

    def __init__(self) -> None:
        self.router = self
        self.finished: list[WorkerId] = []

    def listen(self, job: bytes) -> None: ...
    def pass_on_all(self, job: bytes) -> None: ...
    def driver_gone(self, job: bytes) -> None: ...

    def finish(self, worker: WorkerId) -> None:
        self.finished.append(worker)

    def forget(self, worker: WorkerId) -> tuple[str, ...]:
        return ("its last words",)


class FakeArena:
    fd = 7
    capacity = 1 << 30

    def __init__(self) -> None:
        self.released: list[tuple[int, int]] = []

    def release_pages(self, offset: int, size: int) -> None:
        self.released.append((offset, size))


ACTOR = ActorId(b"a" * 16)


def a_spec(owner: Member, detached: bool = False, cpus: int = 0) -> gcs.ActorSpec:
    job = owner.job or a_job(9)
    amounts = {"CPU": cpus * 10_000} if cpus else {}
    return gcs.ActorSpec(
        ACTOR, job, owner.address, FunctionKey(b"c"), "A", b"", [], [], amounts, amounts, detached=detached
    )


class FakeNode:
    """``gcs``: what the GCS was sent. Workers are forked at once and are ready when ``ready`` says so."""

    def __init__(self, store_bytes: int = 1 << 30, warm_workers: int = 0, **resources: float) -> None:
        self.loop = HandLoop()
        self.gcs: list[Message] = []
        self.contained: list[BaseException] = []
        self.descriptors = FakeDescriptors()
        self.output = FakeOutput()
        self.arena = FakeArena()
        self.forked: list[WorkerId] = []
        self.killed: dict[WorkerId, str] = {}
        self.asked_to_exit: dict[WorkerId, bool] = {}
        self.assigned: dict[WorkerId, node.JobDescription] = {}
        self._jobs, ids = count(1), count(1)
        config = NodeConfig(
            NODE, Path("/s"), "node.sock", from_floats(resources or {"CPU": 2.0}), warm_workers, 10.0,
            "127.0.0.1", "h", "1.0", "3.11", owned=True,
        )  # fmt: skip
        performer = Performer(lambda error, where: self.contained.append(error))
        self.store = ObjectStore(store_bytes, 10.0)
        self.services = s = NodeServices.build(
            config, self.loop, self.descriptors, performer, self, lambda: WorkerId(b"%028d" % next(ids))
        )
        performer.on(Fork, self._fork)
        performer.on(Kill, lambda effect: self.killed.setdefault(effect.worker, effect.reason))
        performer.on(AskExit, lambda e: self.asked_to_exit.setdefault(e.worker, e.optional))
        performer.on(Assign, self._assign)
        self.events = EventService(s)
        self.leases = LeaseService(s, self.events)
        self.stores = StoreService(s, self.store, self.arena)  # type: ignore[arg-type]
        self.lifelines = Lifelines(self.descriptors, self.loop, self.stores)
        self.deaths = DeathService(
            s,
            self.output,
            self.stores,
            self.lifelines,
            self.events,
            self._mourned,  # type: ignore[arg-type]
        )
        self.drivers = DriverService(s, self.arena, self.output, self.deaths, self.lifelines)  # type: ignore[arg-type]

    # -- the GCS ---------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        self.gcs.append(message)

    def told(self, kind: type[M]) -> list[M]:
        """What the GCS was told of this kind; it is forgotten."""
        found = [message for message in self.gcs if isinstance(message, kind)]
        self.gcs = [message for message in self.gcs if not isinstance(message, kind)]
        return found

    # -- drivers ---------------------------------------------------------------------------------

    def knock(self, owns: bool = False, observer: bool = False, python: str = "3.11.7") -> FakeLine:
        """A visitor says hello; the GCS has not answered."""
        line = FakeLine()
        hello = node.DriverHello(
            1, python, "1.0", "ns", "app.py", [], b"", b"", {}, False, True, owns, observer=observer
        )
        self.drivers.hello(line, hello)
        return line

    def driver(self, owns: bool = False) -> Member:
        """One that has joined, with a job of its own."""
        line = self.knock(owns)
        self.give_job(line)
        member: Member = line.context
        return member

    def lifeline_ends(self, driver: Member) -> None:
        """It has ended, or let go of the store; and so have its forks."""
        ours: Any = self.lifelines._tied[driver.address].ours
        ours.other_has_ended = True
        self.loop.readers[ours.fileno()]()

    def killed_driver(self, driver: Member) -> None:
        self.drivers.gone(driver, "killed")
        self.lifeline_ends(driver)

    def give_job(self, line: FakeLine) -> None:
        self.drivers.job_started(cluster.JobStarted(line.context.address, job_id_of_int(next(self._jobs))))

    # -- workers ---------------------------------------------------------------------------------

    def _fork(self, effect: Fork) -> None:
        self.services.members.join(effect.worker, FakeLine(), self.loop.now())
        self.forked.append(effect.worker)

    def _assign(self, effect: Assign) -> None:
        member = self.services.members.worker(effect.worker)
        assert member is not None
        member.job = self.assigned[effect.worker] = effect.job

    def ready(self) -> list[WorkerId]:
        """All that were forked report; they are returned."""
        forked, self.forked = self.forked, []
        for worker in forked:
            self.services.perform(self.services.pool.ready(worker, 4711, self.loop.now()))
        return forked

    def die(self, worker: WorkerId, signal: int = 9) -> None:
        pool, now = self.services.pool, self.loop.now()
        self.services.perform(pool.outputs_drained(worker, now))
        self.services.perform(pool.child_exited(worker, Exit(signal=signal), now))

    def bury_the_killed(self) -> None:
        while self.killed:
            worker = next(iter(self.killed))
            del self.killed[worker]
            self.die(worker)

    def member(self, worker: WorkerId) -> Member:
        found = self.services.members.worker(worker)
        assert found is not None
        return found

    def _mourned(self, gone: cluster.CoreWorkerGone) -> None:
        if gone.actor_id:
            self.leases.forget_actor(gone.actor_id, gone.incarnation)  # type: ignore[arg-type]
        self.drivers.farewells()

    # -- leases ----------------------------------------------------------------------------------

    def ask(self, who: Member, req: int, cpus: float = 1, **more: Any) -> None:
        self.leases.request(who, node.RequestLease(req, from_floats({"CPU": cpus}), "f", **more))

    def place(self, spec: gcs.ActorSpec, incarnation: int = 0, class_pickle: bytes = b"") -> None:
        owner = self.services.members.get(spec.owner)
        lasting = spec.detached or (owner is not None and self.services.pool.is_lasting(owner.worker_id))
        self.leases.place(cluster.PlaceActor(spec, incarnation, class_pickle, lasting))

    def free(self) -> float:
        return self.services.leases.view[NODE].available["CPU"] / 10_000

    def check(self) -> None:
        self.services.leases.check_invariants()
        self.services.pool.check_invariants()
        self.store.check_invariants()
        assert not self.contained, self.contained


def line_of(member: Member) -> FakeLine:
    line = member.connection
    assert isinstance(line, FakeLine)
    return line


def address(name: bytes) -> bytes:
    return make_address(NODE, WorkerId(name.ljust(28, b"_")))
