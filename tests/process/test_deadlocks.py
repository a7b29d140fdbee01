"""Calls that wait for one another: an error that shows the circle, soon, and never without one."""

from __future__ import annotations

from typing import Any

import pytest
from conformance import AGAINST_RAY, get
from gates import Gate

import beamlet as ray
from beamlet.exceptions import DeadlockError, GetTimeoutError

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.skipif(AGAINST_RAY, reason="Ray waits for ever"),
]

#: The longest a circle may go unnoticed.
NOTICED_S = 2.0


@ray.remote
class Node:
    def __init__(self) -> None:
        self.other: Any = None

    def meet(self, other: Any) -> None:
        self.other = other

    def call_self(self, me: Any) -> Any:
        return ray.get(me.echo.remote(1))

    def call_self_briefly(self, me: Any) -> Any:
        try:
            return ray.get(me.echo.remote(1), timeout=1.5)
        except GetTimeoutError:
            return "timed out"

    def there(self) -> Any:
        return ray.get(self.other.and_back.remote())

    def and_back(self) -> Any:
        return ray.get(self.other.echo.remote(2))

    def through_a_task(self, me: Any) -> Any:
        return ray.get(echo_through.remote(me))

    def wait_for_all(self, me: Any) -> Any:
        return ray.wait([me.echo.remote(1), me.echo.remote(2)], num_returns=2)

    def pass_gate_of(self, other: Any, gate: Gate) -> Any:
        return ray.get(other.pass_gate.remote(gate))

    def pass_gate(self, gate: Gate) -> str:
        gate.wait()
        return "through"

    def echo(self, x: Any) -> Any:
        return x


@ray.remote
def echo_through(node: Any) -> Any:
    return ray.get(node.echo.remote(3))


def fails(ref: Any) -> str:
    """The error's text; it must be a DeadlockError. (How soon it comes: tests/system/test_latency.py.)"""
    with pytest.raises(DeadlockError) as caught:
        get(ref)
    return str(caught.value)


def test_an_actor_that_gets_its_own_call() -> None:
    node = Node.remote()
    text = fails(node.call_self.remote(node))
    assert "Node.call_self (test_deadlocks.py:" in text
    assert "waits for Node.echo, which queues behind it" in text
    assert "max_concurrency" in text
    assert get(node.echo.remote(5)) == 5, "the actor goes on"


def test_two_actors_that_get_from_each_other() -> None:
    a, b = Node.remote(), Node.remote()
    get([a.meet.remote(b), b.meet.remote(a)])
    text = fails(a.there.remote())
    assert "Node.there (test_deadlocks.py:" in text
    assert "Node.and_back (test_deadlocks.py:" in text
    assert get([a.echo.remote(1), b.echo.remote(2)]) == [1, 2]


def test_an_actor_a_task_and_the_actor_again() -> None:
    node = Node.remote()
    text = fails(node.through_a_task.remote(node))
    assert "waits for echo_through" in text
    assert "waits for Node.echo" in text


def test_wait_for_all_counts_as_get() -> None:
    node = Node.remote()
    assert "Node.wait_for_all" in fails(node.wait_for_all.remote(node))


def test_a_constructor_that_calls_its_own_actor() -> None:
    class Early:
        def __init__(self) -> None:
            ray.get(ray.get_runtime_context().current_actor.ping.remote())

        def ping(self) -> None:
            pass

    with pytest.raises(Exception, match="cannot start before the constructor ends"):
        get(ray.remote(Early).remote().ping.remote())


def test_a_coroutine_that_blocks_the_loop_it_waits_for() -> None:
    class Looping:
        async def outer(self, me: Any) -> Any:
            return ray.get(me.inner.remote())

        async def inner(self) -> int:
            return 1

    actor = ray.remote(Looping).remote()
    assert "needs the event loop" in fails(actor.outer.remote(actor))


def test_waiting_with_a_timeout_is_no_deadlock() -> None:
    node = Node.remote()
    assert get(node.call_self_briefly.remote(node)) == "timed out"


def test_threads_and_coroutines_serve_themselves() -> None:
    threaded = Node.options(max_concurrency=2).remote()
    assert get(threaded.call_self.remote(threaded)) == 1

    class Looping:
        async def outer(self, me: Any) -> Any:
            return await me.inner.remote()

        async def inner(self) -> int:
            return 1

    actor = ray.remote(Looping).remote()
    assert get(actor.outer.remote(actor)) == 1


def test_a_long_chain_of_waits_is_left_in_peace(gate: Gate) -> None:
    """Longer than it takes to find a circle; who is waited for does nothing but wait, though not in get."""
    nodes = [Node.remote() for _ in range(3)]
    refs = [nodes[0].pass_gate_of.remote(nodes[1], gate), nodes[2].pass_gate_of.remote(nodes[1], gate)]
    ready, _ = ray.wait(refs, timeout=NOTICED_S)
    assert not ready
    gate.open()
    assert get(refs) == ["through", "through"]
