"""What the simulated users run.

Plain functions and a plain class, so that they travel by name; ``far`` has them decorated.
"""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

import beamlet as ray
from beamlet.testing.world import World, sleep


class Refused(Exception):
    """An error of a user's, which may carry references."""


def add(a: int, b: int) -> int:
    return a + b


def slow(seconds: float, value: int) -> int:
    sleep(seconds)
    return value


def fail(value: int) -> int:
    raise ValueError(f"no {value}")


def fail_with_ref(value: int) -> int:
    raise Refused("look", ray.put([value]))


def spread(n: int) -> int:
    return sum(ray.get([far.add.remote(i, 1) for i in range(n)]))


def leave_behind(n: int) -> int:
    """Submits and does not wait."""
    for i in range(n):
        far.slow.remote(0.01 * i, i)
    return n


def blob(size: int, fill: int) -> bytes:
    return bytes([fill]) * size


def number_twice(size: int) -> tuple[bytes, int]:
    """How often it has run, large and small."""
    runs.append(size)
    return bytes([len(runs)]) * size, len(runs)


def length(data: bytes) -> int:
    return len(data)


def filled(size: int, value: int) -> Any:
    return np.full(size, value, dtype=np.uint8)


def look_again(data: Any, value: int, seconds: float) -> Any:
    """What a task was given; as ``Counter.look_again``."""
    sleep(seconds)
    _must_be(data, value)
    return data


def _must_be(data: Any, value: int) -> None:
    """Told to the world: the caller, who would be told else, may be dead."""
    if not bool((data == value).all()):
        assert World.current is not None
        error = AssertionError(f"{len(data)} bytes of {value} became {sorted(set(data.tolist()))[:5]}")
        World.current.failures.append(error)
        raise error


def open_list(refs: list[Any]) -> int:
    return int(ray.get(refs[0]))


def read_list(refs: list[Any]) -> Any:
    return ray.get(refs[0])


def hand_out(value: int) -> list[Any]:
    return [ray.put(value), far.add.remote(value, 0)]


def crash(sometimes: int) -> int:
    if random.Random(os.urandom(4)).randrange(3) < sometimes:
        os._exit(3)
    return 11


def numbers(n: int, size: int) -> Iterator[Any]:
    for i in range(n):
        sleep(0.002)
        yield bytes(size) + bytes([i])


def call_and_die(counter: Any) -> None:
    """What it asks for begins, or at least ends, after its death."""
    counter.wait.remote(0.5)
    counter.hand_out.remote(1)
    counter.fail_with_ref.remote(2)
    counter.hand_out_each.options(_generator_backpressure_num_objects=1).remote(4)
    sleep(0.1)
    os._exit(3)


def numbers_at_last(n: int, failures: int, seconds: float) -> Iterator[int]:
    """Fails so often, each time one item later."""
    runs.append(n)
    attempt = len(runs)
    for i in range(n):
        if attempt <= failures and i == attempt:
            sleep(seconds)
            raise Refused(f"attempt {attempt}")
        yield i


def watch_a_child() -> float:
    """How long a child takes that is submitted by a task that then computes (here: lets time pass)."""
    world = World.current
    assert world is not None
    began = world.now()
    child = far.add.options(num_cpus=0).remote(1, 1)
    while not ray.wait([child], timeout=0)[0] and world.now() < began + 1.0:
        sleep(0.001)
    return world.now() - began


#: Of ``number_twice`` and ``numbers_at_last``, in the session.
runs: list[int] = []


class Counter:
    def __init__(self) -> None:
        self.n = 0
        self.kept: list[Any] = []
        self.stashed: list[tuple[Any, int]] = []

    def up(self, by: int = 1) -> int:
        self.n += by
        return self.n

    def wait(self, seconds: float) -> float:
        sleep(seconds)
        return seconds

    def keep(self, refs: list[Any]) -> int:
        self.kept += refs
        return len(self.kept)

    def number_twice(self, size: int) -> tuple[bytes, int]:
        return number_twice(size)

    def read(self) -> list[Any]:
        return ray.get(self.kept)  # type: ignore[no-any-return]

    def echo(self, data: Any) -> Any:
        return data

    def look_again(self, data: Any, value: int, seconds: float) -> int:
        """Nobody else may write there meanwhile, whatever becomes of the caller."""
        sleep(seconds)
        _must_be(data, value)
        return value

    def stash(self, data: Any, value: int) -> int:
        for kept, fill in self.stashed:
            _must_be(kept, fill)
        self.stashed = [*self.stashed[-2:], (data, value)]
        return value

    def call_self(self, me: Any) -> int:
        return int(ray.get(me.up.remote()))

    def numbers_at_last(self, n: int, failures: int, seconds: float) -> Iterator[int]:
        yield from numbers_at_last(n, failures, seconds)

    def hand_out(self, value: int) -> list[Any]:
        return [ray.put(value)]

    def hand_out_each(self, n: int) -> Iterator[list[Any]]:
        for i in range(n):
            yield [ray.put(i)]

    def fail_with_ref(self, value: int) -> int:
        return fail_with_ref(value)

    def fail_late(self, times: int) -> int:
        self.n += 1
        if self.n <= times:
            raise Refused(f"attempt {self.n}")
        return self.n


