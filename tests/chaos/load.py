"""A program under load, made to be killed or to have its cluster killed. Run by the tests beside it.

    python load.py killed          works until it is killed; when its cluster is lost: a new one, then the end
    python load.py serve           works until a line comes on stdin; then settles everything and reports
    python load.py sys.exit …      works for a moment, then ends in that way

What each piece of work may come to is written down when it is submitted; whatever else happens is a failure.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from typing import Any

import numpy

import beamlet as ray
from beamlet.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    RaySystemError,
    WorkerCrashedError,
)

#: Far above what any piece of work takes, killed and run again as it may be.
DEADLINE_S = 40.0
#: Pieces of work under way at once.
MOST = 40


def note(text: str) -> None:
    """One line in a file that outlives whoever wrote it."""
    fd = os.open(os.environ["CHAOS_EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


@ray.remote(max_retries=-1)
def square(i: int) -> int:
    note(f"square {i}")
    if i % 7 == 0:
        print(f"squaring {i}")
    time.sleep(0.001 * (i % 5))
    return i * i


@ray.remote(max_retries=-1)
def family(i: int) -> int:
    return sum(ray.get([square.remote(i), square.remote(i + 1)], timeout=DEADLINE_S))


@ray.remote(max_retries=-1)
def array(i: int) -> Any:
    return numpy.full(50_000, i)


@ray.remote(max_retries=-1)
def total(values: Any) -> int:
    return int(values.sum())


@ray.remote(max_retries=-1)
def mother(i: int) -> int:
    """Leaves a child behind, every other time in a session of its own."""
    subprocess.Popen(["sleep", "1000"], start_new_session=i % 2 == 0)
    return i


@ray.remote(max_retries=0)
def once(i: int) -> int:
    time.sleep(0.003)
    return i


@ray.remote(max_restarts=-1, max_task_retries=-1)
class Steady:
    def increment(self, i: int) -> int:
        note(f"increment {i}")
        return i + 1


@ray.remote(max_restarts=1, max_task_retries=0)
class Brittle:
    def echo(self, i: int) -> int:
        return i


class Load:
    """Work under way, and what became of it."""

    def __init__(self) -> None:
        #: ref → (what, expected value, errors that are as good)
        self.pending: dict[Any, tuple[str, Any, tuple[type[Exception], ...]]] = {}
        self.counts: dict[str, int] = {}
        self.failures: list[str] = []
        self.number = 0
        self.steady = Steady.remote()
        self.brittle = Brittle.remote()

    def round(self) -> None:
        i = self.number = self.number + 10
        retried: tuple[type[Exception], ...] = ()
        for k in range(4):
            self.pending[square.remote(i + k)] = ("square", (i + k) ** 2, retried)
        self.pending[family.remote(i)] = ("family", i * i + (i + 1) ** 2, retried)
        self.pending[total.remote(array.remote(i))] = ("total", 50_000 * i, retried)
        self.pending[total.remote(ray.put(numpy.full(50_000, i)))] = ("total of put", 50_000 * i, retried)
        self.pending[once.remote(i)] = ("once", i, (WorkerCrashedError,))
        self.pending[self.steady.increment.remote(i)] = ("increment", i + 1, retried)
        self.pending[self.brittle.echo.remote(i)] = ("echo", i, (ActorDiedError, ActorUnavailableError))
        if i % 100 == 0:
            self.pending[mother.remote(i // 100)] = ("mother", i // 100, retried)
        if len(self.pending) > MOST:
            self.settle(len(self.pending) - MOST // 2)

    def settle(self, count: int) -> None:
        """Take in at least ``count`` outcomes."""
        ready, _ = ray.wait(list(self.pending), num_returns=count, timeout=DEADLINE_S)
        if len(ready) < count:
            ready = list(self.pending)  # the gets below say what they wait for
        for ref in ready:
            what, expected, errors = self.pending.pop(ref)
            try:
                value = ray.get(ref, timeout=1.0)
            except errors as error:
                self._count(f"{what}: {type(error).__name__}")
                if isinstance(error, WorkerCrashedError) and "signal" not in str(error).lower():
                    self.failures.append(f"no certificate: {error}")
                if isinstance(error, ActorDiedError):
                    self.brittle = Brittle.remote()
            except GetTimeoutError as error:
                self.failures.append(f"{what} never came: {error}")
            except RaySystemError:
                raise
            except Exception as error:
                self.failures.append(f"{what}: {type(error).__name__}: {error}")
            else:
                self._count(what)
                if value != expected:
                    self.failures.append(f"{what} is {value}, expected {expected}")

    def _count(self, outcome: str) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + 1

    def report(self) -> None:
        self.settle(len(self.pending))
        report = {"failures": self.failures, "counts": self.counts, "last": self.number}
        print("REPORT " + json.dumps(report), flush=True)


def told_to_stop() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def works_on_after_the_loss(error: BaseException) -> None:
    """Nothing may hang, and a new cluster must work in the same process."""
    print(f"lost: {type(error).__name__}: {error}", flush=True)
    ray.shutdown()
    ray.init(num_cpus=2)
    assert ray.get(square.remote(3), timeout=DEADLINE_S) == 9
    ray.shutdown()
    print("recovered", flush=True)


def main(end: str) -> None:
    try:
        ray.init(num_cpus=2)
        load = Load()
        print("ready", flush=True)
        until = time.monotonic() + 0.3
        while end == "killed" or (time.monotonic() < until if end != "serve" else not told_to_stop()):
            load.round()
            assert not load.failures, load.failures
    except (RaySystemError, ConnectionError, RuntimeError) as error:
        works_on_after_the_loss(error)
        return
    if end == "serve":
        load.report()
    elif end == "sys.exit":
        sys.exit(3)
    elif end == "os._exit":
        os._exit(4)
    elif end == "exception":
        raise ValueError("at top level")


if __name__ == "__main__":
    main(sys.argv[1])
