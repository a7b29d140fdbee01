"""Asyncio actors: coroutines that run together on one loop, and `await` on references inside them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from conformance import beamlet_only, get, wait_until

import beamlet as ray
from beamlet.exceptions import ActorDiedError

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Signal:
    """Coroutines wait here until someone sends."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.waiting = 0

    async def wait(self) -> str:
        self.waiting += 1
        await self.event.wait()
        return "sent"

    async def count(self) -> int:
        return self.waiting

    async def send(self) -> None:
        self.event.set()


def test_an_async_method_returns_its_value() -> None:
    @ray.remote
    class Adder:
        async def add(self, a: int, b: int) -> int:
            await asyncio.sleep(0)
            return a + b

    assert get(Adder.remote().add.remote(1, 2)) == 3


def test_calls_wait_together() -> None:
    signal = Signal.remote()
    waiting = [signal.wait.remote() for _ in range(50)]
    get(signal.send.remote())
    assert get(waiting) == ["sent"] * 50


def test_a_later_call_can_finish_first() -> None:
    signal = Signal.remote()
    waiting = signal.wait.remote()
    wait_until(lambda: get(signal.count.remote()) == 1, "the first call to wait")
    get(signal.send.remote())
    assert get(waiting) == "sent"


@beamlet_only  # Ray starts them in any order
def test_calls_start_in_order() -> None:
    @ray.remote
    class Log:
        def __init__(self) -> None:
            self.seen: list[int] = []

        async def add(self, i: int) -> None:
            self.seen.append(i)

        async def read(self) -> list[int]:
            return self.seen

    log = Log.remote()
    get([log.add.remote(i) for i in range(100)])
    assert get(log.read.remote()) == list(range(100))


def test_await_a_ref_in_an_async_method() -> None:
    @ray.remote
    def square(x: int) -> int:
        return x * x

    @ray.remote
    class Awaits:
        async def run(self, x: int) -> int:
            return await square.remote(x) + 1

    assert get(Awaits.remote().run.remote(3)) == 10


def test_gather_refs_in_an_async_method() -> None:
    @ray.remote
    def square(x: int) -> int:
        return x * x

    @ray.remote
    class Gathers:
        async def run(self, n: int) -> list[int]:
            return await asyncio.gather(*[square.remote(x) for x in range(n)])

    assert get(Gathers.remote().run.remote(20)) == [x * x for x in range(20)]


def test_asyncio_wait_on_refs() -> None:
    @ray.remote
    def one() -> int:
        return 1

    @ray.remote
    class Waits:
        async def run(self) -> int:
            futures = [asyncio.wrap_future(one.remote().future()) for _ in range(5)]
            done, pending = await asyncio.wait(futures)
            return sum(future.result() for future in done) * 10 + len(pending)

    assert get(Waits.remote().run.remote()) == 50


def test_an_error_in_an_async_method() -> None:
    @ray.remote
    class Fails:
        async def fail(self) -> None:
            await asyncio.sleep(0)
            raise ValueError("async failure")

        async def ping(self) -> str:
            return "pong"

    fails = Fails.remote()
    with pytest.raises(ValueError, match="async failure"):
        get(fails.fail.remote())
    assert get(fails.ping.remote()) == "pong"


def test_an_error_awaited_in_an_async_method_is_catchable_there() -> None:
    @ray.remote
    def fails() -> None:
        raise KeyError("inner")

    @ray.remote
    class Catches:
        async def run(self) -> str:
            try:
                await fails.remote()
            except KeyError:
                return "caught"
            return "no error"

    assert get(Catches.remote().run.remote()) == "caught"


def test_max_concurrency_bounds_coroutines() -> None:
    @ray.remote(max_concurrency=3)
    class Gauge:
        def __init__(self) -> None:
            self.inside = self.most = 0

        async def enter(self) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0.005)
            self.inside -= 1

        async def read(self) -> int:
            return self.most

    gauge = Gauge.remote()
    get([gauge.enter.remote() for _ in range(30)])
    assert get(gauge.read.remote()) == 3


def test_plain_methods_of_an_async_actor_run_on_the_loops_thread() -> None:
    @ray.remote
    class Mixed:
        async def async_thread(self) -> int:
            return threading.get_ident()

        def plain_thread(self) -> int:
            return threading.get_ident()

    mixed = Mixed.remote()
    first, second = get([mixed.async_thread.remote(), mixed.plain_thread.remote()])
    assert first == second


