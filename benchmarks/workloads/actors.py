"""Actor calls on plain classes: one caller and one actor, one and many, many and many; making actors.

Classes are defined inside the workloads, so that they travel by value: workers need not import this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.api import RayApi, Remote
from benchmarks.catalog import measures
from benchmarks.meter import Meter

BATCH = 1000
ACTORS = 4
CLIENTS = 4
THREADS = 16
CREATED = 40


def server(ray: RayApi) -> Remote:
    """An actor class whose methods do nothing, so that only the call is measured."""

    class Server:
        def small(self) -> bytes:
            return b"ok"

        def small_arg(self, value: object) -> bytes:
            return b"ok"

    return ray.remote(Server)


def client(ray: RayApi) -> Remote:
    """An actor class that calls other actors: `count` calls spread evenly over them, then one `get`."""

    class Client:
        def __init__(self, servers: Sequence[Any]) -> None:
            self.servers = servers

        def run(self, count: int) -> int:
            servers = self.servers
            return len(ray.get([servers[i % len(servers)].small.remote() for i in range(count)]))

        def run_with_arg(self, count: int) -> int:
            servers, value = self.servers, ray.put(0)
            return len(ray.get([servers[i % len(servers)].small_arg.remote(value) for i in range(count)]))

    return ray.remote(Client)


@measures("1:1 actor calls sync")
def one_to_one_sync(ray: RayApi, meter: Meter) -> Sequence[float]:
    """One actor; call it, get the result, call it again."""
    actor = server(ray).remote()
    return meter.rate(lambda: ray.get(actor.small.remote()))


@measures("1:1 actor calls async")
def one_to_one_async(ray: RayApi, meter: Meter) -> Sequence[float]:
    """One actor; 1000 calls, then get all results."""
    actor = server(ray).remote()
    return meter.rate(lambda: ray.get([actor.small.remote() for _ in range(BATCH)]), BATCH)


@measures("1:1 actor calls concurrent")
def one_to_one_concurrent(ray: RayApi, meter: Meter) -> Sequence[float]:
    """One actor with 16 threads; 1000 calls, then get all results."""
    actor = server(ray).options(max_concurrency=THREADS).remote()
    return meter.rate(lambda: ray.get([actor.small.remote() for _ in range(BATCH)]), BATCH)


@measures("1:n actor calls async")
def one_to_many(ray: RayApi, meter: Meter) -> Sequence[float]:
    """One client actor calls four actors, 1000 times in all."""
    servers = [server(ray).remote() for _ in range(ACTORS)]
    caller = client(ray).remote(servers)
    return meter.rate(lambda: ray.get(caller.run.remote(BATCH)), BATCH)


@measures("n:n actor calls async")
def many_to_many(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Four client actors each call four actors, 1000 times each."""
    clients = _clients_of_servers(ray)
    return meter.rate(lambda: ray.get([c.run.remote(BATCH) for c in clients]), BATCH * CLIENTS)


@measures("n:n actor calls with arg async")
def many_to_many_with_arg(ray: RayApi, meter: Meter) -> Sequence[float]:
    """As n:n, every call given a reference to a small object that the client has put."""
    clients = _clients_of_servers(ray)
    return meter.rate(lambda: ray.get([c.run_with_arg.remote(BATCH) for c in clients]), BATCH * CLIENTS)


@measures("40 actors created and called", deadline_s=180.0)
def create(ray: RayApi, meter: Meter) -> Sequence[float]:
    """Create 40 actors at once and call each; actors per second until the last has answered."""
    actor_class = server(ray)

    def make() -> list[Any]:
        actors = [actor_class.remote() for _ in range(CREATED)]
        ray.get([actor.small.remote() for actor in actors])
        return actors

    def unmake(actors: list[Any]) -> None:
        for actor in actors:
            ray.kill(actor)

    return meter.rate_making(make, unmake, CREATED)


def _clients_of_servers(ray: RayApi) -> list[Any]:
    servers = [server(ray).remote() for _ in range(ACTORS)]
    return [client(ray).remote(servers) for _ in range(CLIENTS)]
