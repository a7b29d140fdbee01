"""The end of actors of every kind: sys.exit() anywhere, the last handle, clean-up code, threads on demand."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance import beamlet_only, get, process_is_gone, run_script, wait_until
from gates import Gate

import beamlet as ray
from beamlet.exceptions import ActorDiedError, RayActorError, TaskCancelledError, WorkerCrashedError
from beamlet.util.queue import Queue

pytestmark = pytest.mark.usefixtures("cluster")


class Leaver:
    """Calls sys.exit() wherever one can."""

    def __init__(self, at_once: bool = False) -> None:
        if at_once:
            sys.exit(3)

    def leave(self, code: int) -> None:
        sys.exit(code)

    def items(self) -> Iterator[int]:
        yield 1
        sys.exit(3)

    def die(self) -> None:
        os._exit(3)

    def wait_at(self, gate: Gate) -> None:
        gate.wait()

    def ping(self) -> str:
        return "pong"


class AsyncLeaver(Leaver):
    async def leave(self, code: int) -> None:  # type: ignore[override]
        sys.exit(code)

    async def items(self) -> Any:
        yield 1
        sys.exit(3)

    async def pid(self) -> int:
        return os.getpid()


def leaver(kind: str, *args: Any) -> Any:
    if kind == "async":
        return ray.remote(AsyncLeaver).remote(*args)
    return ray.remote(Leaver).options(max_concurrency=4 if kind == "threads" else 1).remote(*args)


KINDS = ["plain", "threads", "async"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", [0, 3])
def test_sys_exit_in_a_method_ends_the_actor(kind: str, code: int, gate: Gate) -> None:
    actor = leaver(kind)
    assert get(actor.ping.remote()) == "pong"
    if kind == "threads":
        actor.wait_at.remote(gate)  # so that it is a helper thread's turn
    with pytest.raises(ActorDiedError):
        get(actor.leave.remote(code))
    with pytest.raises(ActorDiedError):
        get(actor.ping.remote())


@pytest.mark.parametrize("kind", KINDS)
def test_sys_exit_in_a_constructor_ends_the_actor(kind: str) -> None:
    with pytest.raises(ActorDiedError):
        get(leaver(kind, True).ping.remote())


@pytest.mark.parametrize("kind", KINDS)
def test_sys_exit_in_a_generator_is_its_last_item(kind: str) -> None:
    items = leaver(kind).items.options(num_returns="streaming").remote()
    assert get(next(items)) == 1
    with pytest.raises(RayActorError):
        get(next(items))


@pytest.mark.parametrize("kind", KINDS)
def test_os_exit_in_a_method_ends_the_actor(kind: str) -> None:
    with pytest.raises(ActorDiedError):
        get(leaver(kind).die.remote())


def test_sys_exit_in_a_task_is_a_crash_of_its_worker() -> None:
    @ray.remote(max_retries=0)
    def leaves() -> None:
        sys.exit(3)

    with pytest.raises(WorkerCrashedError):
        get(leaves.remote())


# -- the last handle -----------------------------------------------------------------------------


@ray.remote
class Tidy:
    """Writes down how it was ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def pid(self) -> int:
        return os.getpid()

    async def sleep_at(self, gate: Gate) -> str:
        while not gate.is_open():  # noqa: ASYNC110 — a file tells nobody
            await asyncio.sleep(0.005)
        return "done"

    async def __ray_shutdown__(self) -> None:
        await asyncio.sleep(0)
        (self.folder / "hook").touch()

    def __del__(self) -> None:
        (self.folder / "del").touch()


@ray.remote
class TidyPlain:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pid(self) -> int:
        return os.getpid()

    def __del__(self) -> None:
        (self.folder / "del").touch()


def test_async_actors_end_with_their_last_handle_and_give_their_cpus_back(tmp_path: Path) -> None:
    for _ in range(3):  # each needs every CPU, so the next one starts when the last one ended
        actor = Tidy.options(num_cpus=ray.cluster_resources()["CPU"]).remote(tmp_path)
        assert get(actor.pid.remote()) > 0
        del actor
        gc.collect()
    wait_until((tmp_path / "hook").exists, "the clean-up method to be called")
    wait_until((tmp_path / "del").exists, "the instance to be let go")


