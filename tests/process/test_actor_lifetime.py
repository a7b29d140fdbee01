"""How actors end: killed, out of scope, by themselves, in their constructor; and what callers then see."""

from __future__ import annotations

import gc
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from conformance import AGAINST_RAY, beamlet_only, get, process_is_gone, wait_until
from gates import Gate

import beamlet as ray
from beamlet.exceptions import ActorDiedError, RayActorError

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Worker:
    def pid(self) -> int:
        return os.getpid()

    def ping(self) -> str:
        return "pong"

    def wait_at(self, gate: Gate) -> str:
        gate.wait()
        return "passed"

    def exit_process(self) -> None:
        os._exit(4)

    def leave(self) -> None:
        ray.actor.exit_actor()


def test_a_killed_actors_process_ends() -> None:
    worker = Worker.remote()
    pid = get(worker.pid.remote())
    ray.kill(worker)
    wait_until(lambda: process_is_gone(pid), "the killed actor's process to end")


def test_calls_to_a_killed_actor_raise() -> None:
    worker = Worker.remote()
    get(worker.ping.remote())
    ray.kill(worker)
    with pytest.raises(ActorDiedError):
        get(worker.ping.remote())


def test_the_error_is_a_ray_actor_error() -> None:
    worker = Worker.remote()
    ray.kill(worker)
    with pytest.raises(RayActorError):
        get(worker.ping.remote())


def test_kill_fails_the_running_call_and_those_behind_it(gate: Gate) -> None:
    worker = Worker.remote()
    get(worker.ping.remote())
    refs = [worker.wait_at.remote(gate), worker.ping.remote()]
    ray.kill(worker)
    for ref in refs:
        with pytest.raises(ActorDiedError):
            get(ref)


def test_killing_twice_does_no_harm() -> None:
    worker = Worker.remote()
    get(worker.ping.remote())
    ray.kill(worker)
    ray.kill(worker)
    with pytest.raises(ActorDiedError):
        get(worker.ping.remote())


def test_killing_an_actor_that_is_not_yet_created() -> None:
    worker = Worker.remote()
    ray.kill(worker)
    with pytest.raises(ActorDiedError):
        get(worker.ping.remote())


def test_kill_of_something_else_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        ray.kill(ray.put(1))


def test_results_from_before_the_death_stay() -> None:
    worker = Worker.remote()
    ref = worker.ping.remote()
    get(ref)
    ray.kill(worker)
    assert get(ref) == "pong"


def test_an_actor_ends_when_its_last_handle_goes() -> None:
    worker = Worker.remote()
    pid = get(worker.pid.remote())
    del worker
    gc.collect()
    wait_until(lambda: process_is_gone(pid), "the unreachable actor to end")


def test_an_actor_lives_while_any_handle_does() -> None:
    @ray.remote
    class Holder:
        def hold(self, box: list[Any]) -> None:
            self.held = box[0]

        def ping(self) -> str:
            return ray.get(self.held.ping.remote())

    worker, holder = Worker.remote(), Holder.remote()
    get(holder.hold.remote([worker]))
    del worker
    gc.collect()
    assert get(holder.ping.remote()) == "pong"


def test_an_actor_out_of_scope_finishes_its_calls_first(gate: Gate) -> None:
    worker = Worker.remote()
    refs = [worker.wait_at.remote(gate)] + [worker.ping.remote() for _ in range(3)]
    del worker
    gc.collect()
    gate.open()
    assert get(refs) == ["passed", "pong", "pong", "pong"]


def test_an_actor_made_by_a_task_ends_when_the_task_did() -> None:
    @ray.remote
    def makes_an_actor() -> int:
        worker = Worker.remote()
        return ray.get(worker.pid.remote())

    pid = get(makes_an_actor.remote())
    wait_until(lambda: process_is_gone(pid), "the task's actor to end")


def test_children_die_with_the_actor_that_owns_them() -> None:
    @ray.remote
    class Parent:
        def __init__(self) -> None:
            self.child = Worker.remote()

        def child_pid(self) -> int:
            return ray.get(self.child.pid.remote())

    parent = Parent.remote()
    pid = get(parent.child_pid.remote())
    ray.kill(parent)
    wait_until(lambda: process_is_gone(pid), "the child of the killed actor to end")


