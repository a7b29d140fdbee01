"""A wait that takes long says what it waits for, who holds that, and where they were made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conformance import AGAINST_RAY, DEADLINE_S, get, run_script, start_script, wait_until
from gates import Gate

import beamlet as ray
from beamlet.exceptions import GetTimeoutError, InfeasibleError

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.skipif(AGAINST_RAY, reason="Ray does not say"),
]

#: Long enough that others are asked why.
SHORT_S = 0.6


@ray.remote(num_cpus=0)
def pass_gate(gate: Gate) -> str:
    gate.wait()
    return "through"


@ray.remote(num_cpus=0)
def echo(x: Any) -> Any:
    return x


@ray.remote
class Worker:
    def pass_gate(self, gate: Gate) -> None:
        gate.wait()

    def get_from(self, other: Any, gate: Gate) -> None:
        ray.get(other.pass_gate.remote(gate))

    def ping(self) -> int:
        return 1


def why(refs: Any) -> str:
    """The text of the timeout."""
    with pytest.raises(GetTimeoutError) as caught:
        ray.get(refs, timeout=SHORT_S)
    return str(caught.value)


def test_a_task_that_runs(gate: Gate) -> None:
    ref = pass_gate.remote(gate)
    wait_until(lambda: "has been running" in why(ref), "the worker to take the task")
    text = why(ref)
    assert text.startswith("Get timed out: some object(s) not ready. After 0.6 s the object had no value:")
    assert re.search(r"task pass_gate \(submitted at test_why.py:\d+\) has been running for \d", text)
    assert "pid=" in text
    gate.open()
    assert get(ref) == "through"


def test_a_task_whose_argument_is_not_there(gate: Gate) -> None:
    first = pass_gate.remote(gate)
    text = why(echo.remote(echo.remote(first)))
    assert re.search(
        r"task echo .* waits for its argument: task echo .* waits for its argument: task pass_g", text
    )
    gate.open()


def test_all_cpus_held_by_actors(gate: Gate) -> None:
    holders = [Worker.options(num_cpus=1).remote() for _ in range(2)]
    get([holder.ping.remote() for holder in holders])
    text = why(echo.options(num_cpus=1).remote(1))
    assert "waits for a worker: all 2 CPUs are held: actors Worker ×2 (created test_why.py:" in text
    assert "num_cpus=0" in text
    assert "waits to be placed: all 2 CPUs are held" in why(Worker.options(num_cpus=1).remote().ping.remote())


def test_what_no_node_has() -> None:
    ref = echo.options(num_cpus=100).remote(1)
    assert "needs {'CPU': 100}; the largest node has {'CPU': 2} (1 node)" in why(ref)
    with pytest.raises(InfeasibleError) as caught:
        get(ref)
    assert re.match(
        r"echo needs \{'CPU': 100\}; .* Submitted at test_why.py:\d+\. Ask for less", str(caught.value)
    )


def test_a_constructor_that_runs(gate: Gate) -> None:
    class Slow:
        def __init__(self, gate: Gate) -> None:
            gate.wait()

        def ping(self) -> None:
            pass

    text = why(ray.remote(Slow).remote(gate).ping.remote())
    assert "actor Slow (created at test_why.py:" in text
    assert "__init__ is running" in text
    gate.open()


def test_a_constructor_whose_argument_is_not_there(gate: Gate) -> None:
    class Takes:
        def __init__(self, x: Any) -> None:
            pass

        def ping(self) -> None:
            pass

    text = why(ray.remote(Takes).remote(pass_gate.remote(gate)).ping.remote())
    assert "is not started: __init__ waits for its argument: task pass_gate" in text
    gate.open()


def test_a_call_behind_others(gate: Gate) -> None:
    worker = Worker.remote()
    first = worker.pass_gate.remote(gate)
    wait_until(lambda: "has been running" in why(first), "the actor to take the call")
    text = why(worker.ping.remote())
    assert re.search(
        r"Worker.ping \(submitted at test_why.py:\d+\) is queued behind 1 call of the actor", text
    )
    assert re.search(r": Worker.pass_gate has been running for \d", text)
    gate.open()


def test_a_call_that_waits_for_another_actor(gate: Gate) -> None:
    waiting, working = Worker.remote(), Worker.remote()
    ref = waiting.get_from.remote(working, gate)
    pattern = r"Worker.get_from .* and waits at test_why.py:\d+: Worker.pass_gate"
    wait_until(lambda: re.search(pattern, why(ref)), "the call to wait in get")
    gate.open()
    get(ref)


def test_many_that_wait_for_the_same_are_told_once(gate: Gate) -> None:
    first = pass_gate.remote(gate)
    text = why([echo.remote(first) for _ in range(10)])
    assert len(text.splitlines()) == 2
    assert "(×10)" in text
    gate.open()


def test_after_five_seconds_a_stuck_wait_is_explained_once(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(
        "import beamlet as ray, time\n"
        "ray.init(num_cpus=1)\n"
        "@ray.remote(num_cpus=1)\n"
        "class H:\n"
        "    def ping(self): pass\n"
        "@ray.remote(num_cpus=1)\n"
        "def f(): pass\n"
        "@ray.remote(num_cpus=0)\n"
        "def slow(): time.sleep(5.5)\n"
        "ray.get(slow.remote())\n"
        "h = H.remote()\n"
        "ray.get(h.ping.remote())\n"
        "ray.wait([f.remote()], timeout=5.5)\n"
    )
    process = start_script(script)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    # Each line begins with the time and the level.
    assert [line.partition("WARNING ")[2] for line in err.splitlines()] == [
        "app.py:13 has been waiting for 5 s: task f (submitted at app.py:13) waits for a worker: "
        "the only CPU is held: actor H ×1 (created app.py:11). "
        "Let go of one, or give actors that are mostly idle num_cpus=0"
    ], "one line for the wait that is stuck, none for the one that is merely long"


def test_a_result_that_finds_no_room(tmp_path: Path) -> None:
    program = """
        ray.init(num_cpus=1, object_store_memory=80 * 2**20)
        kept = ray.put(bytes(60 * 2**20))
        ref = ray.remote(lambda: bytes(40 * 2**20)).remote()
        try:
            ray.get(ref, timeout=3)
        except ray.exceptions.GetTimeoutError as error:
            print(error)
    """
    said = run_script(tmp_path / "program.py", program)
    assert re.search(r"has run; its result is being stored or on its way \(pid=\d+\)", said)
