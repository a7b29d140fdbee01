"""Ctrl-C at any moment, many times: each is a KeyboardInterrupt, and everything goes on as if nothing was."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conformance import DEADLINE_S, beamlet_only, environment, start_script, wait_until

from support.marked import Marked, ended

PROGRAM = """
import beamlet as ray, sys, threading, time
BEGIN

from beamlet.api import backend
LARGE = bytes(200_000)

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
            actor.echo.remote(LARGE)
    except KeyboardInterrupt:
        pass
assert ray.get(square.remote(3), timeout=10) == 9
core, refs = backend.current(), None
deadline = time.monotonic() + 10
while len(core.store.own) and time.monotonic() < deadline:
    ray.get(square.remote(3), timeout=10)
    time.sleep(0.01)
assert not len(core.store.own), "a place in the slab is taken for nobody"
assert ray.get(actor.echo.remote(4), timeout=10) == 4
started = time.monotonic()
ray.shutdown()
assert time.monotonic() - started < 5, "the goodbye was not heard"
print("done", flush=True)
"""


@beamlet_only
@pytest.mark.parametrize(
    ("seed", "begin"),
    [
        (0, "ray.init(num_cpus=2)"),
        (1, "ray.init(num_cpus=2)"),
        (2, "t = threading.Thread(target=lambda: ray.init(num_cpus=2)); t.start(); t.join()"),
    ],
)
def test_interrupts_at_random_moments_leave_the_driver_whole(tmp_path: Path, seed: int, begin: str) -> None:
    chance, count = random.Random(seed), 60
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.replace("COUNT", str(count)).replace("BEGIN", begin))
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


INTERRUPTED_GET = """
import os, signal, sys, threading, time
from pathlib import Path
import beamlet as ray

here, held, compat = Path(sys.argv[1]), sys.argv[2] == "held", sys.argv[3]
ray.init(num_cpus=1, compat=compat)

@ray.remote
def waits():
    try:
        (here / "started").touch()
        while not (here / "gate").exists():
            time.sleep(0.01)
        return "ran to its end"
    except KeyboardInterrupt:
        (here / "cancelled").touch()
        raise

def appears(name):
    while not (here / name).exists():
        time.sleep(0.01)

def interrupt():
    appears("started")
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
ref = None
try:
    if held:
        ref = waits.remote()
        ray.get([ref])
    else:
        ray.get([waits.remote()])
except KeyboardInterrupt:
    pass
if held:
    (here / "gate").touch()
    print(ray.get(ref, timeout=20))
elif compat == "ray":
    (here / "gate").touch()
    ray.get(ray.remote(lambda: 1).remote(), timeout=20)
    print("cancelled" if (here / "cancelled").exists() else "ran on")
else:
    appears("cancelled")
    print("cancelled")
"""


@pytest.mark.parametrize(
    ("held", "compat", "said"),
    [("held", "", "ran to its end"), ("dropped", "", "cancelled"), ("dropped", "ray", "ran on")],
)
def test_an_interrupted_get_cancels_what_nobody_can_ask_for(
    tmp_path: Path, held: str, compat: str, said: str
) -> None:
    script = tmp_path / "program.py"
    script.write_text(INTERRUPTED_GET)
    process = start_script(script, str(tmp_path), held, compat)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert out == f"{said}\n", err


INTERRUPTED_MAIN = """
import asyncio, os, signal, threading
import beamlet as ray
ray.init(num_cpus=1)

@ray.remote
def waits():
    threading.Event().wait()

async def main():
    ref = waits.remote()
    asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGINT)
    try:
        await ref  # here
    finally:
        await asyncio.sleep(0)
        print("cleaned up", flush=True)

asyncio.run(main())
"""


@beamlet_only
def test_an_interrupted_asyncio_run_is_what_python_makes_of_it(tmp_path: Path) -> None:
    """It cancels main(), whose line the traceback names, and none of ours."""
    script = tmp_path / "program.py"
    script.write_text(INTERRUPTED_MAIN)
    out, err = start_script(script).communicate(timeout=DEADLINE_S)
    assert out == "cleaned up\n"
    assert "await ref  # here\n" in err
    assert err.count("Traceback") == 2, "asyncio's own: of the await, and of asyncio.run()"
    assert "/beamlet/" not in err
    assert err.endswith("KeyboardInterrupt\n")


INTERRUPTED_INIT = """
import beamlet as ray, functools, importlib, os, signal, sys
from beamlet.processes.fate_sharing import children

place, name = sys.argv[1].split(":")
module = importlib.import_module(place)
strikes = [functools.partial(signal.raise_signal, signal.SIGINT)]
# In that module's own name: where a function of users stands, a handler may run at once.
exec('''
def struck(*args, **kwargs):
    returned = real(*args, **kwargs)
    while strikes:
        strikes.pop()()
    return returned
''', scope := {"__name__": place, "real": getattr(module, name), "strikes": strikes})
setattr(module, name, scope["struck"])
try:
    ray.init(num_cpus=1)
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert not strikes
input()
ray.init(num_cpus=1)
print(ray.get(ray.remote(lambda: 7).remote(), timeout=20), len(children(os.getpid())), flush=True)
"""


@pytest.mark.parametrize(
    "moment",
    [
        "beamlet.api.init:new_session",
        "beamlet.api.init:head_options",
        "subprocess:_fork_exec",
        "beamlet.api.init:start_head",
    ],
)
def test_an_init_that_is_interrupted_leaves_no_head(tmp_path: Path, moment: str) -> None:
    """It lived for as long as the program, or half a minute: nobody knew yet that it was there."""
    marked = Marked(tmp_path / "root")
    (tmp_path / "p.py").write_text(INTERRUPTED_INIT)
    program = subprocess.Popen(
        [sys.executable, str(tmp_path / "p.py"), moment],
        env=environment(**marked.environment()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with ended(program):
        assert program.stdout is not None
        assert program.stdout.readline() == "interrupted\n"
        wait_until(
            lambda: {each.pid for each in marked.processes()} == {program.pid}, "all but the program to end"
        )
        assert marked.left() == [line for line in marked.left() if line.startswith(f"process {program.pid} ")]
        out, _ = program.communicate("\n", timeout=DEADLINE_S)
    assert out == "7 1\n"
    marked.expect_nothing_left(DEADLINE_S, "the program ended")
