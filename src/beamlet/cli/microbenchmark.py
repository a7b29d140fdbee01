"""``beamlet microbenchmark``: how fast is it here? Under Ray's names and in its format.

A small set, for a look.  benchmarks/ compares with Ray, alternating, and against floors.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import beamlet
from beamlet.cli.terminal import Paint

#: Batches measured, and how long each is.
_ROUNDS = 4
_ROUND_S = 0.5
_WARM_UP_S = 0.2

#: name, what to run, how many operations one run of it is.
Workload = tuple[str, Callable[[], Any], float]


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "microbenchmark",
        help="measure calls per second on this machine",
        description="Measure tasks, actor calls, puts and gets per second on this machine.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--num-cpus", type=int, metavar="N", help="default: what this machine may use")
    parser.add_argument("--only", default="", metavar="TEXT", help="only those whose name contains TEXT")
    parser.add_argument("--quick", action="store_true", help="a tenth of the time, less certain figures")


def run(options: argparse.Namespace) -> int:
    paint = Paint.on(sys.stdout)
    scale = 0.1 if options.quick else 1.0
    os.environ["BEAMLET_ADVICE"] = "0"  # tiny calls in a loop are the point here
    # A cluster of its own, also beside one that others use.
    beamlet.init("local", num_cpus=options.num_cpus, log_to_driver=False)
    measured = 0
    try:
        for name, work, operations in workloads():
            if options.only in name:
                measured += 1
                mean, deviation = measure(work, operations, scale)
                print(f"{name} per second {paint('bold', f'{mean:.2f}')} +- {deviation:.2f}", flush=True)
    finally:
        beamlet.shutdown()
    if not measured:
        print(f"beamlet microbenchmark: no line has {options.only!r} in its name", file=sys.stderr)
    return 0 if measured else 1


def measure(work: Callable[[], Any], operations: float, scale: float = 1.0) -> tuple[float, float]:
    """Operations per second: mean and standard deviation over the rounds."""
    _repeat(work, _WARM_UP_S * scale)
    rates = []
    for _ in range(_ROUNDS):
        runs, seconds = _repeat(work, _ROUND_S * scale)
        rates.append(runs * operations / seconds)
    mean = sum(rates) / _ROUNDS
    return mean, math.sqrt(sum((rate - mean) ** 2 for rate in rates) / _ROUNDS)


def _repeat(work: Callable[[], Any], seconds: float) -> tuple[int, float]:
    start, runs = perf_counter(), 0
    while True:
        work()
        runs += 1
        spent = perf_counter() - start
        if spent >= seconds:
            return runs, spent


def small_value() -> bytes:
    return b"ok"


class Server:
    def call(self) -> bytes:
        return b"ok"


class AsyncServer:
    async def call(self) -> bytes:
        return b"ok"


def workloads() -> Iterator[Workload]:
    """In Ray's order and under its names. Actors are made when their line is reached."""
    get = beamlet.get
    ref = beamlet.put(0)
    yield "single client get calls", lambda: get(ref), 1
    yield "single client put calls", lambda: beamlet.put(0), 1
    block = bytearray(100 << 20)
    yield "single client put gigabytes", lambda: beamlet.put(block), 0.1
    task: Any = beamlet.remote(small_value)
    yield "single client wait 1k refs", lambda: _wait_one_by_one([task.remote() for _ in range(1000)]), 1
    yield "single client tasks sync", lambda: get(task.remote()), 1
    yield "single client tasks async", lambda: get([task.remote() for _ in range(1000)]), 1000
    server: Any = beamlet.remote(Server)
    actor = server.remote()
    yield "1:1 actor calls sync", lambda: get(actor.call.remote()), 1
    yield "1:1 actor calls async", lambda: get([actor.call.remote() for _ in range(1000)]), 1000
    beamlet.kill(actor)
    actors = [server.remote() for _ in range(2)]
    yield "1:n actor calls async", lambda: get([a.call.remote() for a in actors for _ in range(500)]), 1000
    for each in actors:
        beamlet.kill(each)
    async_server: Any = beamlet.remote(AsyncServer)
    async_actor = async_server.remote()
    yield "1:1 async-actor calls sync", lambda: get(async_actor.call.remote()), 1
    yield "1:1 async-actor calls async", lambda: get([async_actor.call.remote() for _ in range(1000)]), 1000


def _wait_one_by_one(refs: list[Any]) -> None:
    while refs:
        _, refs = beamlet.wait(refs)
