"""What beginners get wrong: the right exception always, and for Beamlet a message that says what to do."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import socket
import threading
import time
from typing import Any

import numpy as np
import pytest
from conformance import DEADLINE_S, ROOT, beamlet_only, get, wait_until

import beamlet as ray
from beamlet import util
from beamlet.util import queue

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
def add(x: int, y: int) -> int:
    return x + y


@ray.remote
class Thing:
    def __init__(self) -> None:
        self.x = 1

    def ping(self) -> str:
        return "pong"


def test_calling_a_remote_function_says_to_use_remote() -> None:
    with pytest.raises(TypeError, match="remote"):
        add(1, 2)


def test_calling_an_actor_class_says_to_use_remote() -> None:
    with pytest.raises(TypeError, match="remote"):
        Thing()


def test_calling_a_method_says_to_use_remote() -> None:
    with pytest.raises(TypeError, match="remote"):
        Thing.remote().ping()


@pytest.mark.parametrize(
    "use",
    [lambda r: r + 1, lambda r: 1 + r, lambda r: list(r), lambda r: r[0], lambda r: len(r), lambda r: r < 1],
    ids=["ref+1", "1+ref", "list(ref)", "ref[0]", "len(ref)", "ref<1"],
)
def test_using_a_ref_as_a_value_is_a_type_error(use: Any) -> None:
    with pytest.raises(TypeError):
        use(ray.put([1]))


@beamlet_only
def test_using_a_ref_as_a_value_says_to_get_it() -> None:
    with pytest.raises(TypeError, match=r"get\("):
        add.remote(1, 2) + 1


def test_unpicklable_argument_is_a_type_error_at_the_call() -> None:
    with socket.socket() as s, pytest.raises(TypeError):
        add.remote({"config": {"s": s}}, 1)


@beamlet_only
def test_unpicklable_argument_is_named_with_its_path() -> None:
    with socket.socket() as s, pytest.raises(TypeError) as caught:
        add.remote({"config": {"s": s}}, 1)
    text = str(caught.value)
    assert "socket" in text
    assert "config" in text
    assert "add" in text


def test_unpicklable_closure_is_a_type_error_at_the_call() -> None:
    with socket.socket() as s:

        @ray.remote
        def captures() -> Any:
            return s

        with pytest.raises(TypeError):
            captures.remote()


@beamlet_only
def test_unpicklable_closure_names_the_variable() -> None:
    with socket.socket() as my_socket:

        @ray.remote
        def captures() -> Any:
            return my_socket

        with pytest.raises(TypeError, match="my_socket"):
            captures.remote()


def test_unpicklable_constructor_argument_is_a_type_error() -> None:
    @ray.remote
    class Takes:
        def __init__(self, x: Any) -> None:
            pass

    with socket.socket() as s, pytest.raises(TypeError):
        Takes.remote(s)


def test_a_closure_too_large_to_send_is_a_value_error() -> None:
    enormous = np.zeros(100_000_000 // 8 + 1)

    @ray.remote
    def captures() -> int:
        return len(enormous)

    with pytest.raises(ValueError):
        captures.remote()


@beamlet_only
def test_a_closure_too_large_to_send_names_the_variable() -> None:
    enormous = np.zeros(100_000_000 // 8 + 1)

    @ray.remote
    def captures() -> int:
        return len(enormous)

    with pytest.raises(ValueError, match="enormous"):
        captures.remote()


@beamlet_only
def test_a_large_closure_is_a_warning_that_names_the_variable(caplog: pytest.LogCaptureFixture) -> None:
    largish = np.zeros(500_000)

    @ray.remote
    def captures() -> int:
        return len(largish)

    with caplog.at_level(logging.WARNING, logger="beamlet"):
        assert get(captures.remote()) == 500_000
    assert "largish" in caplog.text


@beamlet_only
def test_wrong_arity_shows_function_and_signature() -> None:
    with pytest.raises(TypeError) as caught:
        add.remote(1)
    assert "add" in str(caught.value)
    assert "'y'" in str(caught.value)


@beamlet_only
def test_a_missing_method_lists_what_there_is() -> None:
    with pytest.raises(AttributeError) as caught:
        Thing.remote().pong.remote()
    assert "Thing" in str(caught.value)
    assert "ping" in str(caught.value)


@beamlet_only
def test_an_infeasible_request_is_an_error_after_a_grace() -> None:
    @ray.remote(num_cpus=1000)
    def huge() -> None:
        pass

    with pytest.raises(Exception, match="1000") as caught:
        ray.get(huge.remote(), timeout=DEADLINE_S)
    assert "Infeasible" in type(caught.value).__name__
    assert "CPU" in str(caught.value)


@beamlet_only
def test_an_infeasible_actor_is_an_error_after_a_grace() -> None:
    actor = ray.remote(resources={"unobtainium": 1})(type("Rare", (), {"ping": lambda self: 1})).remote()
    with pytest.raises(Exception, match="unobtainium"):
        ray.get(actor.ping.remote(), timeout=DEADLINE_S)


def test_a_list_with_nested_lists_of_refs_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        get([[ray.put(1)]])


@beamlet_only
def test_a_nested_list_says_which_index_is_no_ref() -> None:
    with pytest.raises(TypeError, match="1"):
        get([ray.put(1), [ray.put(2)]])


def test_negative_results_of_mistakes_leave_the_cluster_usable() -> None:
    for mistake in (lambda: add(1, 2), lambda: add.remote(1), lambda: get("no ref")):
        with pytest.raises((TypeError, ValueError)):
            mistake()
    assert get(add.remote(1, 2)) == 3


def test_an_argument_that_fails_to_unpickle_fails_only_its_task() -> None:
    pid = os.getpid()

    class Trap:
        def __reduce__(self) -> Any:
            return explode, ()

    def explode() -> Any:
        if os.getpid() != pid:
            raise RuntimeError("cannot be rebuilt here")

    with pytest.raises(Exception, match="cannot be rebuilt here"):
        get(add.remote(Trap(), 1))
    assert get(add.remote(1, 2)) == 3


def test_a_missing_module_is_an_error_naming_it() -> None:
    @ray.remote
    def imports() -> None:
        import no_such_module_anywhere  # noqa: F401

    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        get(imports.remote())


def test_recursion_without_end_is_a_recursion_error() -> None:
    @ray.remote
    def f(x: int) -> int:
        def g(x: int) -> int:
            return g(x + 1)

        return g(x)

    with pytest.raises(RecursionError):
        get(f.remote(0))


def test_a_deeply_nested_argument_is_an_error_or_arrives() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    try:
        ref = ray.remote(lambda x: len(x)).remote(deep)
    except (RecursionError, TypeError, ValueError, pickle.PicklingError):
        return
    assert get(ref) == 1


@beamlet_only
def test_what_cannot_be_pickled_is_named_by_parameter_and_path_in_calls_of_every_kind() -> None:
    class Takes:
        def __init__(self, setting: Any = None) -> None:
            pass

        def use(self, value: Any) -> None:
            pass

    actor_class = ray.remote(Takes)
    with socket.socket() as s:
        with pytest.raises(TypeError, match=r"argument 'x' to add\(\): x\['s'\] is a socket.socket"):
            add.remote({"s": s}, 1)
        with pytest.raises(
            TypeError, match=r"argument 'setting' to Takes.__init__\(\): setting\[0\] is a socket"
        ):
            actor_class.remote([s])
        with pytest.raises(TypeError, match=r"argument 'value' to Takes.use\(\): value is a socket"):
            actor_class.remote().use.remote(s)


@beamlet_only
def test_a_result_that_cannot_be_pickled_is_named_by_its_path() -> None:
    @ray.remote
    def returns() -> Any:
        return {"sockets": [1, socket.socket()]}

    with pytest.raises(
        TypeError, match=r"the result of returns\(\): result\['sockets'\]\[1\] is a sock"
    ) as caught:
        get(returns.remote())
    assert len(str(caught.value).splitlines()) <= 6
    assert "core_worker" not in str(caught.value), "none of our frames"


@beamlet_only
def test_an_exception_that_holds_something_unpicklable_keeps_its_class() -> None:
    @ray.remote
    def raises() -> None:
        error = LookupError("not there")
        error.where = socket.socket()  # type: ignore[attr-defined]
        raise error

    with pytest.raises(LookupError, match=r"LookupError.where is a socket.socket, which cannot be pickled"):
        get(raises.remote())


@beamlet_only
def test_an_error_starts_at_the_line_that_asked_for_it() -> None:
    @ray.remote
    def divide(x: int) -> float:
        return 1 / x

    @ray.remote
    def outer(x: int) -> Any:
        return ray.get(divide.remote(x))

    ref = outer.remote(0)
    with pytest.raises(ZeroDivisionError) as caught:
        get(ref)
    frames = [line.strip() for line in str(caught.value).splitlines() if line.startswith("    ")]
    shown = [line for line in frames if "^" not in line and "~" not in line]
    assert shown == [
        "ref = outer.remote(0)",
        "return ray.get(divide.remote(x))",
        "return ray.get(divide.remote(x))",
        "return 1 / x",
    ]


@beamlet_only
def test_an_error_that_nobody_asks_for_is_told_with_the_creating_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @ray.remote
    def fails(text: str) -> None:
        raise ValueError(text)

    with caplog.at_level(logging.ERROR, logger="beamlet"):
        ref = fails.remote("unseen")
        ray.wait([ref], timeout=DEADLINE_S)
        del ref
        wait_until(lambda: "ValueError: unseen" in caplog.text, "the error to be told")
        with pytest.raises(ValueError, match="seen"):
            get([fails.remote("seen"), fails.remote("excused")])
        last = fails.remote("unseen too")
        ray.wait([last], timeout=DEADLINE_S)
        del last
        wait_until(lambda: "ValueError: unseen too" in caplog.text, "the error to be told")
    assert "fails, submitted at test_bad_input.py:" in caplog.text
    assert "nobody asked for its result" in caplog.text
    assert "ValueError: seen" not in caplog.text
    assert "excused" not in caplog.text


@beamlet_only
def test_infeasible_names_function_and_line() -> None:
    with pytest.raises(
        Exception, match=r"add needs {'CPU': 1000}; the largest node has {'CPU': 2} \(1 node\)"
    ) as caught:
        ray.get(add.options(num_cpus=1000).remote(1, 2), timeout=DEADLINE_S)
    assert "Submitted at test_bad_input.py:" in str(caught.value)


@ray.remote
class Stillborn:
    def __init__(self) -> None:
        raise ValueError("in __init__")

    def ping(self) -> None:
        pass


async def wait_for_references() -> None:
    await asyncio.wait([ray.put(1)])  # type: ignore[type-var]


async def awaits(ref: Any) -> Any:
    return await ref


ERRORS = {
    "a task's error": lambda: get(add.remote(1, "x")),
    "of a list": lambda: get([add.remote(1, "x")]),
    "awaited": lambda: asyncio.run(awaits(add.remote(1, "x"))),
    "a future": lambda: add.remote(1, "x").future().result(),
    "as_completed": lambda: list(util.as_completed([add.remote(1, "x")])),
    "map_unordered": lambda: list(util.map_unordered(add, [1])),
    "a stillborn actor": lambda: get(Stillborn.remote().ping.remote()),
    "too slow": lambda: ray.get(ray.remote(time.sleep).remote(60), timeout=0.01),
    "too few arguments": lambda: add.remote(1),
    "too few, of a method": lambda: Thing.remote().ping.remote(1),
    "too few, of an actor": lambda: Thing.remote(1),
    "unpicklable": lambda: add.remote(threading.Lock(), 1),
    "unpicklable, put": lambda: ray.put(threading.Lock()),
    "unpicklable, captured": lambda: capturing(threading.Lock()).remote(),
    "a wrong option": lambda: add.options(num_cpu=1),
    "a wrong option of a class": lambda: Thing.options(num_cpu=1),
    "a wrong option of a method": lambda: Thing.remote().ping.options(num_return=1),
    "a wrong decorator": lambda: ray.remote(num_cpu=1)(max),
    "called directly": lambda: add(1, 2),
    "a class called directly": lambda: Thing(),
    "no such method": lambda: Thing.remote().pong,
    "no such actor": lambda: ray.get_actor("nobody"),
    "a wrong handle": lambda: ray.kill(3),
    "a wrong reference": lambda: ray.cancel(3),
    "get of a number": lambda: ray.get(3),
    "wait for a number": lambda: ray.wait(3),
    "put of a reference": lambda: ray.put(ray.put(1)),
    "a reference as operand": lambda: ray.put(1) + 1,
    "a reference iterated": lambda: list(ray.put(1)),
    "asyncio.wait": lambda: asyncio.run(wait_for_references()),
    "init again": lambda: ray.init(),
    "init, wrong": lambda: ray.init(num_cpu=1),
    "a pool": lambda: util.ActorPool([3]),
    "a queue": lambda: queue.Queue().get(timeout=-1),
}


def capturing(what: Any) -> Any:
    return ray.remote(lambda: what)


@beamlet_only
@pytest.mark.parametrize("what", ERRORS)
def test_no_traceback_shows_our_own_frames(what: str) -> None:
    with pytest.raises(Exception) as caught:
        ERRORS[what]()
    files = [entry.path for entry in caught.traceback]
    ours = [str(path) for path in files if str(path).startswith(str(ROOT / "src"))]
    assert not ours
    assert str(ROOT / "src") not in str(caught.value)


@beamlet_only
def test_asyncio_wait_of_a_reference_says_what_to_pass() -> None:
    with pytest.raises(TypeError, match=r"is not an asyncio future \(ref.as_future\(\) makes one\)"):
        asyncio.run(wait_for_references())
