"""What type checkers make of programs; checked by mypy --strict, never run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_type

import beamlet as ray
from beamlet.actor import ActorClass, ActorHandle
from beamlet.remote_function import RemoteFunction


@ray.remote
def double(x: int) -> int:
    return 2 * x


@ray.remote(num_cpus=0.5, max_retries=0)
def label(number: int, text: str = "", *, loud: bool = False) -> str:
    return f"{number}{text}{loud}"


@ray.remote(num_returns=2)
def halves(text: str) -> tuple[str, str]:
    return text[:1], text[1:]


@ray.remote
def count_to(end: int) -> Iterator[int]:
    yield from range(end)


def several_values() -> None:
    first, second = halves.remote("ab")
    assert_type(ray.get(first), Any)
    for item in count_to.remote(3):
        ray.get(item)
    nothing = double.options(num_returns=0).remote(1)
    assert_type(nothing, Any)
    assert_type(halves.local("ab"), tuple[str, str])
    ray.wait([first, second])


@ray.remote
def total(*numbers: float) -> float:
    return sum(numbers)


def tasks() -> None:
    ref = double.remote(1)
    assert_type(ref, ray.ObjectRef[int])
    assert_type(ray.get(ref), int)
    assert_type(ray.get([ref, ref]), list[int])
    assert_type(ray.get(ref, timeout=3.5), int)
    assert_type(label.remote(1, "x", loud=True), ray.ObjectRef[str])
    assert_type(total.remote(1, 2.5), ray.ObjectRef[float])
    assert_type(double.options(num_cpus=2, name="d").remote(3), ray.ObjectRef[int])
    assert_type(ray.remote(len).remote("abc"), ray.ObjectRef[int])


def references_as_arguments() -> None:
    number, text = double.remote(1), label.remote(1)
    assert_type(double.remote(number), ray.ObjectRef[int])
    assert_type(label.remote(number, text), ray.ObjectRef[str])
    assert_type(label.remote(number, "x", loud=True), ray.ObjectRef[str])
    assert_type(label.remote(1, text), ray.ObjectRef[str])
    assert_type(label.remote(number, text="x"), ray.ObjectRef[str])
    assert_type(label.options(num_cpus=1).remote(number), ray.ObjectRef[str])
    assert_type(double.remote(ray.put(3)), ray.ObjectRef[int])


def wrong_calls() -> None:
    double.remote("one")  # type: ignore[call-overload]
    double.remote()  # type: ignore[call-overload]
    double.remote(1, 2)  # type: ignore[call-overload]
    double.remote(y=1)  # type: ignore[call-overload]
    label.remote(1, loud="yes")  # type: ignore[call-overload]
    label.options(num_cpus=1).remote("1")  # type: ignore[call-overload]


def values() -> None:
    assert_type(ray.put("x"), ray.ObjectRef[str])
    assert_type(ray.get(ray.put([1.5])), list[float])
    ready, rest = ray.wait([double.remote(1)], num_returns=1, timeout=0.1, fetch_local=False)
    assert_type(ready, list[ray.ObjectRef[int]])
    assert_type(rest, list[ray.ObjectRef[int]])
    ray.cancel(ready[0], force=True)
    ray.get(3)  # type: ignore[call-overload]
    ray.wait(ready[0])  # type: ignore[arg-type]
    ray.cancel("x")  # type: ignore[arg-type]


def references_are_not_values(ref: ray.ObjectRef[int], words: ray.ObjectRef[list[str]]) -> None:
    ref + 1  # type: ignore[operator]
    words[0]  # type: ignore[index]
    len(words)  # type: ignore[arg-type]
    for word in words:  # type: ignore[attr-defined]
        print(word)
    ref()  # type: ignore[operator]


async def awaiting(ref: ray.ObjectRef[int]) -> None:
    assert_type(await ref, int)
    assert_type(ref.future().result(), int)


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    @ray.method(num_returns=2)
    def both(self) -> tuple[int, int]:
        return self.value, self.value


# mypy takes a decorated class for the class itself (pyright does not), so to be checked, actor classes are
# made by a call.
Counters = ray.remote(Counter)


def actors() -> None:
    assert_type(Counters, ActorClass[Counter])
    counter = Counters.remote(5)
    assert_type(counter, ActorHandle[Counter])
    assert_type(counter.add.remote(1), Any)
    first, second = counter.both.remote()
    ray.get([first, second])
    Counters.options(name="c", lifetime="detached", get_if_exists=True).remote(1)
    ray.kill(counter, no_restart=True)
    found = ray.get_actor("c", namespace="n")
    assert_type(found, ActorHandle[Any])
    ray.get(found.add.remote(1))
    ray.kill("c")  # type: ignore[arg-type]
    assert_type(Counter().both(), tuple[int, int])


def wrong_arguments(counter: ActorHandle[Counter]) -> None:
    ray.get_actor(5)  # type: ignore[arg-type]
    ray.kill(counter, no_restart="no")  # type: ignore[arg-type]
    ray.cancel(double.remote(1), force="yes")  # type: ignore[arg-type]
    ray.shutdown(wait_for_processes="no")  # type: ignore[arg-type]
    ray.timeline(3)  # type: ignore[arg-type]
    ray.init(5)  # type: ignore[arg-type]


class Undecorated:
    def method(self) -> int:
        return 1


def actor_classes_made_by_a_call() -> None:
    made = ray.remote(Undecorated)
    assert_type(made, ActorClass[Undecorated])
    assert_type(made.remote(), ActorHandle[Undecorated])
    with_options = ray.remote(num_gpus=1)(Undecorated)
    assert_type(with_options.remote(), ActorHandle[Undecorated])


def plain(x: int) -> str:
    return str(x)


def functions_made_by_a_call() -> None:
    assert_type(ray.remote(plain).remote(1), ray.ObjectRef[str])
    made = ray.remote(num_cpus=2)(plain)
    assert_type(made.remote(1), ray.ObjectRef[str])
    made.remote("x")  # type: ignore[call-overload]
    passed_on(ray.remote(plain))


def passed_on(function: RemoteFunction[[int], str]) -> None:
    assert_type(function.remote(1), ray.ObjectRef[str])