def test_an_async_actor_creates_background_tasks() -> None:
    @ray.remote
    class Background:
        def __init__(self) -> None:
            self.ticks = 0

        async def start(self) -> None:
            self.task = asyncio.get_running_loop().create_task(self.tick())

        async def tick(self) -> None:
            while self.ticks < 3:
                self.ticks += 1
                await asyncio.sleep(0.001)

        async def finish(self) -> int:
            await self.task
            return self.ticks

    background = Background.remote()
    get(background.start.remote())
    assert get(background.finish.remote()) == 3


def test_async_actors_call_each_other() -> None:
    @ray.remote
    class Node:
        def __init__(self, other: Any = None) -> None:
            self.other = other

        async def ask(self) -> str:
            return await self.other.answer.remote() if self.other else "nobody"

        async def answer(self) -> str:
            return "answer"

    assert get(Node.remote(Node.remote()).ask.remote()) == "answer"


def test_an_async_actor_may_await_itself() -> None:
    @ray.remote
    class Self:
        async def outer(self) -> str:
            return await ray.get_runtime_context().current_actor.inner.remote()

        async def inner(self) -> str:
            return "inner"

    assert get(Self.remote().outer.remote()) == "inner"


def test_each_coroutine_has_its_own_task_id() -> None:
    @ray.remote
    class Ids:
        async def ids(self) -> tuple[str, str]:
            before = ray.get_runtime_context().get_task_id()
            await asyncio.sleep(0.01)
            return before, ray.get_runtime_context().get_task_id()

    ids = Ids.remote()
    pairs = get([ids.ids.remote() for _ in range(5)])
    assert all(before == after for before, after in pairs)
    assert len({before for before, _ in pairs}) == 5


@beamlet_only
def test_an_actor_whose_loop_is_stopped_or_closed_goes_on() -> None:
    """Whatever was called later was never answered."""

    @ray.remote
    class Rude:
        def __init__(self) -> None:
            loop = asyncio.get_event_loop()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

        async def stop(self) -> str:
            asyncio.get_running_loop().stop()
            await asyncio.sleep(0.01)
            return "stopped"

        async def ping(self) -> str:
            return "pong"

    rude = Rude.remote()
    assert get([rude.stop.remote(), rude.ping.remote()]) == ["stopped", "pong"]
    assert get([rude.ping.remote(), rude.stop.remote(), rude.ping.remote()]) == ["pong", "stopped", "pong"]


@beamlet_only
def test_an_actor_whose_loop_breaks_dies_and_says_why() -> None:
    @ray.remote
    class Breaks:
        async def break_it(self) -> None:
            asyncio.get_running_loop()._run_once = None  # type: ignore[attr-defined]

        async def ping(self) -> str:
            return "pong"

    breaks = Breaks.remote()
    get(breaks.break_it.remote())
    with pytest.raises(ActorDiedError, match="the event loop of actor Breaks broke: TypeError"):
        get(breaks.ping.remote())


def test_exit_actor_in_an_async_actor() -> None:
    @ray.remote
    class Leaves:
        async def leave(self) -> None:
            ray.actor.exit_actor()

        async def ping(self) -> str:
            return "pong"

    leaves = Leaves.remote()
    with pytest.raises(ActorDiedError):
        get(leaves.leave.remote())
    with pytest.raises(ActorDiedError):
        get(leaves.ping.remote())


def test_killing_an_async_actor_fails_its_waiting_calls() -> None:
    signal = Signal.remote()
    waiting = [signal.wait.remote() for _ in range(3)]
    wait_until(lambda: get(signal.count.remote()) == 3, "the calls to wait")
    ray.kill(signal)
    for ref in waiting:
        with pytest.raises(ActorDiedError):
            get(ref)


def test_an_async_remote_function_is_a_value_error() -> None:
    with pytest.raises(ValueError):

        @ray.remote
        async def f() -> None:
            pass


def test_many_concurrent_calls() -> None:
    @ray.remote
    class Echo:
        async def echo(self, x: int) -> int:
            await asyncio.sleep(0)
            return x

    echo = Echo.remote()
    assert get([echo.echo.remote(i) for i in range(1000)]) == list(range(1000))
