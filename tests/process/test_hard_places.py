"""Starting and ending where it is awkward: no descriptors, long paths, forks, several at once."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conformance import DEADLINE_S, beamlet_only, environment, run_script, start_script, wait_until

from support.marked import Marked

pytestmark = beamlet_only
SOURCE = Path(__file__).parents[2] / "src"

MANY_ACTORS = """
ray.init(num_cpus=2)

@ray.remote
class Actor:
    def one(self):
        return 1

@ray.remote
def two():
    return 2

assert ray.get(two.remote(), timeout=20) == 2
actors, made, refused = [Actor.remote() for _ in range(40)], 0, []
for actor in actors:
    try:
        made += ray.get(actor.one.remote(), timeout=20)
    except ray.exceptions.ActorDiedError as error:
        refused.append(str(error))
assert made and refused, (made, refused)
print(refused[0])
del actor, actors
print("still", ray.get(two.remote(), timeout=20), flush=True)
"""


def test_no_descriptors_are_an_error_of_the_call_and_the_node_survives(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("import beamlet as ray, beamlet.exceptions\n" + MANY_ACTORS)
    done = subprocess.run(
        [sys.executable, str(path)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE_S,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (110, 110)),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no worker process could be started" in done.stdout
    assert "Too many open files" in done.stdout
    assert "still 2" in done.stdout


RESTARTS = """
import os, signal, sys, time
ray.init(num_cpus=1, logging_level="ERROR")

@ray.remote(num_cpus=0, max_retries=1)
def begin(path):
    with open(path, "a") as attempts:
        attempts.write(f"{os.getpid()} ")
    if len(open(path).read().split()) == 1:
        time.sleep(600)
    return "begun again"

@ray.remote(num_cpus=0)
class Actor:
    def pid(self):
        return os.getpid()

kept = Actor.options(name="kept", lifetime="detached", max_restarts=1, max_task_retries=-1).remote()
pid = ray.get(kept.pid.remote(), timeout=20)
begun, deadline = begin.remote(sys.argv[1]), time.monotonic() + 20
while not os.path.exists(sys.argv[1]) or not open(sys.argv[1]).read():
    assert time.monotonic() < deadline, "it does not begin"
    time.sleep(0.01)
others = [Actor.remote() for _ in range(40)]
pids = [other.pid.remote() for other in others]
_, waiting = ray.wait(pids, num_returns=len(pids), timeout=2)
assert len(waiting) > 2, "the node is not full"
for each in (pid, int(open(sys.argv[1]).read())):
    os.kill(each, signal.SIGKILL)  # one of those who wait gets its place
while True:
    try:
        ray.get(kept.pid.remote(), timeout=1)
        raise AssertionError("there was a place for it")
    except ray.exceptions.GetTimeoutError as error:
        if "as soon as there is a process for it: no worker process could be started" in str(error):
            break
try:
    ray.get(waiting[-1], timeout=20)
except ray.exceptions.ActorDiedError as error:
    print(error)
del others, pids, waiting
assert ray.get(ray.get_actor("kept").pid.remote(), timeout=20) != pid
print("restarted", ray.get(begun, timeout=20), flush=True)
"""


def test_a_node_that_is_full_for_a_while_ends_nothing_that_is_tried_again(tmp_path: Path) -> None:
    """After 5 s a detached actor was dead for good, its name free, and a task with retries left failed."""
    path = tmp_path / "program.py"
    path.write_text("import beamlet as ray, beamlet.exceptions\n" + RESTARTS)
    done = subprocess.run(
        [sys.executable, str(path), str(tmp_path / "attempts")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE_S,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (110, 110)),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "could not be started: no worker process could be started" in done.stdout
    assert "restarted begun again" in done.stdout


FORKS = """
import multiprocessing, os, time
ray.init(num_cpus=1)

@ray.remote
def double(i):
    return 2 * i

