"""A process whose own books contradict each other ends, says why, and leaves nothing behind; others go on.

Each kind of process is broken on purpose, where its mistakes would show: in what its loop calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance import DEADLINE_S, beamlet_only, environment, run_script

from support.marked import Marked

pytestmark = beamlet_only

WHY = "3 CPUs were lent, 4 came back"
#: What a program breaks itself, or one of its workers, with.
BREAK = f"""
import os, sys, time
from beamlet.api import backend
from beamlet.base.invariants import InvariantBroken

def break_it():
    def broken():
        raise InvariantBroken({WHY!r})

    backend.current().reactor.call_soon_threadsafe(broken)
    time.sleep(600)

cluster = ray.init(num_cpus=2)
"""
#: Loaded by every interpreter of the program, the head among them, which has no door for users' code.
BREAK_HEAD = f"""
import signal

def broken():
    from beamlet.base.invariants import InvariantBroken

    raise InvariantBroken({WHY!r})

def told(number, frame):
    while not hasattr(frame.f_locals.get("self"), "call_soon_threadsafe"):
        frame = frame.f_back
    frame.f_locals["self"].call_soon_threadsafe(broken)

signal.signal(signal.SIGUSR2, told)
"""


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[Marked]:
    marked = Marked(tmp_path / "root")
    marked.root.mkdir()
    yield marked
    marked.kill_everything()


def run(marked: Marked, source: str, **extra: str) -> str:
    """What the program prints; nothing is left when it has ended."""
    out = run_script(marked.root.parent / "program.py", BREAK + source, **marked.environment(**extra))
    marked.expect_nothing_left(DEADLINE_S, "the program's end")
    return out


def test_a_worker_ends_with_its_own_status_and_says_why_in_its_certificate(marked: Marked) -> None:
    out = run(
        marked,
        """
@ray.remote
def breaks(): break_it()

@ray.remote
class Actor:
    def breaks(self): break_it()

@ray.remote
def pid(): return os.getpid()

dead = []
for work, kind in [
    (breaks.options(max_retries=0).remote(), ray.exceptions.WorkerCrashedError),
    (Actor.remote().breaks.remote(), ray.exceptions.ActorDiedError),
]:
    try:
        ray.get(work, timeout=30)
    except kind as error:
        print(error, flush=True)
        dead.append(int(str(error).split("process ")[1].split()[0]))
assert len(dead) == 2 and ray.get(pid.remote(), timeout=30) not in dead, "others go on in other processes"
""",
    )
    assert out.count("exited with code 70") == 2
    assert out.count("this process's own books are wrong") == 2
    assert out.count(f"InvariantBroken: {WHY}") == 2


def test_a_driver_loses_its_cluster_and_not_its_program(marked: Marked) -> None:
    out = run(
        marked,
        """
import threading

@ray.remote
def never(): time.sleep(600)

ref = never.remote()
threading.Thread(target=break_it, daemon=True).start()
for attempt in (lambda: ray.get(ref, timeout=30), lambda: never.remote(), lambda: ray.put(1)):
    try:
        attempt()
    except ray.exceptions.RaySystemError as error:
        print(error, flush=True)
ray.shutdown()
ray.init(num_cpus=1)
print(ray.get(ray.put("a new cluster")))
""",
    )
    assert out.count(f"this driver's own books are wrong: {WHY}") == 3
    assert out.endswith("a new cluster\n")


def test_a_head_tells_its_drivers_and_ends(marked: Marked) -> None:
    patch = marked.root.parent / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(BREAK_HEAD)
    out = run(
        marked,
        """
import json, signal

@ray.remote
def waits(path):
    open(path, "w").close()
    time.sleep(600)

started = os.path.join(os.getcwd(), "started")
ref = waits.remote(started)
while not os.path.exists(started):
    time.sleep(0.01)
os.kill(json.load(open(cluster.session_dir + "/session.json"))["pid"], signal.SIGUSR2)
try:
    ray.get(ref, timeout=30)
except ray.exceptions.RaySystemError as error:
    print(error, flush=True)
ray.shutdown()
print(open(cluster.session_dir + "/logs/head.log").read())
ray.init(num_cpus=1)
print(ray.get(ray.put("a new cluster")))
""",
        PYTHONPATH=f"{patch}:{environment()['PYTHONPATH']}",
    )
    assert f"lost the connection to the cluster: the head's own books are wrong: {WHY}" in out
    assert "this process's own books are wrong" in out
    assert out.count(f"InvariantBroken: {WHY}") >= 1
    assert out.endswith("a new cluster\n")