def test_an_async_actor_out_of_scope_finishes_its_calls_first(tmp_path: Path, gate: Gate) -> None:
    actor = Tidy.remote(tmp_path)
    pid = get(actor.pid.remote())
    ref = actor.sleep_at.remote(gate)
    del actor
    gc.collect()
    gate.open()
    assert get(ref) == "done"
    wait_until(lambda: process_is_gone(pid), "the unreachable actor to end")


def test_terminate_lets_an_async_actor_finish(tmp_path: Path, gate: Gate) -> None:
    actor = Tidy.remote(tmp_path)
    first, ending = actor.sleep_at.remote(gate), actor.__ray_terminate__.remote()
    gate.open()
    assert get(first) == "done"
    with pytest.raises(RayActorError):
        get(ending)


def test_a_queue_that_nobody_has_ends() -> None:
    queue = Queue()
    queue.put(1)
    pid = get(queue.actor.__ray_call__.remote(lambda _: os.getpid()))
    del queue
    gc.collect()
    wait_until(lambda: process_is_gone(pid), "the queue's actor to end")


def test_del_of_an_instance_out_of_scope_runs(tmp_path: Path) -> None:
    actor = TidyPlain.remote(tmp_path)
    get(actor.pid.remote())
    del actor
    gc.collect()
    wait_until((tmp_path / "del").exists, "the instance to be let go")


def test_what_a_leaving_actor_printed_and_answered_arrives() -> None:
    @ray.remote
    class Says:
        def say(self) -> str:
            print("last words")
            return "said"

    actor = Says.remote()
    said, ending = actor.say.remote(), actor.__ray_terminate__.remote()
    assert get(said) == "said"
    with pytest.raises(RayActorError):
        get(ending)


# -- threads and groups --------------------------------------------------------------------------


@ray.remote(max_concurrency=10**6)
class Wide:
    def threads(self) -> int:
        return threading.active_count()

    def wait_at(self, gate: Gate) -> str:
        gate.wait()
        return "passed"


@beamlet_only
def test_threads_start_when_there_is_work_for_them(gate: Gate) -> None:
    actor = Wide.remote()
    alone = get(actor.threads.remote())
    assert alone < 10
    waiting = [actor.wait_at.remote(gate) for _ in range(20)]
    wait_until(lambda: get(actor.threads.remote()) > 20, "each call that waits to have a thread")
    gate.open()
    assert get(waiting) == ["passed"] * 20
    assert get(actor.threads.remote()) < alone + 40


def test_an_actor_is_ready_although_its_default_group_is_blocked(gate: Gate) -> None:
    @ray.remote(concurrency_groups={"io": 1})
    class Grouped:
        def wait_at(self, gate: Gate) -> str:
            gate.wait()
            return "passed"

    actor = Grouped.remote()
    waiting = actor.wait_at.remote(gate)
    assert get(actor.__ray_ready__.remote())
    gate.open()
    assert get(waiting) == "passed"


def test_terminate_lets_other_threads_finish(gate: Gate) -> None:
    actor = Wide.options(max_concurrency=4).remote()
    waiting = actor.wait_at.remote(gate)
    endings = [actor.__ray_terminate__.remote() for _ in range(2)]
    gate.open()
    assert get(waiting) == "passed"
    for ending in endings:
        with pytest.raises(RayActorError):
            get(ending)


class SlowToPickle:
    def __reduce__(self) -> tuple[type, tuple[str]]:
        time.sleep(0.1)  # as a large result takes its time on its way into the store
        return str, ("answered",)


@pytest.mark.parametrize("options", [{"max_concurrency": 2}, {"concurrency_groups": {"slow": 1}}])
def test_terminate_lets_other_threads_answer(options: dict[str, Any]) -> None:
    """Their method has returned; what it returned was lost."""

    @ray.remote(**options)
    class Answers:
        def slow(self) -> SlowToPickle:
            return SlowToPickle()

        def ready(self) -> None: ...

    actor = Answers.remote()
    get(actor.ready.remote())
    group = "slow" if "concurrency_groups" in options else None
    result = actor.slow.options(concurrency_group=group).remote()
    actor.__ray_terminate__.remote()
    assert get(result) == "answered"


# -- cancelling calls of async actors ------------------------------------------------------------


def test_cancel_of_a_call_that_waits_for_its_turn_on_the_loop(tmp_path: Path, gate: Gate) -> None:
    actor = Tidy.options(max_concurrency=1).remote(tmp_path)
    running = actor.sleep_at.remote(gate)
    queued = [actor.sleep_at.remote(gate) for _ in range(3)]
    ray.cancel(queued[1])
    with pytest.raises(TaskCancelledError):
        get(queued[1])
    gate.open()
    assert get([running, queued[0], queued[2]]) == ["done"] * 3


