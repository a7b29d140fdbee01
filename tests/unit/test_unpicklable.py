"""What cannot be pickled is named by its path, whatever it is and wherever it sits."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import mmap
import queue
import select
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from beamlet.exceptions import RayTaskError
from beamlet.serialization.closures import check_closure
from beamlet.serialization.remote_error import capture
from beamlet.serialization.unpicklable import explain_unpicklable
from beamlet.serialization.values import dump_error, dumps, loads_plain, unpack

Planted = Callable[[contextlib.ExitStack], Any]


def closing(make: Callable[[], Any]) -> Planted:
    return lambda stack: stack.enter_context(contextlib.closing(make()))


def generator() -> Iterator[int]:
    yield 1


async def coroutine() -> None:
    pass


def process(stack: contextlib.ExitStack) -> Any:
    started = subprocess.Popen(["true"])
    stack.callback(started.wait)
    return started


#: name → how to make one, and what the message must call it.
PLANTS: dict[str, tuple[Planted, str]] = {
    "socket": (closing(socket.socket), "a socket.socket"),
    "lock": (lambda _: threading.Lock(), "a threading.Lock"),
    "rlock": (lambda _: threading.RLock(), "a threading.RLock"),
    "condition": (lambda _: threading.Condition(), "a threading.Condition"),
    "event": (lambda _: threading.Event(), "a threading.Event"),
    "semaphore": (lambda _: threading.Semaphore(), "a threading.Semaphore"),
    "thread": (lambda _: threading.Thread(), "a threading.Thread"),
    "local": (lambda _: threading.local(), "a threading.local"),
    "queue": (lambda _: queue.Queue(), "a queue.Queue"),
    "simple queue": (lambda _: queue.SimpleQueue(), "a queue.SimpleQueue"),
    "generator": (closing(generator), "a generator"),
    "coroutine": (closing(coroutine), "a coroutine"),
    "binary file": (lambda stack: stack.enter_context(open(__file__, "rb")), "an io.BufferedReader"),  # noqa: SIM115
    "temporary file": (lambda stack: stack.enter_context(tempfile.TemporaryFile()), "an io.BufferedRandom"),  # noqa: SIM115
    "database": (closing(lambda: sqlite3.connect(":memory:")), "a sqlite3.Connection"),
    "executor": (
        lambda _: concurrent.futures.ThreadPoolExecutor(),
        "a concurrent.futures.thread.ThreadPoolEx",
    ),
    "future": (lambda _: concurrent.futures.Future(), "a concurrent.futures._base.Future"),
    "loop": (closing(asyncio.new_event_loop), "an asyncio.unix_events"),
    "traceback": (lambda _: types.TracebackType(None, sys._getframe(), 0, 1), "a traceback"),
    "weakref": (lambda _: weakref.ref(generator), "a weakref.ReferenceType"),
    "frame": (lambda _: sys._getframe(), "a frame"),
    "process": (process, "a subprocess.Popen"),
    "epoll": (closing(select.epoll), "a select.epoll"),
    "memory map": (closing(lambda: mmap.mmap(-1, 10)), "a mmap.mmap"),
    "own class": (lambda _: Stubborn(), "a "),
}


class Stubborn:
    def __reduce__(self) -> Any:
        raise TypeError("I stay here")


@dataclasses.dataclass
class Config:
    inner: Any


class Point(NamedTuple):
    x: int
    handle: Any


class Slotted:
    __slots__ = ("held",)

    def __init__(self, held: Any) -> None:
        self.held = held


#: Where it sits → how to put it there, and the path from ``x``.
PLACES: list[tuple[str, Callable[[Any], Any], str]] = [
    ("itself", lambda p: p, "x"),
    ("dict", lambda p: {"cfg": {"s": p}}, "x['cfg']['s']"),
    ("list", lambda p: [1, [2, p]], "x[1][1]"),
    ("attribute", lambda p: Config({"a": p}), "x.inner['a']"),
    ("named tuple", lambda p: Point(1, p), "x.handle"),
    ("slot", lambda p: [Slotted(p)], "x[0].held"),
    ("deque", lambda p: collections.deque([0, p]), "x[1]"),
    ("partial", lambda p: functools.partial(print, p), "x.args[0]"),
    ("captured", lambda p: lambda: p, "p (captured by x)"),
]


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def message(value: Any, **options: Any) -> str:
    with pytest.raises(Exception) as failed:
        dumps(value)
    with pytest.raises(TypeError) as caught:
        explain_unpicklable(failed.value, (value,), {}, "f", **options)
    text = str(caught.value)
    assert len(text.splitlines()) <= 6
    return text


@pytest.mark.parametrize("name", PLANTS)
def test_the_path_to_every_kind_of_culprit_in_arguments_and_results(
    name: str, stack: contextlib.ExitStack
) -> None:
    make, kind = PLANTS[name]
    planted = make(stack)
    text = message({"cfg": [0, planted]}, parameters=("x",))
    assert text.startswith(f"cannot send argument 'x' to f(): x['cfg'][1] is {kind}"), text
    assert message([planted], result=True).startswith(f"cannot send the result of f(): result[0] is {kind}")


@pytest.mark.parametrize(("place", "put", "path"), PLACES, ids=[place for place, _, _ in PLACES])
def test_the_path_to_every_place(
    place: str, put: Callable[[Any], Any], path: str, stack: contextlib.ExitStack
) -> None:
    planted = PLANTS["socket"][0](stack)
    assert f": {path} is a socket.socket" in message(put(planted), parameters=("x",))


@pytest.mark.parametrize("name", PLANTS)
def test_closures_name_the_variable(name: str, stack: contextlib.ExitStack) -> None:
    make, kind = PLANTS[name]
    planted = make(stack)
    nested = {"s": planted}

    def f() -> Any:
        return nested

    with pytest.raises(TypeError) as caught:
        check_closure(f, "f", 1 << 20, 1 << 24)
    text = str(caught.value)
    assert f"nested (captured by f)['s'] is {kind}" in text
    assert len(text.splitlines()) <= 6


@pytest.mark.parametrize("name", PLANTS)
def test_an_exception_keeps_its_class_and_says_what_it_left_behind(
    name: str, stack: contextlib.ExitStack
) -> None:
    make, kind = PLANTS[name]

    planted = make(stack)
    error = ValueError("bad value", 3)
    error.context = {"s": planted}  # type: ignore[attr-defined]
    captured = capture(error, function_name="task", pid=1, ip="127.0.0.1")
    arrived = loads_plain(unpack(dump_error(captured)).inband)
    assert isinstance(arrived, RayTaskError)
    assert isinstance(arrived.cause, ValueError)
    assert arrived.cause.args == ("bad value", 3)
    assert isinstance(arrived.as_instanceof_cause(), ValueError)
    assert f"ValueError.context['s'] is {kind}" in str(arrived)


def test_positional_arguments_beyond_the_named_ones_are_numbered(stack: contextlib.ExitStack) -> None:
    planted = PLANTS["lock"][0](stack)
    with pytest.raises(TypeError, match=r"argument 'args\[1\]' to f\(\): args\[1\] is a threading.Lock"):
        explain_unpicklable(TypeError("no"), (1, planted), {}, "f", ("x",))


class Refusing:
    """Cannot be sent, and does not like to be looked at."""

    __slots__ = ("lock",)

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle it")


@pytest.mark.parametrize("value", [Refusing(), {Refusing(): 1}], ids=["attributes", "repr"])
def test_what_raises_when_looked_at_is_not_looked_into(value: Any) -> None:
    with pytest.raises(TypeError, match=r"cannot send argument 'x' to f.*cannot be pickled"):
        explain_unpicklable(TypeError("no"), (value,), {}, "f", ("x",))


def test_other_errors_are_left_alone() -> None:
    explain_unpicklable(MemoryError(), (1,), {}, "f")
    explain_unpicklable(TypeError("raised by a __reduce__ that works now"), (1,), {}, "f")


def test_a_key_that_cannot_even_be_shown_is_named_by_its_kind() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

        def __reduce__(self) -> Any:
            raise TypeError("no reduce")

    with pytest.raises(TypeError, match=r"key <Shy> of x is a .*Shy, which cannot be pickled"):
        explain_unpicklable(TypeError("no reduce"), ({Shy(): 1},), {}, "f", ("x",))


def test_a_captured_variable_without_a_value_is_passed_over() -> None:
    lock = threading.Lock()

    def target() -> Any:
        return later, lock

    with pytest.raises(TypeError, match=r"lock \(captured by target\) is a threading.Lock"):
        check_closure(target, "target", 1 << 20, 1 << 20)
    later = 1
