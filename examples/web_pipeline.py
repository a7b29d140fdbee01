"""Requests through a pipeline of tasks and an actor, with never more than a fixed number in flight.

Requests arrive faster than they can be answered. Without a limit every one of them would queue, and
memory and waiting time would grow with the load. `wait` gives backpressure in four lines: when the
pipeline is full, take an answer out before putting the next request in.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import beamlet as ray

REQUESTS = 400
IN_FLIGHT = 16
USERS = 50


@dataclass(frozen=True)
class Request:
    number: int
    body: str


@dataclass(frozen=True)
class Response:
    number: int
    status: int
    text: str


class NotFound(Exception):
    """No user has this number."""


@ray.remote
class UserCache:
    """Shared state of the pipeline: looks each user up once, whoever asks."""

    def __init__(self) -> None:
        self.users: dict[int, str] = {}
        self.hits = self.misses = 0

    def name(self, user: int) -> str:
        if user >= USERS:
            raise NotFound(f"user {user}")
        if user in self.users:
            self.hits += 1
        else:
            self.misses += 1
            self.users[user] = f"user-{hashlib.sha256(str(user).encode()).hexdigest()[:6]}"
        return self.users[user]

    def statistics(self) -> tuple[int, int]:
        return self.hits, self.misses


@ray.remote
def parse(request: Request) -> dict[str, int]:
    return json.loads(request.body)


@ray.remote
def look_up(cache: ray.actor.ActorHandle, fields: dict[str, int]) -> str:
    return ray.get(cache.name.remote(fields["user"]))


@ray.remote
def render(request: Request, fields: dict[str, int], name: str) -> Response:
    digest = hashlib.pbkdf2_hmac("sha256", name.encode(), b"salt", 2000).hex()  # the page's real work
    return Response(request.number, 200, f"{name} ordered {fields['amount']} ({digest[:8]})")


def arrivals() -> Iterator[Request]:
    for number in range(REQUESTS):
        yield Request(number, json.dumps({"user": number * 7 % (USERS + 2), "amount": number % 9}))


def submit(cache: ray.actor.ActorHandle, request: Request) -> ray.ObjectRef:
    """Three stages; each starts when the values it takes are there."""
    fields = parse.remote(request)
    return render.remote(request, fields, look_up.remote(cache, fields))


def answer(reference: ray.ObjectRef, request: Request) -> Response:
    """An error in an earlier stage arrives here, as the exception it was raised as."""
    try:
        return ray.get(reference)
    except NotFound as error:
        return Response(request.number, 404, str(error))


def main() -> None:
    ray.init(num_cpus=2)
    cache = UserCache.remote()
    in_flight: dict[ray.ObjectRef, tuple[Request, float]] = {}
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    most = 0

    def take_one() -> None:
        (done,), _ = ray.wait(list(in_flight), num_returns=1)
        request, since = in_flight.pop(done)
        statuses[answer(done, request).status] += 1
        latencies.append(time.perf_counter() - since)

    started = time.perf_counter()
    for request in arrivals():
        if len(in_flight) >= IN_FLIGHT:
            take_one()
        in_flight[submit(cache, request)] = (request, time.perf_counter())
        most = max(most, len(in_flight))
    while in_flight:
        take_one()
    took = time.perf_counter() - started

    hits, misses = ray.get(cache.statistics.remote())
    latencies.sort()
    print(f"answered {len(latencies)} requests in {took:.2f} s: {len(latencies) / took:.0f} a second")
    print("status " + ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items())))
    print(f"never more than {most} in flight (limit {IN_FLIGHT})")
    print(f"cache: {hits} hits, {misses} misses")
    print(
        f"latency: median {latencies[len(latencies) // 2] * 1e3:.1f} ms, worst {latencies[-1] * 1e3:.1f} ms"
    )
    ray.shutdown()


if __name__ == "__main__":
    main()
