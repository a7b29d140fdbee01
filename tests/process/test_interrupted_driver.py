"""Ctrl-C at any moment, many times: each is a KeyboardInterrupt, and everything goes on as if nothing was."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from conformance import DEADLINE_S, beamlet_only, start_script

PROGRAM = """
import beamlet as ray, sys, time
ray.init(num_cpus=2)

@ray.remote
def square(i):
    return i * i

@ray.remote
class Actor:
    def echo(self, i):
        return i

actor = Actor.remote()
for caught in range(1, COUNT + 1):
    try:
        print(caught, flush=True)
        while True:
            refs = [square.remote(i) for i in range(20)] + [actor.echo.remote(i) for i in range(5)]
            ray.wait(refs, num_returns=3)
            ray.get(refs)
            ray.put(refs)
    except KeyboardInterrupt:
        pass
assert ray.get(square.remote(3), timeout=10) == 9
assert ray.get(actor.echo.remote(4), timeout=10) == 4
started = time.monotonic()
ray.shutdown()
assert time.monotonic() - started < 5, "the goodbye was not heard"
print("done", flush=True)
"""


@beamlet_only
@pytest.mark.parametrize("seed", range(2))
def test_interrupts_at_random_moments_leave_the_driver_whole(tmp_path: Path, seed: int) -> None:
    chance, count = random.Random(seed), 60
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.replace("COUNT", str(count)))
    program = start_script(path)
    assert program.stdout is not None
    try:
        for caught in range(1, count + 1):
            assert program.stdout.readline() == f"{caught}\n", program.communicate()[1][-3000:]
            time.sleep(chance.uniform(0.001, 0.02))  # the moment, not a wait for anything
            program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=DEADLINE_S)
    finally:
        program.kill()
        program.communicate()
    assert out == "done\n", err[-3000:]
