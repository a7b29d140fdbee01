"""The core workers of this node that the raylet talks to: their addresses, connections and jobs.

Knows who is here and who was; what is said over the connections is the business of the services.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Protocol

from msgspec import Struct, field

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import Address, JobId, NodeId, WorkerId, make_address, short
from beamlet.protocol import gcs, node
from beamlet.protocol.message import Message
from beamlet.rpc.containment import Misuse
from beamlet.rpc.limits import FROM_CORE_WORKER_BYTES

#: Everything a core worker may say to its raylet; anything else closes its connection.
FromCoreWorker = (
    node.DriverHello
    | node.WorkerReady
    | node.RequestLease
    | node.CancelLeaseRequest
    | node.ReturnLease
    | node.ForceCancel
    | node.Blocked
    | node.Unblocked
    | node.ConnectPeer
    | node.CreateObject
    | node.SealObject
    | node.AbortObject
    | node.PinObject
    | node.UnpinObject
    | node.DeleteObjects
    | node.LeaseSlab
    | node.ReturnSlab
    | node.DeathHeard
    | node.OutputMark
    | node.OutputPrinted
    | node.ExitedOnPurpose
    | node.Staying
    | node.Goodbye
    | node.DescribeTask
    | node.WhyPending
    | node.EventsTold
    | gcs.Request
)

#: How many of the dead are remembered, so that those who ask for them later learn how they ended.
_DEAD_REMEMBERED = 2000
#: Of their last words, so many characters.
_WORDS_REMEMBERED = 8 << 20
_UNITS_MAX = 1 << 62
#: A connection is flushed after this many descriptors: the receiver's buffer for them is bounded.
_FDS_AT_ONCE = 32


class PeerMisuse(Misuse):
    """A core worker said what it must not say now; its connection is closed."""


def check_amounts(name: str, *amounts: dict[str, int]) -> None:
    """Raises PeerMisuse for a request that would give instead of take, or is beyond what can be added up."""
    if not all(0 <= units < _UNITS_MAX for each in amounts for units in each.values()):
        raise PeerMisuse(f"{name!r} asks for impossible amounts: {amounts}")


class Line(Protocol):
    """What services use of a member's connection."""

    context: Any
    label: str
    #: Told when ``is_full`` changes.
    on_full: Callable[[bool], None] | None

    @property
    def closed(self) -> bool: ...
    @property
    def backlog_bytes(self) -> int: ...
    @property
    def is_full(self) -> bool: ...
    def send(self, message: Message, fd: int = -1, /, *more_fds: int) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
    def read(self, buffer: bytearray, /) -> bool: ...
    def limit_frames(self, most_bytes: int, /) -> None: ...


#: The level's number in logging, a module that the head does without.
_WARNING = 30


class Member(Struct, eq=False):
    """A driver, an observer (CLI) or a worker process."""

    worker_id: WorkerId
    address: Address
    connection: Line
    #: What the object store knows it by.
    number: int
    pid: int = 0
    #: What it runs, or drives: None for an observer, and for a worker that nobody has used yet.
    job: node.JobDescription | None = None
    is_driver: bool = False
    #: The cluster ends when it goes.
    owns_cluster: bool = False
    #: It said goodbye, or was killed, or is gone: what else it says is ignored (but see ``is_still_heard``).
    leaving: bool = False
    joined_at: float = 0.0
    #: Large answers that wait until it has read others (raylet/deliveries.py).
    held: deque[tuple[int, Message]] = field(default_factory=deque)
    held_bytes: int = 0
    _fds_sent: int = 0

    def send(self, message: Message) -> None:
        self.connection.send(message)

    def send_with_fd(self, message: Message, fd: int) -> None:
        """The caller keeps its own ``fd``."""
        self.connection.send(message, fd)
        self._fds_sent += 1
        if self._fds_sent % _FDS_AT_ONCE == 0:
            self.connection.flush()


def is_still_heard(leaving: Member, message: object) -> bool:
    """A worker that is being killed may finish a result, and tell its owner: then it must be in the store."""
    return type(message) is node.SealObject and not leaving.is_driver


class Members:
    """Who is here, by address and by store number; and how those who were here ended."""

    def __init__(self, node_id: NodeId) -> None:
        self.node_id = node_id
        self._by_address: dict[Address, Member] = {}
        self._by_number: dict[int, Member] = {}
        self._drivers: dict[JobId, Member] = {}
        #: What every driver should know of this node.
        self.warnings: list[str] = []
        self._numbers = count(1)
        self._dead: dict[Address, DeathCertificate] = {}
        self._dead_words = 0

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._by_address.values()))

    def join(self, worker_id: WorkerId, connection: Line, now: float) -> Member:
        address = make_address(self.node_id, worker_id)
        member = Member(worker_id, address, connection, next(self._numbers), joined_at=now)
        self._by_address[address] = self._by_number[member.number] = member
        connection.context = member
        connection.label = f"core worker {short(worker_id)}"
        connection.limit_frames(FROM_CORE_WORKER_BYTES)
        return member

    def drives(self, member: Member, job: node.JobDescription) -> None:
        """``member`` is the driver of ``job``."""
        member.job = job
        self._drivers[job.job_id] = member

    def warn_drivers(self, text: str, later_too: bool = False) -> None:
        """Through their logging. ``later_too``: it concerns drivers that are still to come."""
        if later_too:
            self.warnings.append(text)
        for driver in self._drivers.values():
            driver.send(node.Notice(_WARNING, text))

    def tell_warnings(self, newcomer: Member) -> None:
        """Behind its welcome."""
        for text in self.warnings:
            newcomer.send(node.Notice(_WARNING, text))

    def vanish(self, member: Member) -> None:
        """It was never born (its fork failed)."""
        del self._by_address[member.address]
        del self._by_number[member.number]

    def leave(self, address: Address, certificate: DeathCertificate) -> Member | None:
        member = self._by_address.pop(address, None)
        if member is not None:
            member.leaving = True
            if member.is_driver and member.job is not None:
                del self._drivers[member.job.job_id]
            del self._by_number[member.number]
        self._dead[address] = certificate
        self._dead_words += certificate.words_size
        while len(self._dead) > _DEAD_REMEMBERED or self._dead_words > _WORDS_REMEMBERED:
            self._dead_words -= self._dead.pop(next(iter(self._dead))).words_size
        return member

    def get(self, address: Address) -> Member | None:
        return self._by_address.get(address)

    def worker(self, worker_id: WorkerId) -> Member | None:
        return self._by_address.get(make_address(self.node_id, worker_id))

    def numbered(self, number: int) -> Member | None:
        return self._by_number.get(number)

    def driver_of(self, job: JobId) -> Member | None:
        return self._drivers.get(job)

    def certificate(self, address: Address) -> DeathCertificate | None:
        """How it ended, if it was here and that is not too long ago."""
        return self._dead.get(address)