# -- the end of the driver -----------------------------------------------------------------------


CLEANS_UP = """
import asyncio, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
ray.init(num_cpus=4)

class Plain:
    def __init__(self, name): self.name = name
    def ping(self): pass
    def __ray_shutdown__(self):
        time.sleep(0.05)
        (folder / self.name).touch()

class Async(Plain):
    async def ping(self): pass
    async def __ray_shutdown__(self):
        await asyncio.sleep(0.05)
        (folder / self.name).touch()

class Busy(Plain):
    def work(self):
        (folder / "working").touch()
        time.sleep(600)

class OnlyDel:
    def ping(self): pass
    def __del__(self):
        time.sleep(0.3)
        (folder / "del").touch()

class Parent(Plain):  # has an actor of its own, which takes longer to end
    def __init__(self, name):
        super().__init__(name)
        self.child = ray.remote(Slow).remote("child of " + name)
        ray.get(self.child.ping.remote())

class Slow(Plain):
    def __ray_shutdown__(self):
        time.sleep(0.2)
        super().__ray_shutdown__()

@ray.remote
def keep(name):  # a task that has an actor, which its worker keeps
    global kept
    kept = ray.remote(Plain).remote(name)
    ray.get(kept.ping.remote())

actors = [
    ray.remote(Plain).remote("plain"), ray.remote(Async).remote("async"),
    ray.remote(OnlyDel).remote(), ray.remote(Parent).remote("parent"),
]
ray.get([*[actor.ping.remote() for actor in actors], keep.remote("task's")])
if len(sys.argv) > 2:
    busy = ray.remote(Busy).remote("busy")
    busy.work.remote()
    while not (folder / "working").exists():
        time.sleep(0.01)
"""


@beamlet_only
@pytest.mark.parametrize("busy", [False, True])
def test_clean_up_methods_run_at_the_end_of_the_driver(tmp_path: Path, busy: bool) -> None:
    run_script(tmp_path / "program.py", CLEANS_UP, str(tmp_path), *(["busy"] if busy else []))
    done = {path.name for path in tmp_path.iterdir()} - {"program.py", "working"}
    assert done == {"plain", "async", "del", "parent", "child of parent", "task's"}


@beamlet_only
def test_an_actor_with_only_del_does_not_hold_up_the_end_of_the_driver_by_a_call(tmp_path: Path) -> None:
    """Many classes inherit one. shutdown() waited the full second for a call that nobody reads any more."""
    source = """
        import asyncio, pathlib, sys, time
        folder = pathlib.Path(sys.argv[1])
        ray.init(num_cpus=8)
        class Finalized:
            def __init__(self, name, seconds=0):
                self.name = name
                (folder / name).touch()
                time.sleep(seconds)
            def work(self):
                (folder / ("call of " + self.name)).touch()
                time.sleep(600)
            def __del__(self): pass
        class Async(Finalized):
            async def work(self):
                (folder / "call of async").touch()
                await asyncio.sleep(600)
        actors = [
            ray.remote(Finalized).remote("plain"), ray.remote(Async).remote("async"),
            ray.remote(max_concurrency=3)(Finalized).remote("threaded"),
        ]
        calls = [actor.work.remote() for actor in actors for _ in range(2)]
        constructing = ray.remote(Finalized).remote("constructing", 600)
        begun = ["call of plain", "call of async", "call of threaded", "constructing"]
        while not all((folder / name).exists() for name in begun): time.sleep(0.01)
        began = time.monotonic()
        ray.shutdown()
        print(time.monotonic() - began)
    """
    assert float(run_script(tmp_path / "program.py", source, str(tmp_path))) < 0.8


@ray.remote
class Answerer:
    def large(self) -> bytes:
        return os.urandom(90_000)  # small enough to travel with the answer

    def leave(self) -> None:
        ray.actor.exit_actor()


def test_what_was_answered_before_the_actor_left_is_there_although_it_was_not_read_at_once() -> None:
    actor = Answerer.remote()
    get(actor.large.remote())
    refs = [actor.large.remote() for _ in range(200)]
    end = actor.leave.remote()
    assert [len(value) for value in get(refs)] == [90_000] * 200
    with pytest.raises(ActorDiedError):
        get(end)
