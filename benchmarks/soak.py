"""Does anything grow? Mixed load with random worker kills, and what driver, head and workers hold meanwhile.

    .venv/bin/python benchmarks/soak.py --minutes 10

Samples resident and unique memory and descriptors of the driver, of the head and factory, and of the workers
(the mean of one).  The first part of the run warms up; of the rest the median slope (Theil and Sen's: a few
odd samples do not matter) must stay below what ``BOUNDS`` allows.  Prints the seed first; exit status 1 and a
table if something grows, or if a piece of work gave a wrong value.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import psutil

import beamlet as ray
from beamlet.exceptions import RayError

#: Of the run, before anything counts.
WARM_UP = 0.4
SAMPLE_S = 0.5
#: How much may be gained per minute: (MB of unique memory, descriptors).
BOUNDS = {"driver": (3.0, 2.0), "head": (2.0, 3.0), "factory": (1.0, 2.0), "worker": (2.0, 2.0)}
#: A short run sees noise as slope: over its measured part this much is no growth.
NOISE_MB, NOISE_FDS = 4.0, 8.0


@ray.remote(max_retries=-1)
def square(i: int) -> int:
    return i * i


@ray.remote(max_retries=-1)
def family(i: int) -> int:
    return sum(ray.get([square.remote(i), square.remote(i + 1)]))


@ray.remote(max_retries=-1)
def blob(size: int) -> bytes:
    return bytes(size)


@ray.remote(max_retries=-1)
def length(data: bytes) -> int:
    return len(data)


@ray.remote(max_retries=0)
def fail(i: int) -> int:
    raise ValueError(i)


@ray.remote(max_retries=-1)
def items(n: int) -> Iterator[int]:
    yield from range(n)


@ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
class Keeper:
    def __init__(self) -> None:
        self.kept: dict[int, Any] = {}

    def keep(self, key: int, refs: list[Any]) -> int:
        self.kept = {key: refs}
        return key

    def echo(self, value: int) -> int:
        return value


class Load:
    """Rounds of every kind of work; each checks what it got."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.keeper = Keeper.remote()
        self.rounds = 0
        #: Work that the kills explain: actors' state is lost, owners die.
        self.lost = 0

    def round(self) -> None:
        kinds: list[Callable[[], None]] = [
            self.bursts, self.nested, self.big, self.failures, self.generators, self.dropped, self.actors,
            self.kept, self.cancelled,
        ]  # fmt: skip
        for kind in self.chance.sample(kinds, len(kinds)):
            try:
                kind()
            except RayError:
                self.lost += 1
        self.rounds += 1

    def bursts(self) -> None:
        n = self.chance.choice([1, 50, 500])
        assert ray.get([square.remote(i) for i in range(n)]) == [i * i for i in range(n)]

    def nested(self) -> None:
        assert ray.get([family.remote(i) for i in range(4)]) == [i * i + (i + 1) ** 2 for i in range(4)]

    def big(self) -> None:
        size = self.chance.choice([150_000, 1_000_000])
        assert ray.get(length.remote(blob.remote(size))) == size
        assert len(ray.get(ray.put(bytes(size)))) == size

    def failures(self) -> None:
        try:
            ray.get(fail.remote(1))
        except ValueError:
            return
        raise AssertionError("a failing task gave a value")

    def generators(self) -> None:
        assert [ray.get(ref) for ref in items.remote(5)] == list(range(5))

    def dropped(self) -> None:
        generator = items.options(_generator_backpressure_num_objects=2).remote(50)
        next(generator)
        for i in range(5):
            square.remote(i)

    def actors(self) -> None:
        keeper = Keeper.remote()
        assert ray.get([keeper.echo.remote(i) for i in range(20)]) == list(range(20))

    def kept(self) -> None:
        assert ray.get(self.keeper.keep.remote(self.rounds, [ray.put(bytes(200_000))])) == self.rounds

    def cancelled(self) -> None:
        for ref in [square.remote(i) for i in range(20)]:
            ray.cancel(ref)