assert ray.get(double.remote(1), timeout=20) == 2
context = multiprocessing.get_context("fork")
queue = context.Queue()
child = context.Process(target=lambda: (queue.put(ray.is_initialized()), time.sleep(600)))
child.start()
assert queue.get(timeout=20) is False
assert ray.get([double.remote(i) for i in range(50)], timeout=20) == list(range(0, 100, 2))
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_fork_of_the_driver_neither_disturbs_nor_keeps_the_session(tmp_path: Path) -> None:
    marked = Marked(tmp_path / "root")
    path = tmp_path / "program.py"
    path.write_text("import beamlet as ray\n" + FORKS)
    program = start_script(path, **marked.environment())
    try:
        assert program.stdout is not None
        child = int(program.stdout.readline())
        program.wait(DEADLINE_S)
        os.kill(child, 0)  # it lives on, and yet the cluster has noticed
        wait_until(lambda: {each.pid for each in marked.processes()} == {child}, "all but the fork to end")
    finally:
        marked.kill_everything()
        program.communicate()


def test_a_long_path_to_the_sessions(tmp_path: Path) -> None:
    root = tmp_path / ("d" * 140)
    source = "ray.init(num_cpus=1)\nprint(ray.get(ray.remote(lambda: 7).remote()))\n"
    assert run_script(tmp_path / "p.py", source, BEAMLET_TMPDIR=str(root)) == "7\n"
    assert not [path for path in root.rglob("*") if path.is_socket()]


def test_paths_and_arguments_that_are_not_utf8(tmp_path: Path) -> None:
    """The neighbour is imported by the worker, from a directory that no message could name as text."""
    place = tmp_path / os.fsdecode(b"caf\xe9")
    place.mkdir()
    (place / "neighbour.py").write_text("import os\ndef cwd(): return os.getcwdb()\n")
    (place / "program.py").write_text(
        "import beamlet as ray, neighbour, os\n"
        "ray.init(num_cpus=1)\n"
        "assert ray.get(ray.remote(neighbour.cwd).remote()) == os.getcwdb()\n"
        "print('as here')\n"
    )
    done = subprocess.run(
        [sys.executable, "program.py", b"\xff"], cwd=place, env=environment(), capture_output=True, timeout=60
    )
    assert done.stdout == b"as here\n", done.stderr.decode(errors="replace")


def test_variables_that_are_not_utf8_reach_workers(tmp_path: Path) -> None:
    """Of the driver's own environment, of the job, of a task and of an actor."""
    source = """
import os
ray.init(num_cpus=1, runtime_env={"env_vars": {"JOBS": "j\\udcff"}})
@ray.remote
def names():
    return [os.environb.get(name) for name in (b"DRIVERS", b"JOBS", b"TASKS")]
@ray.remote
class Actor:
    def names(self):
        return os.environb.get(b"ACTORS\\xfe"), ray.get_runtime_context().runtime_env["env_vars"]
print(ray.get(names.options(runtime_env={"env_vars": {"TASKS": "t\\udcff"}}).remote()))
print(ray.get(Actor.options(runtime_env={"env_vars": {"ACTORS\\udcfe": "a\\udcff"}}).remote().names.remote()))
"""
    said = run_script(tmp_path / "p.py", source, DRIVERS=os.fsdecode(b"d\xff"))
    assert said.splitlines() == [
        r"[b'd\xff', b'j\xff', b't\xff']",
        r"(b'a\xff', {'JOBS': 'j\udcff', 'ACTORS\udcfe': 'a\udcff'})",
    ]


