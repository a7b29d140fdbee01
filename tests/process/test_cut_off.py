"""Programs that a cluster does not listen to any more, or that have left it, and read on what they have read.

Others store what they like meanwhile; what is still read is not theirs to overwrite.  Beamlet only: it is
about its shared memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance import beamlet_only, run_script
from test_joining import command

pytestmark = beamlet_only

#: Stores something in every place that is free.
FILLS = """
import numpy as np
import beamlet as ray

ray.init("auto")
refs = [ray.put(np.full(4 << 20, 9, np.uint8)) for _ in range(14)]
refs += [ray.put(np.full(256 << 10, 9, np.uint8)) for _ in range(16)]
"""
#: What the programs below share: arrays of every kind, the program above, what the cluster says of itself.
BEGINS = """
import atexit, multiprocessing, os, subprocess, sys, time
import numpy as np

def read():
    add = ray.remote(lambda array: array + 0)
    one = np.full(1 << 20, 1, np.uint8)
    read = [ray.get(add.remote(one)) for _ in range(3)]
    stored = ray.put(np.full(6 << 20, 1, np.uint8))
    return [*read, ray.get(stored), ray.get(stored)]

def others_fill_the_store():
    subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)

def look(arrays):
    return sorted({int(each) for array in arrays for each in (array.min(), array.max())})

def status():
    words = "from beamlet.cli.main import main; raise SystemExit(main())"
    return subprocess.run([sys.executable, "-c", words, "status"], check=True, capture_output=True).stdout

def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
"""


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Path]:
    """A session with a store of 96 MiB."""
    home = tmp_path / "run"
    home.mkdir(mode=0o700)
    command("start", "--head", "--num-cpus", "1", "--object-store-memory", str(96 << 20), home=home)
    yield home
    command("stop", home=home)


def run(session: Path, program: str) -> list[str]:
    path = session.parent / "program.py"
    home = str(session)
    return run_script(path, BEGINS + program, FILLS, XDG_RUNTIME_DIR=home, BEAMLET_TMPDIR=home).splitlines()


CUT_OFF = """
from beamlet.api import backend, init
from beamlet.protocol.node import UnpinObject

ray.init("auto")
arrays = read()
core = backend.current()
with core.lock:
    core.link.send(UnpinObject(b"not pinned here".ljust(28)))
    core.reactor.flush()
until(lambda: init._driver.is_lost)
others_fill_the_store()
print(look(arrays))
print(f"are kept for process {os.getpid()} (a driver; ".encode() in status())
ray.shutdown()
ray.init("auto")
arrays += read()
others_fill_the_store()
print(look(arrays))
until(lambda: b"kept for" not in status())
"""


def test_a_driver_that_is_cut_off_and_lives_keeps_what_it_reads(session: Path) -> None:
    """Until it leaves, which copies that. The cluster says whom it keeps memory for."""
    assert run(session, CUT_OFF) == ["[1]", "True", "[1]"]


EXITS = """
# Called after what beamlet does at the end.
atexit.register(lambda: (others_fill_the_store(), print(look(arrays))))
ray.init("auto")
arrays = read()
"""


def test_what_a_program_does_after_its_goodbye_sees_what_it_has_read(session: Path) -> None:
    assert run(session, EXITS) == ["[1]"]


FORKS = """
def child(arrays, may_look, seen):
    assert may_look.wait(20)
    seen.put(look(arrays))

ray.init("auto")
forking = multiprocessing.get_context("fork")
may_look, seen = forking.Event(), forking.Queue()
arrays = read()
process = forking.Process(target=child, args=(arrays, may_look, seen), daemon=True)
idle = forking.Process(target=may_look.wait, args=(20,), daemon=True)
process.start()
if keeps:
    mine = arrays
del arrays
ray.shutdown()
idle.start()
others_fill_the_store()
may_look.set()
print(seen.get(timeout=20))
process.join()
until(lambda: b" 0B/" in status())
"""


@pytest.mark.parametrize("keeps", [True, False])
def test_a_fork_goes_on_reading_when_its_parent_has_left(session: Path, keeps: bool) -> None:
    """Whether the parent has the arrays too, or only its fork. Then all is free again."""
    assert run(session, f"keeps = {keeps}\n" + FORKS) == ["[1]"]
