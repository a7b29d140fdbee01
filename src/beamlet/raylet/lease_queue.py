"""Requests that wait for resources: first come first served per shape and client, fair between clients. ●

A *shape* is what decides where a request can run (amounts and strategy).  A large request at the head of one
shape never blocks another shape.  Among the clients whose oldest request of an open shape could run, the one
that holds the fewest leases is served first, ties by age: a client with ten thousand queued tasks does not
shut out one with a single task.  The queue decides only this order; whether a shape fits now is told to it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from msgspec import Struct

from beamlet.base.ids import ActorId, Address
from beamlet.base.resources import Amounts
from beamlet.protocol.node import JobDescription
from beamlet.scheduling.placement import Demand

#: Environment variables of a runtime env, sorted: workers are never shared between different ones.
EnvKey = tuple[tuple[str, str], ...]
Shape = tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...], str, bool]


class RequestKey(NamedTuple):
    """What a request is known by to whoever made it."""

    #: A core worker's address, or the id of the actor that the GCS places.
    asker: bytes
    #: ``req`` of a core worker, or the actor's incarnation.
    number: int


def env_key(env_vars: dict[str, str]) -> EnvKey:
    return tuple(sorted(env_vars.items()))


class Request(Struct, eq=False):
    """One wish for a worker: to push tasks to (a core worker asks) or for an actor (the GCS asks)."""

    key: RequestKey
    #: Whose turn it costs: the asking core worker, or the actor's owner.
    client: Address
    #: Travels with the request to the worker: what is asked for after a job has ended can still be run.
    job: JobDescription
    #: What it takes while the lease lasts.
    resources: Amounts
    name: str
    env: EnvKey = ()
    strategy: str = "DEFAULT"
    #: A node must own this much to be chosen; nothing of it is held (placement.Demand.to_place).
    to_place: Amounts = {}
    #: None for a task lease.
    actor: ActorId | None = None
    #: It outlives its job: for a detached actor, or asked for by what works for one.
    lasting: bool = False
    call_site: str = ""
    #: Tasks waiting behind this request.
    backlog: int = 1
    #: Monotonic seconds, set when it is submitted.
    since: float = 0.0
    #: Order of arrival at this raylet.
    order: int = 0
    #: What the asker was last told it waits for.
    told: str = ""

    @property
    def demand(self) -> Demand:
        return Demand(self.resources, self.strategy, self.to_place)

    @property
    def shape(self) -> Shape:
        amounts, to_place = tuple(sorted(self.resources.items())), tuple(sorted(self.to_place.items()))
        return amounts, to_place, self.strategy, self.actor is not None


class LeaseQueue:
    """The waiting requests. Counts held leases per client only to be fair; the manager tells it of them."""

    def __init__(self) -> None:
        self._shapes: dict[Shape, dict[Address, deque[Request]]] = {}
        self._by_key: dict[RequestKey, Request] = {}
        #: Task leases each client holds. Actors do not count: they stay, and would starve their owner.
        self.held: Counter[Address] = Counter()

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Request]:
        """All waiting requests, oldest first."""
        return iter(list(self._by_key.values()))

    def __contains__(self, key: RequestKey) -> bool:
        return key in self._by_key

    def get(self, key: RequestKey) -> Request | None:
        return self._by_key.get(key)

    def add(self, request: Request) -> None:
        assert request.key not in self._by_key, f"asked twice: {request.name} {request.key}"
        self._by_key[request.key] = request
        self._shapes.setdefault(request.shape, {}).setdefault(request.client, deque()).append(request)

    def remove(self, request: Request) -> None:
        del self._by_key[request.key]
        clients = self._shapes[request.shape]
        clients[request.client].remove(request)
        if not clients[request.client]:
            del clients[request.client]
        if not clients:
            del self._shapes[request.shape]

    def of_client(self, client: Address) -> list[Request]:
        return [request for request in self._by_key.values() if request.client == client]

    def next(self, shape_is_open: Callable[[Request], bool]) -> Request | None:
        """The request to serve now; ``shape_is_open`` is asked at most once per shape, with one of its
        requests: of every shape, if none is open."""
        best: Request | None = None
        best_rank = (0, 0)
        for clients in self._shapes.values():  # there may be thousands: each task may ask for its own memory
            first = min((waiting[0] for waiting in clients.values()), key=self._rank)
            rank = self._rank(first)
            if (best is None or rank < best_rank) and shape_is_open(first):
                best, best_rank = first, rank
        return best

    def _rank(self, request: Request) -> tuple[int, int]:
        return self.held[request.client], request.order
