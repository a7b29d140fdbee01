"""cancel(): wherever the work is, whoever awaits it, and however deaf it is."""

from __future__ import annotations

import heapq
import logging
import os
import queue
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conformance import beamlet_only, get, wait_until
from gates import Gate

import beamlet as ray
from beamlet.api import backend
from beamlet.core_worker.submitting.actor_submitter import LinkState
from beamlet.exceptions import ActorUnavailableError, GetTimeoutError, TaskCancelledError

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote(num_cpus=2)
def hold(gate: Gate) -> str:
    gate.open()
    Gate(Path(gate.path + ".leave")).wait()
    return "left"


@ray.remote
def mark(path: str) -> str:
    Path(path).touch()
    return "ran"


def test_a_queued_task_never_runs(gate: Gate, tmp_path: Path) -> None:
    holding = hold.remote(gate)
    wait_until(gate.is_open, "the CPUs to be taken")
    queued = [mark.remote(str(tmp_path / str(i))) for i in range(20)]
    for ref in queued[::-2]:
        ray.cancel(ref)
    Path(gate.path + ".leave").touch()
    assert get(holding) == "left"
    for number, ref in enumerate(queued):
        if number % 2:
            with pytest.raises(TaskCancelledError):
                get(ref)
        else:
            assert get(ref) == "ran"
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdecimal()) == list(range(0, 20, 2))


def test_a_running_task_is_interrupted(gate: Gate) -> None:
    @ray.remote(max_retries=3)
    def waits() -> None:
        gate.open()
        time.sleep(60)

    ref = waits.remote()
    wait_until(gate.is_open, "the task to run")
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        get(ref)


def is_running(ref: Any) -> bool:
    with pytest.raises(GetTimeoutError) as late:
        get(ref, timeout=1.5)
    return "has been running" in str(late.value)


class LongQueue(queue.Queue):  # type: ignore[type-arg]
    """Its ``get`` is a library's, and waits for ever."""


@beamlet_only
@pytest.mark.parametrize("kind", ["in C", "in Python", "method", "items"])
def test_what_a_library_runs_for_a_task_is_interrupted(kind: str, tmp_path: Path) -> None:
    """Nothing of users' stands on the stack."""
    began = tmp_path / "began"
    if kind == "in C":
        ref = ray.remote(max_retries=3)(time.sleep).remote(60)
    elif kind == "in Python":
        ref = ray.remote(subprocess.run).remote(["sh", "-c", f"touch {began}; exec sleep 60"])
    elif kind == "method":
        ref = ray.remote(LongQueue).remote().get.remote()
    else:
        ref = ray.remote(num_returns="streaming")(heapq.merge).remote(map(time.sleep, [0.0, 60.0]))
        get(next(ref))
    if kind == "in Python":
        wait_until(began.exists, "the program to run")
    elif kind != "items":
        wait_until(lambda: is_running(ref), "it to run")
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        get(ref.completed() if kind == "items" else ref)


@pytest.mark.parametrize("deaf", [False, True], ids=["sleeps", "never leaves C"])
def test_force_ends_the_worker_and_says_that_the_task_was_cancelled(gate: Gate, deaf: bool) -> None:
    @ray.remote(max_retries=3)
    def endless() -> int:
        gate.open()
        if deaf:
            return sum(range(10**13))
        time.sleep(60)
        return 0

    ref = endless.remote()
    wait_until(gate.is_open, "the task to run")
    ray.cancel(ref, force=True)
    with pytest.raises(TaskCancelledError):
        get(ref)
    assert get(mark.remote(os.devnull)) == "ran"


def test_who_waits_for_a_cancelled_task_is_told(gate: Gate) -> None:
    holding = hold.remote(gate)
    wait_until(gate.is_open, "the CPUs to be taken")
    first = mark.remote(os.devnull)
    last: Any = first
    for _ in range(1500):  # far more than Python's stack is deep
        last = identity.remote(last)
    ray.cancel(first)
    with pytest.raises(TaskCancelledError):
        get(last)
    Path(gate.path + ".leave").touch()
    assert get(holding) == "left"


@ray.remote
def identity(value: Any) -> Any:
    return value


@ray.remote(max_restarts=1)
class Slow:
    def wait(self, gate: Gate) -> None:
        gate.wait()

    def mark(self, path: str) -> str:
        Path(path).touch()
        return "ran"


def test_a_queued_call_never_runs_and_those_behind_it_do(gate: Gate, tmp_path: Path) -> None:
    slow = Slow.remote()
    held = slow.wait.remote(gate)
    argument = hold.remote(Gate(tmp_path / "holding"))
    waits = slow.mark.remote(argument)  # not sent: its argument is not there
    behind = slow.mark.remote(str(tmp_path / "behind"))
    ray.cancel(waits)
    gate.open()
    assert get(behind) == "ran"
    assert get(held) is None
    with pytest.raises(TaskCancelledError):
        get(waits)
    ray.cancel(argument, force=True)


@beamlet_only  # Ray says so only for some of them
def test_a_call_while_the_actor_restarts_says_that_it_is_unavailable(gate: Gate) -> None:
    @ray.remote(max_restarts=1)
    class Restarts:
        def __init__(self) -> None:
            if Path(gate.path + ".again").exists():
                gate.wait()
            Path(gate.path + ".again").touch()

        def pid(self) -> int:
            return os.getpid()

    actor = Restarts.remote()
    before = get(actor.pid.remote())
    os.kill(before, 9)
    with pytest.raises(ActorUnavailableError):
        wait_until(lambda: get(actor.pid.remote(), timeout=1) and False, "a call to fail")
    patient = actor.pid.options(max_task_retries=1).remote()
    gate.open()
    assert get(patient) != before


@beamlet_only
def test_an_actor_that_never_lived_and_that_nobody_calls_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @ray.remote
    class Broken:
        def __init__(self, text: str) -> None:
            raise ValueError(text)

        def ping(self) -> None: ...

    with caplog.at_level(logging.ERROR, logger="beamlet"):
        called = Broken.remote("called")
        with pytest.raises(ray.exceptions.ActorDiedError):
            get(called.ping.remote())
        with pytest.raises(ray.exceptions.ActorDiedError):
            get(called.ping.remote())
        del called
        uncalled = Broken.remote("not called")
        link = backend.current().actors.links[uncalled._id]
        wait_until(lambda: link.state is LinkState.DEAD, "the driver to hear of it")
        assert "not called" not in caplog.text, "its user may still call it"
        del uncalled
        wait_until(lambda: "ValueError: not called" in caplog.text, "it to be told")
    assert "ValueError: called" not in caplog.text
    assert caplog.text.count("nobody asked") == 1
    assert "Broken.__init__, submitted at test_cancel.py:" in caplog.text