def test_exit_actor_ends_the_process() -> None:
    worker = Worker.remote()
    pid = get(worker.pid.remote())
    with pytest.raises(ActorDiedError):
        get(worker.leave.remote())
    wait_until(lambda: process_is_gone(pid), "the actor that left to end")
    with pytest.raises(ActorDiedError):
        get(worker.ping.remote())


def test_exit_actor_runs_atexit_handlers(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    @ray.remote
    class Leaves:
        def __init__(self) -> None:
            import atexit

            atexit.register(marker.touch)

        def leave(self) -> None:
            ray.actor.exit_actor()

    leaves = Leaves.remote()
    with pytest.raises(ActorDiedError):
        get(leaves.leave.remote())
    wait_until(marker.exists, "the atexit handler to run")


def test_exit_actor_outside_an_actor_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        ray.actor.exit_actor()


def test_ray_terminate_ends_the_actor_after_its_calls(gate: Gate) -> None:
    worker = Worker.remote()
    first = worker.wait_at.remote(gate)
    ending = worker.__ray_terminate__.remote()
    gate.open()
    assert get(first) == "passed"
    with pytest.raises(RayActorError):
        get([ending, worker.ping.remote()])


def test_a_crash_in_a_method_is_an_actor_died_error() -> None:
    worker = Worker.remote()
    with pytest.raises(ActorDiedError):
        get(worker.exit_process.remote())


def test_kill_9_from_outside_is_an_actor_died_error() -> None:
    worker = Worker.remote()
    os.kill(get(worker.pid.remote()), signal.SIGKILL)
    with pytest.raises(RayActorError):
        get(worker.ping.remote())


@beamlet_only
def test_the_death_certificate_names_class_and_exit_code() -> None:
    worker = Worker.remote()
    with pytest.raises(ActorDiedError) as caught:
        get(worker.exit_process.remote())
    assert "Worker" in str(caught.value)
    assert "4" in str(caught.value)


@beamlet_only
def test_the_death_certificate_names_the_signal() -> None:
    worker = Worker.remote()
    os.kill(get(worker.pid.remote()), signal.SIGKILL)
    with pytest.raises(ActorDiedError, match="SIGKILL"):
        get(worker.ping.remote())


def test_a_failing_constructor_is_an_actor_died_error_with_the_cause() -> None:
    @ray.remote
    class Unborn:
        def __init__(self) -> None:
            raise ValueError("no such thing")

        def ping(self) -> None:
            pass

    unborn = Unborn.remote()
    with pytest.raises(ActorDiedError) as caught:
        get(unborn.ping.remote())
    assert "no such thing" in str(caught.value)
    assert "ValueError" in str(caught.value)
    if not AGAINST_RAY:
        first = str(caught.value).splitlines()[0]
        assert re.match(
            r"Actor Unborn \(id \w+, created at test_actor_lifetime\.py:\d+\) could not be", first
        )


def test_later_calls_after_a_failing_constructor_raise_alike() -> None:
    @ray.remote
    class Unborn:
        def __init__(self) -> None:
            raise ValueError("no such thing")

        def ping(self) -> None:
            pass

    unborn = Unborn.remote()
    for _ in range(2):
        with pytest.raises(ActorDiedError, match="no such thing"):
            get(unborn.ping.remote())


def test_a_failed_constructor_argument_fails_the_actor() -> None:
    @ray.remote
    def fails() -> None:
        raise KeyError("argument")

    @ray.remote
    class Takes:
        def __init__(self, _: Any) -> None:
            pass

        def ping(self) -> None:
            pass

    takes = Takes.remote(fails.remote())
    with pytest.raises(Exception, match="argument"):
        get(takes.ping.remote())


def test_the_driver_survives_an_actor_nobody_calls_that_fails() -> None:
    @ray.remote
    class Unborn:
        def __init__(self) -> None:
            raise ValueError

    Unborn.remote()
    assert get(ray.put(1)) == 1


def test_a_task_that_calls_a_dead_actor_gets_the_error() -> None:
    @ray.remote
    def call(worker: Any) -> str:
        try:
            return ray.get(worker.ping.remote())
        except ActorDiedError:
            return "dead"

    worker = Worker.remote()
    get(worker.ping.remote())
    ray.kill(worker)
    assert get(call.remote(worker)) == "dead"