@pytest.mark.parametrize("path", [None, os.fsdecode(b"/caf\xe9:/b")])
def test_workers_have_the_drivers_pythonpath_and_nothing_of_ours_in_it(
    tmp_path: Path, path: str | None
) -> None:
    """A task may start another Python, which would find the packages of this one first."""
    (tmp_path / "p.py").write_text(
        f"import sys; sys.path.insert(0, {os.fsencode(SOURCE)!r}.decode())\n"
        "import beamlet as ray, os\nray.init(num_cpus=1)\n"
        "print(ascii(ray.get(ray.remote(lambda: os.environ.get('PYTHONPATH')).remote())))\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        env["PYTHONPATH"] = path
    done = subprocess.run(
        [sys.executable, "p.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.stdout == f"{path!a}\n", done.stderr


def test_workers_have_no_command_line_but_the_programs_name(tmp_path: Path) -> None:
    """Modules may parse it when they are imported, in workers or before the fork."""
    for name in ("parses", "preloaded"):
        (tmp_path / f"{name}.py").write_text(
            "import argparse, sys\nargv = list(sys.argv)\n"
            "options = argparse.ArgumentParser().parse_known_args()[0]\nassert len(sys.argv) == 1\n"
        )
    (tmp_path / "p.py").write_text(
        "import beamlet as ray\nray.init(num_cpus=1, preload=['preloaded'])\n"
        "@ray.remote\ndef f():\n    import parses, preloaded\n    return preloaded.argv, parses.argv\n"
        "print(ray.get(f.remote()))\n"
    )
    with start_script(tmp_path / "p.py", "--lr", "0.1") as program:
        out, _ = program.communicate(timeout=DEADLINE_S)
    assert out == f"([''], ['{tmp_path}/p.py'])\n"


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_standard_stream_is_not_taken_for_something_of_ours(tmp_path: Path, closed: int) -> None:
    """The session's lock once lay there, and the workers' epoll: what tasks printed raised OSError."""
    source = """
import beamlet as ray, os
ray.init(num_cpus=1)

@ray.remote
def streams():
    print("said")
    os.write(2, b"too")
    return [os.readlink(f"/proc/self/fd/{fd}").partition(":")[0] for fd in range(3)]

ours = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]
with open("found", "w") as found:
    print(ray.get(streams.remote(), timeout=20), ours, file=found)
"""
    (tmp_path / "program.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=environment(),
        preexec_fn=lambda: os.close(closed),
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0
    theirs, ours = (tmp_path / "found").read_text().split("] [")
    assert theirs == "['/dev/null', 'pipe', 'pipe'"
    assert ours.strip("[]\n").split(", ")[closed] == "'/dev/null'"


def test_sessions_in_a_directory_that_is_not_utf8_are_refused_by_name(tmp_path: Path) -> None:
    source = "try: ray.init()\nexcept RuntimeError as error: print(error)\n"
    said = run_script(tmp_path / "p.py", source, BEAMLET_TMPDIR=os.fsdecode(b"/tmp/caf\xe9"))
    assert r"/tmp/caf\xe9/beamlet-" in said
    assert "its name is not UTF-8. Set BEAMLET_TMPDIR" in said


def test_a_working_directory_that_was_deleted(tmp_path: Path) -> None:
    source = (
        "import os, sys\nsys.path.append('')\nos.mkdir('gone')\nos.chdir('gone')\nos.rmdir('../gone')\n"
        "ray.init(num_cpus=1)\nprint(ray.get(ray.remote(lambda: 7).remote()))\n"
    )
    assert run_script(tmp_path / "p.py", source) == "7\n"


def test_a_driver_that_may_not_map_the_whole_store_uses_it_all_the_same(tmp_path: Path) -> None:
    """``ulimit -v``: put, get and calls with arrays failed with a bare "Cannot allocate memory"."""
    source = """
        import resource
        import numpy as np
        ray.init(num_cpus=1, object_store_memory=2**30)
        with open("/proc/self/status") as status:
            used = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmSize"))
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
        twice = ray.remote(lambda array: array * 2)
        for size in (30_000, 3_000_000):
            for _ in range(3):
                ref = ray.put(np.ones(size))
                assert ray.get(twice.remote(ref)).sum() == 2 * size
                assert ray.get(twice.remote(np.ones(size))).sum() == 2 * size
            array = ray.get(ref)
            array += 1
            assert array.sum() == 2 * size and ray.get(ref).sum() == size
        del array
        ref = ray.put(np.zeros(150 * 2**17))
        try:
            arrays = ray.get([ref] * 4)  # too much, also if a thread's heap has been given back meanwhile
        except MemoryError as error:
            assert isinstance(error, ray.exceptions.RayError)
            print(error)
        assert ray.get(twice.remote(np.ones(30_000))).sum() == 60_000
    """
    printed = run_script(tmp_path / "p.py", source)
    assert "ulimit -v" in printed, printed


BROKEN_WORKERS = """
import sys

class Breaks:
    def find_spec(self, name, path, target=None):
        command = open("/proc/self/cmdline", "rb").read()
        if name == "beamlet.core_worker.worker_main" and b"beamlet.head" in command:
            raise SyntaxError("broken on purpose")

sys.meta_path.insert(0, Breaks())
"""


@pytest.mark.parametrize("turn", range(4))
def test_why_no_worker_can_be_made_reaches_the_program_that_starts_the_cluster(
    tmp_path: Path, turn: int
) -> None:
    """Whether the head ends before it is joined, amid that, or when it was."""
    (tmp_path / "sitecustomize.py").write_text(BROKEN_WORKERS)
    source = """
        import time
        from beamlet.api import driver

        join = driver.join
        def join_later(session):
            time.sleep(TURN * 0.03)
            return join(session)
        driver.join = join_later
        try:
            ray.init(num_cpus=1)
            ray.get(ray.remote(lambda: 1).remote())
        except (RuntimeError, ray.exceptions.ClusterGoneError) as error:
            print(error)
    """
    said = run_script(
        tmp_path / "program.py", source.replace("TURN", str(turn)), PYTHONPATH=f"{tmp_path}:{SOURCE}"
    )
    assert "the factory, which forks this node's workers, has died (SyntaxError: broken on purpose)" in said


def test_a_head_that_was_stopped_does_not_hold_up_the_end(tmp_path: Path) -> None:
    source = (
        "import os, signal, time\nray.init(num_cpus=1)\nray.get(ray.remote(lambda: 7).remote())\n"
        "from beamlet.api.init import _driver\nhead = _driver.head.process.pid\n"
        "os.kill(head, signal.SIGSTOP)\nstarted = time.monotonic()\nray.shutdown()\n"
        "print(time.monotonic() - started, os.path.exists(f'/proc/{head}'))\n"
    )
    marked = Marked(tmp_path / "root")
    seconds, head_is_there = run_script(tmp_path / "p.py", source, **marked.environment()).split()
    assert float(seconds) < 8, "10 s for a goodbye that never comes, and 8 s for SIGTERM"
    assert head_is_there == "False"
    marked.expect_nothing_left(DEADLINE_S, "the end")


@pytest.mark.parametrize("stopped", ["[head]", "children(head)", "[head, *children(head)]"])
@pytest.mark.parametrize("also", ["", "os.kill(head, signal.SIGKILL)\n"])
@pytest.mark.parametrize("by", ["init()", "with ThreadPoolExecutor(1) as pool: pool.submit(init).result()"])
def test_a_stopped_head_does_not_outlive_a_driver_that_was_killed(
    tmp_path: Path, stopped: str, also: str, by: str
) -> None:
    """Nor its factory, nor both: nobody else would find out. Also if the thread that started it is gone."""
    source = (
        "import os, signal\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "from beamlet.processes.fate_sharing import children\n"
        f"def init(): ray.init(num_cpus=1)\n{by}\nray.get(ray.remote(lambda: 7).remote())\n"
        "from beamlet.api.init import _driver\nhead = _driver.head.process.pid\n"
        f"for pid in {stopped}: os.kill(pid, signal.SIGSTOP)\n{also}os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    marked = Marked(tmp_path / "root")
    path = tmp_path / "p.py"
    path.write_text("import beamlet as ray\n" + source)
    with start_script(path, **marked.environment()) as driver:
        assert driver.wait(DEADLINE_S) == -signal.SIGKILL
    marked.expect_nothing_left(DEADLINE_S, "its driver was killed")


@pytest.mark.parametrize("count", [4])
def test_several_processes_start_clusters_at_once(tmp_path: Path, count: int) -> None:
    path = tmp_path / "p.py"
    path.write_text(
        "import beamlet as ray, os\n"
        "for _ in range(2):\n"
        "    ray.init(num_cpus=1)\n"
        "    print(ray.get(ray.remote(lambda: os.environ['WHO']).remote(), timeout=30), flush=True)\n"
        "    ray.shutdown()\n"
    )
    root = str(tmp_path / "root")
    programs = [start_script(path, WHO=str(i), BEAMLET_TMPDIR=root) for i in range(count)]
    outputs = [program.communicate(timeout=3 * DEADLINE_S) for program in programs]
    assert [out for out, _ in outputs] == [f"{i}\n{i}\n" for i in range(count)], outputs
    assert not list(Path(root).glob("*/session_2*")), "sessions that ended well leave no directory"