class BornLate:
    """A constructor that takes so long that idle workers are ended meanwhile."""

    def __init__(self, seconds: float) -> None:
        self.got: list[Any] = []
        sleep(seconds)

    def wait(self, seconds: float) -> None:
        sleep(seconds)

    def note(self, refs: list[Any]) -> None:
        self.got += ray.get(refs)

    def seen(self) -> list[Any]:
        return self.got


def note_and_go(actor: Any, value: int) -> None:
    """Calls and does not wait; the argument lives in this process."""
    sleep(0.05)  # each in a worker of its own
    actor.note.remote([ray.put(value)])


def create_and_go(refs: list[Any], name: str) -> None:
    sleep(0.05)
    far.BornWith.options(name=name, lifetime="detached").remote(refs[0])


def create_to_restart(size: int, name: str) -> None:
    sleep(0.05)
    value = ray.put(bytes(size))
    far.BornWith.options(name=name, lifetime="detached", max_restarts=-1, max_task_retries=-1).remote(value)


class BornWith:
    def __init__(self, data: Any) -> None:
        self.data = data

    def read(self) -> Any:
        return self.data


def own(value: int) -> list[Any]:
    return [ray.put(value)]


def own_much(value: int, seconds: float) -> tuple[Any, Any, Any]:
    """What lives only in this process: a value, an actor, and a task that runs."""
    sleep(0.05)  # each in a worker of its own
    return ray.put(value), far.Grouped.remote(), far.idle.remote(seconds, value)


def copy_out(value: int) -> bytes:
    """By a way that nobody can follow."""
    return pickle.dumps(ray.put(value))


class Founder:
    """Detached, it has work done that others create and own."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def begin(self, seconds: float) -> int:
        self.keep([*ray.get(far.hand_out.remote(5)), far.use_new_actor.remote(seconds)])
        ray.get(far.copy_out.remote(5))
        return len(self.kept)

    def keep(self, refs: list[Any]) -> int:
        self.kept += refs
        return len(self.kept)

    def results(self) -> list[Any]:
        return ray.get(self.kept)  # type: ignore[no-any-return]


def use_new_actor(seconds: float) -> int:
    counter = far.Counter.remote()
    ray.get(counter.wait.remote(seconds))
    return int(ray.get(counter.up.remote()))


def lend_to(counter: Any, value: int, seconds: float) -> int:
    """Owns an argument that the actor looks at for long."""
    ray.get(counter.echo.remote(filled(130_000, value)))
    sleep(0.01)
    return int(ray.get(counter.look_again.remote(filled(130_000, value), value, seconds)))


def use_actor(counter: Any) -> int:
    return int(ray.get(counter.up.remote(0)) >= 0)


far = SimpleNamespace(
    add=ray.remote(add),
    slow=ray.remote(slow),
    fail=ray.remote(max_retries=0)(fail),
    fail_with_ref=ray.remote(fail_with_ref),
    spread=ray.remote(spread),
    leave_behind=ray.remote(leave_behind),
    blob=ray.remote(blob),
    number_twice=ray.remote(num_returns=2)(number_twice),
    length=ray.remote(length),
    filled=ray.remote(filled),
    look_again=ray.remote(look_again),
    open_list=ray.remote(open_list),
    read_list=ray.remote(read_list),
    hand_out=ray.remote(hand_out),
    crash=ray.remote(max_retries=2)(crash),
    numbers=ray.remote(numbers),
    call_and_die=ray.remote(max_retries=0)(call_and_die),
    numbers_at_last=ray.remote(max_retries=9, retry_exceptions=True)(numbers_at_last),
    Counter=ray.remote(Counter),
    Grouped=ray.remote(concurrency_groups={"io": 2}, num_cpus=0)(Counter),
    watch_a_child=ray.remote(watch_a_child),
    own=ray.remote(own),
    own_much=ray.remote(num_cpus=0, max_calls=1)(own_much),
    copy_out=ray.remote(copy_out),
    Founder=ray.remote(num_cpus=0)(Founder),
    use_new_actor=ray.remote(use_new_actor),
    use_actor=ray.remote(use_actor),
    BornWith=ray.remote(num_cpus=0)(BornWith),
    BornLate=ray.remote(num_cpus=0)(BornLate),
    note_and_go=ray.remote(num_cpus=0)(note_and_go),
    create_and_go=ray.remote(num_cpus=0)(create_and_go),
    create_to_restart=ray.remote(num_cpus=0)(create_to_restart),
    idle=ray.remote(num_cpus=0)(slow),
)
#: Does not run again.
lend = ray.remote(max_retries=0)(lend_to)
