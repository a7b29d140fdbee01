"""Users' signal handlers that raise, or call the API, at any moment: everything goes on as if nothing was."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from conformance import beamlet_only, get, run_script

import beamlet as ray

STORM = """
import gc, random, signal, sys, time
from beamlet.api import backend
from beamlet.protocol.gcs import QueryCluster

SEED, COUNT = int(sys.argv[1]), 400
chance = random.Random(SEED)
left, raised, caught, known, kept, big = COUNT, 0, 0, [], [], bytes(300_000)
in_try = False  # else what is raised between ``except`` and the next ``try`` would end the script

class Mine(Exception):
    pass

def handler(number, frame):
    global left, raised, in_try
    left -= 1
    if left > 0:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0002, 0.002))
    dice = chance.random()
    if dice < 0.25:
        which = chance.randrange(6)
        if which == 0: assert ray.get(known[0]) == 9
        elif which == 1: kept.append(square.remote(3))
        elif which == 2: ray.put(big)
        elif which == 3: ray.wait([known[0]])
        elif which == 4: kept.append(actor.echo.remote(4))
        else: ray.cancel(nap.remote())
    if dice > 0.2 and in_try:
        in_try = False
        raised += 1
        raise Mine

signal.signal(signal.SIGALRM, handler)  # before init
ray.init(num_cpus=2)

@ray.remote
def square(i, *rest):
    return i * i

@ray.remote
def nap():
    time.sleep(0.05)

@ray.remote
def many(n):
    yield from range(n)

@ray.remote
class Actor:
    def echo(self, i):
        return i

actor = Actor.remote()
known.append(square.remote(3))
ray.get([known[0], actor.echo.remote(0)])
core = backend.current()
signal.setitimer(signal.ITIMER_REAL, 0.001)
while left > 0:
    try:
        in_try = True
        while left > 0:
            stored = ray.put(big)
            refs = [square.remote(i) for i in range(20)] + [actor.echo.remote(i) for i in range(5)]
            refs += [square.remote(2, stored, refs[0], [refs[1]])]
            ray.wait(refs, num_returns=3)
            assert ray.get(refs) == [i * i for i in range(20)] + list(range(5)) + [4]
            ray.cancel(nap.remote())
            assert len(ray.get(stored)) == len(big)
            for ref in many.remote(5):
                ray.get(ref)
    except Mine:
        caught += 1
assert caught == raised > COUNT / 8, f"{caught} of {raised} reached the user"
assert not core.lock.is_held_here
for ref in kept:
    assert ray.get(ref, timeout=10) in (4, 9)
assert ray.get([square.remote(3), actor.echo.remote(4)], timeout=10) == [9, 4]
refs = stored = ref = None
kept.clear()
known.clear()
gc.collect()

def left_over():
    with core.lock:
        core.releases.drain()
        ours = len(core.refs.objects), len(core.submission.tasks)
    return *ours, core.link.call(QueryCluster(0)).store_used

deadline = time.monotonic() + 15
while left_over() != (1, 0, 0) and time.monotonic() < deadline:  # the actor's handle
    time.sleep(0.02)
assert left_over() == (1, 0, 0), left_over()
started = time.monotonic()
ray.shutdown()
assert time.monotonic() - started < 5, "the goodbye was not heard"
print("whole")
"""


@beamlet_only
@pytest.mark.parametrize("seed", [1, 2])
def test_handlers_at_random_moments_leave_the_driver_whole(tmp_path: Path, seed: int) -> None:
    assert run_script(tmp_path / "storm.py", STORM, str(seed), timeout_s=60.0) == "whole\n"


@pytest.mark.usefixtures("cluster")
def test_a_timeout_by_alarm_ends_a_get_in_the_driver() -> None:
    class Late(Exception):
        pass

    def too_late(number: int, frame: object) -> None:
        raise Late

    @ray.remote  # type: ignore[untyped-decorator]
    def forever() -> None:
        import time

        time.sleep(3600)

    before = signal.signal(signal.SIGALRM, too_late)
    ref = forever.remote()
    try:
        with pytest.raises(Late):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            get(ref)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        ray.cancel(ref, force=True)


@ray.remote  # type: ignore[untyped-decorator]
def timed(gate: list[object], alarm_s: float) -> str:
    """Its alarm interrupts a get of what never comes."""
    import signal

    class Late(Exception):
        pass

    def too_late(number: int, frame: object) -> None:
        raise Late

    signal.signal(signal.SIGALRM, too_late)
    try:
        signal.setitimer(signal.ITIMER_REAL, alarm_s)
        return str(ray.get(gate[0]))
    except Late:
        return "late"


@ray.remote  # type: ignore[untyped-decorator]
class Sleeper:
    def sleep(self) -> None:
        import time

        time.sleep(3600)


@beamlet_only
@pytest.mark.usefixtures("cluster")
def test_a_timeout_by_alarm_ends_a_get_in_a_worker() -> None:
    sleeper = Sleeper.options(num_cpus=0).remote()
    assert get(timed.remote([sleeper.sleep.remote()], 0.1)) == "late"
    ray.kill(sleeper)


@ray.remote  # type: ignore[untyped-decorator]
class Host:
    """An actor, so that all its calls are in one process."""

    def set_alarm(self) -> int:
        import os
        import signal

        def too_late(number: int, frame: object) -> None:
            self.rang = True
            raise TimeoutError

        self.rang = False
        signal.signal(signal.SIGALRM, too_late)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        return os.getpid()

    def has_rung(self) -> tuple[bool, int]:
        import os

        return self.rang, os.getpid()


@beamlet_only
@pytest.mark.usefixtures("cluster")
def test_an_alarm_that_a_call_left_behind_does_not_end_its_worker() -> None:
    import time

    host = Host.remote()
    pid = get(host.set_alarm.remote())
    time.sleep(0.2)  # the worker waits for its next call meanwhile
    assert get(host.has_rung.remote()) == (True, pid)


def test_a_handler_may_join_a_thread_that_is_in_a_get(tmp_path: Path) -> None:
    """As programs do that stop their threads at SIGTERM."""
    program = """
        import signal, threading

        ray.init(num_cpus=2)

        @ray.remote
        def nap(seconds):
            threading.Event().wait(seconds)
            return seconds

        stop = threading.Event()

        def loop():
            while not stop.wait(0.2):  # meanwhile it is the main thread that reads
                ray.get(nap.remote(0.5))

        def handler(*_):
            stop.set()
            thread.join()
            raise SystemExit(0)

        signal.signal(signal.SIGALRM, handler)
        thread = threading.Thread(target=loop)
        thread.start()
        signal.setitimer(signal.ITIMER_REAL, 1.1)
        for _ in range(50):
            ray.get(nap.remote(0))
        ray.get(nap.remote(60))
    """
    assert run_script(tmp_path / "p.py", program) == ""
