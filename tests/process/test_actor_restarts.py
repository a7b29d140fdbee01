"""Actors that come back: how often, with which state, and what happens to the calls meanwhile."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conformance import beamlet_only, get, process_is_gone, wait_until
from gates import Gate

import beamlet as ray
from beamlet.api import backend
from beamlet.exceptions import ActorDiedError, GetTimeoutError, RayActorError

pytestmark = pytest.mark.usefixtures("cluster")


class Phoenix:
    """Keeps a number, tells its process, and dies on demand."""

    def __init__(self, start: int = 0) -> None:
        self.n = start

    def add(self) -> int:
        self.n += 1
        return self.n

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os._exit(1)

    def reconstructed(self) -> bool:
        return ray.get_runtime_context().was_current_actor_reconstructed

    def wait_at(self, gate: Gate) -> str:
        gate.wait()
        return "passed"

    def die_once(self, marker: str) -> str:
        if not os.path.exists(marker):
            Path(marker).touch()
            os._exit(1)
        return "survived"


def answers(actor: Any) -> bool:
    """True once the actor answers; calls during a restart may fail, which is not the point here."""
    try:
        return bool(get(actor.pid.remote()))
    except RayActorError:
        return False


def kill_process(actor: Any) -> None:
    pid = get(actor.pid.remote())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: process_is_gone(pid), "the actor's process to end")


def test_an_actor_comes_back_after_its_process_died() -> None:
    phoenix = ray.remote(max_restarts=1)(Phoenix).remote()
    before = get(phoenix.pid.remote())
    kill_process(phoenix)
    wait_until(lambda: answers(phoenix), "the actor to come back")
    assert get(phoenix.pid.remote()) != before


def test_the_constructor_runs_again_with_its_arguments() -> None:
    phoenix = ray.remote(max_restarts=1)(Phoenix).remote(10)
    assert get(phoenix.add.remote()) == 11
    kill_process(phoenix)
    wait_until(lambda: answers(phoenix), "the actor to come back")
    assert get(phoenix.add.remote()) == 11


def test_constructor_arguments_that_are_refs_are_there_for_the_restart() -> None:
    phoenix = ray.remote(max_restarts=1)(Phoenix).remote(ray.put(20))
    kill_process(phoenix)
    wait_until(lambda: answers(phoenix), "the actor to come back")
    assert get(phoenix.add.remote()) == 21


def test_an_actor_comes_back_only_as_often_as_it_may() -> None:
    phoenix = ray.remote(max_restarts=2)(Phoenix).remote()
    for _ in range(2):
        kill_process(phoenix)
        wait_until(lambda: answers(phoenix), "the actor to come back")
    kill_process(phoenix)
    with pytest.raises(ActorDiedError):
        get(phoenix.add.remote())


def test_max_restarts_minus_one_has_no_end() -> None:
    phoenix = ray.remote(max_restarts=-1)(Phoenix).remote()
    for _ in range(4):
        kill_process(phoenix)
        wait_until(lambda: answers(phoenix), "the actor to come back")


def test_an_actor_does_not_come_back_unless_asked() -> None:
    phoenix = ray.remote(Phoenix).remote()
    kill_process(phoenix)
    with pytest.raises(ActorDiedError):
        get(phoenix.add.remote())


def test_was_current_actor_reconstructed() -> None:
    phoenix = ray.remote(max_restarts=1)(Phoenix).remote()
    assert get(phoenix.reconstructed.remote()) is False
    kill_process(phoenix)
    wait_until(lambda: answers(phoenix), "the actor to come back")
    assert get(phoenix.reconstructed.remote()) is True


def test_the_running_call_fails_without_max_task_retries() -> None:
    phoenix = ray.remote(max_restarts=1)(Phoenix).remote()
    with pytest.raises(RayActorError):
        get(phoenix.die.remote())


def test_the_running_call_is_retried_with_max_task_retries(tmp_path: Path) -> None:
    phoenix = ray.remote(max_restarts=1, max_task_retries=1)(Phoenix).remote()
    assert get(phoenix.die_once.remote(str(tmp_path / "died"))) == "survived"


def test_a_call_is_retried_only_as_often_as_it_may() -> None:
    phoenix = ray.remote(max_restarts=-1, max_task_retries=1)(Phoenix).remote()
    with pytest.raises(RayActorError):
        get(phoenix.die.remote())


def test_calls_behind_the_fatal_one_are_resent_with_max_task_retries(tmp_path: Path) -> None:
    phoenix = ray.remote(max_restarts=1, max_task_retries=-1)(Phoenix).remote()
    died = phoenix.die_once.remote(str(tmp_path / "died"))
    added = [phoenix.add.remote() for _ in range(5)]
    assert get(died) == "survived"
    assert sorted(get(added)) == [1, 2, 3, 4, 5]


@beamlet_only  # Ray resends them in any order
def test_calls_are_resent_in_their_order(tmp_path: Path) -> None:
    phoenix = ray.remote(max_restarts=1, max_task_retries=-1)(Phoenix).remote()
    phoenix.die_once.remote(str(tmp_path / "died"))
    assert get([phoenix.add.remote() for _ in range(20)]) == list(range(1, 21))


def test_kill_does_not_restart() -> None:
    phoenix = ray.remote(max_restarts=-1)(Phoenix).remote()
    pid = get(phoenix.pid.remote())
    ray.kill(phoenix)
    wait_until(lambda: process_is_gone(pid), "the killed process to end")
    with pytest.raises(ActorDiedError):
        get(phoenix.add.remote())


def test_kill_with_no_restart_false_restarts() -> None:
    phoenix = ray.remote(max_restarts=1)(Phoenix).remote()
    before = get(phoenix.pid.remote())
    ray.kill(phoenix, no_restart=False)
    wait_until(lambda: process_is_gone(before), "the killed process to end")
    wait_until(lambda: answers(phoenix), "the actor to come back")
    assert get(phoenix.pid.remote()) != before


def test_exit_actor_does_not_restart() -> None:
    @ray.remote(max_restarts=-1)
    class Leaves:
        def leave(self) -> None:
            ray.actor.exit_actor()

        def ping(self) -> None:
            pass

    leaves = Leaves.remote()
    with pytest.raises(ActorDiedError):
        get(leaves.leave.remote())
    with pytest.raises(ActorDiedError):
        get(leaves.ping.remote())


def test_a_named_actor_keeps_its_name_through_a_restart() -> None:
    phoenix = ray.remote(max_restarts=1, name="phoenix")(Phoenix).remote()
    kill_process(phoenix)
    wait_until(lambda: answers(phoenix), "the actor to come back")
    assert get(ray.get_actor("phoenix").add.remote()) == 1


def test_handles_held_by_tasks_work_after_a_restart() -> None:
    @ray.remote
    def add(actor: Any) -> int:
        return ray.get(actor.add.remote())

    phoenix = ray.remote(max_restarts=1)(Phoenix).remote()
    assert get(add.remote(phoenix)) == 1
    kill_process(phoenix)
    wait_until(lambda: answers(phoenix), "the actor to come back")
    assert get(add.remote(phoenix)) == 1


def test_a_users_error_does_not_restart_the_actor() -> None:
    @ray.remote(max_restarts=1)
    class Fails:
        def fail(self) -> None:
            raise ValueError

        def pid(self) -> int:
            return os.getpid()

    fails = Fails.remote()
    before = get(fails.pid.remote())
    with pytest.raises(ValueError):
        get(fails.fail.remote())
    assert get(fails.pid.remote()) == before


def test_retry_exceptions_of_a_method() -> None:
    @ray.remote
    class Flaky:
        def __init__(self) -> None:
            self.attempts = 0

        @ray.method(max_task_retries=2, retry_exceptions=True)
        def run(self) -> int:
            self.attempts += 1
            if self.attempts < 3:
                raise ValueError
            return self.attempts

    assert get(Flaky.remote().run.remote()) == 3


def test_a_method_of_a_temporary_handle_is_retried_to_its_own_error() -> None:
    @ray.remote
    class Fails:
        @ray.method(max_task_retries=2, retry_exceptions=True)
        def late(self) -> None:
            time.sleep(0.05)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        get(Fails.remote().late.remote())


def test_calls_made_before_an_actor_has_started_survive_a_crash_of_its_constructor(tmp_path: Path) -> None:
    @ray.remote(max_restarts=2)
    class Stumbles:
        def __init__(self, mark: str) -> None:
            if not os.path.exists(mark):
                Path(mark).touch()
                os._exit(1)

        def ping(self) -> str:
            return "pong"

    assert get(Stumbles.remote(str(tmp_path / "mark")).ping.remote()) == "pong"


@beamlet_only
def test_a_wait_for_an_actor_that_does_not_come_up_says_why() -> None:
    @ray.remote(max_restarts=-1)
    class NeverStarts:
        def __init__(self) -> None:
            os._exit(7)

        def ping(self) -> None: ...

    actor = NeverStarts.remote()
    call = actor.ping.remote()
    link = backend.current().actors.links[actor._id]
    wait_until(lambda: bool(link.stumbled), "the driver to hear of it")
    with pytest.raises(GetTimeoutError, match=r"is not ready: .*is being restarted.*exited with code 7"):
        get(call, timeout=0.1)
    ray.kill(actor)
    with pytest.raises(ActorDiedError):
        get(call)