class Samples:
    """What each kind of process held, over time."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, str], list[tuple[float, float]]] = {}

    def take(self, now: float) -> None:
        driver = psutil.Process()
        workers: list[tuple[float, float]] = []
        self._add("driver", now, _held(driver))
        for process in driver.children(recursive=True):
            try:
                title = " ".join(process.cmdline())
                held = _held(process)
            except psutil.Error:
                continue  # it has just been killed
            if "beamlet::factory" in title:
                self._add("factory", now, held)
            elif "beamlet.head" in title:
                self._add("head", now, held)
            elif title.startswith("beamlet::"):
                workers.append(held)
        if workers:
            self._add("worker", now, tuple(statistics.mean(each) for each in zip(*workers, strict=True)))

    def _add(self, who: str, now: float, held: tuple[float, ...]) -> None:
        for what, value in zip(("MB", "descriptors"), held, strict=True):
            self.of.setdefault((who, what), []).append((now, value))

    def growths(self, since: float) -> list[tuple[str, float, float, float, bool]]:
        """(what of whom, first, last, gain per minute, too much?)"""
        rows: list[tuple[str, float, float, float, bool]] = []
        for (who, what), points in sorted(self.of.items()):
            measured = [point for point in points if point[0] >= since]
            if len(measured) < 8:
                continue
            gain = slope(measured) * 60
            minutes = (measured[-1][0] - measured[0][0]) / 60
            bound = BOUNDS[who][what == "descriptors"]
            noise = (NOISE_MB, NOISE_FDS)[what == "descriptors"] / max(minutes, 1e-9)
            rows.append((f"{who} {what}", measured[0][1], measured[-1][1], gain, gain > max(bound, noise)))
        return rows


def _held(process: psutil.Process) -> tuple[float, float]:
    return process.memory_full_info().uss / 1e6, float(process.num_fds())


def slope(points: list[tuple[float, float]]) -> float:
    """The median of the slopes between pairs of points. Of many points, some hundred are enough."""
    chosen = points[:: max(1, len(points) // 100)]
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(chosen, 2))


def kill_somebody(chance: random.Random) -> bool:
    """kill -9 of a worker that is there now."""
    workers = [process for process in psutil.Process().children(recursive=True) if _is_worker(process)]
    if not workers:
        return False
    os.kill(chance.choice(workers).pid, signal.SIGKILL)
    return True


def _is_worker(process: psutil.Process) -> bool:
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return title.startswith("beamlet::") and "factory" not in title


def soak(seconds: float, seed: int, kill_every_s: float) -> int:
    chance = random.Random(seed)
    ray.init(num_cpus=2, object_store_memory=256 << 20, log_to_driver=False, logging_level="ERROR")
    load, samples = Load(chance), Samples()
    began = time.monotonic()
    end, next_sample, next_kill, kills = began + seconds, began, began + kill_every_s, 0
    while (now := time.monotonic()) < end:
        load.round()
        if now >= next_kill:
            kills += kill_somebody(chance)
            next_kill = now + chance.expovariate(1 / kill_every_s)
        if now >= next_sample:
            samples.take(now)
            next_sample = now + max(SAMPLE_S, seconds / 400)
    rows = samples.growths(began + seconds * WARM_UP)
    ray.shutdown()
    print(f"{load.rounds} rounds, {kills} kills, {load.lost} pieces of work lost to them")
    print(f"{'':22}{'first':>10}{'last':>10}{'per minute':>12}")
    for name, first, last, gain, too_much in rows:
        print(f"{name:22}{first:10.1f}{last:10.1f}{gain:+12.2f}{'   GROWS' if too_much else ''}")
    if load.rounds < 5 or not rows:
        print("too little happened to judge by")
        return 1
    return int(any(row[-1] for row in rows))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--kill-every-s", type=float, default=2.0)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    return soak(options.minutes * 60, options.seed, options.kill_every_s)


if __name__ == "__main__":
    sys.exit(main())
