"""The factory with real processes: deaths reported exactly, and nothing left alive, whatever it tried."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from beamlet.base.ids import WorkerId
from beamlet.processes.factory import fork_factory
from beamlet.processes.fate_sharing import children, descendants, is_stopped
from beamlet.protocol.factory import Forked, ForkWorker, KillWorker
from support.factories import (
    DEADLINE_S,
    ESCAPES,
    TESTS,
    Raylet,
    Worker,
    assert_all_gone,
    factory,
    is_gone,
    obey,
    tell,
    wait_for_exit,
)
from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.parametrize(
    ("code", "exit_code", "signal_number"),
    [
        ("raise SystemExit", 0, -1),
        ("raise SystemExit(7)", 7, -1),
        ("raise SystemExit('last words')", 1, -1),
        ("1 / 0", 1, -1),
        ("import os; os._exit(43)", 43, -1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -1, signal.SIGKILL),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -1, signal.SIGTERM),
        ("raise KeyboardInterrupt", -1, signal.SIGINT),
        ("import os; os.abort()", -1, signal.SIGABRT),
    ],
)
def test_how_a_worker_ended_is_reported_exactly(code: str, exit_code: int, signal_number: int) -> None:
    with factory(obey) as raylet:
        worker, pid = raylet.fork()
        worker.link.sendall(code.encode())
        death = raylet.death()
        assert (death.worker_id, death.pid) == (worker.worker_id, pid)
        assert (death.exit_code, death.signal) == (exit_code, signal_number)
        stderr = worker.read_all(worker.stderr)
        assert ("ZeroDivisionError" in stderr) == (code == "1 / 0")
        assert ("last words" in stderr) == ("last words" in code)


def test_a_crash_in_c_leaves_its_python_stack() -> None:
    with factory(obey) as raylet:
        worker, _ = raylet.fork()
        worker.link.sendall(b"import ctypes; ctypes.string_at(0)")
        assert raylet.death().signal == signal.SIGSEGV
        assert "string_at" in worker.read_all(worker.stderr)


def test_atexit_handlers_of_the_worker_run_and_only_those() -> None:
    with factory(obey) as raylet:
        worker, _ = raylet.fork()
        tell(worker, "import atexit; atexit.register(print, 'goodbye')")
        worker.link.close()
        assert worker.read_all(worker.stdout) == "goodbye\n"


def test_kill_signals_the_whole_group_and_only_that_worker() -> None:
    start = "import subprocess; p = subprocess.Popen(['sleep', '100']); answer = p.pid"
    with factory(obey) as raylet:
        (victim, pid), (other, other_pid) = raylet.fork(), raylet.fork()
        sleeper = tell(victim, start)
        assert isinstance(sleeper, int)
        raylet.send(KillWorker(victim.worker_id, signal.SIGTERM))
        death = raylet.death()
        assert (death.pid, death.signal) == (pid, signal.SIGTERM)
        assert_all_gone([sleeper], "the worker's child")
        assert tell(other, "import os; answer = os.getpid()") == other_pid
        raylet.send(KillWorker(victim.worker_id, signal.SIGKILL))  # dead already: nothing happens
        raylet.send(KillWorker(other.worker_id, signal.SIGKILL))
        assert raylet.death().pid == other_pid


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_at_birth_is_not_lost(signal_number: int) -> None:
    """In the same frame as the fork: the child has the factory's handlers still, and no group of its own."""
    with factory(obey) as raylet:
        worker = Worker(WorkerId(b"short-lived"))
        raylet.workers.append(worker)
        raylet.send(
            ForkWorker(worker.worker_id), KillWorker(worker.worker_id, signal_number), fds=worker.given
        )
        worker.gave()
        assert isinstance(raylet.receive(), Forked)
        assert raylet.death().signal == signal_number


@pytest.mark.parametrize("escape", ESCAPES)
def test_what_a_worker_started_dies_with_it(escape: str) -> None:
    with factory(obey) as raylet:
        (worker, pid), (other, _) = raylet.fork(), raylet.fork()
        started = tell(worker, ESCAPES[escape])
        assert isinstance(started, list)
        [survivor] = tell(other, ESCAPES["double-forked daemon"])  # type: ignore[misc]
        assert not any(is_gone(each) for each in started)
        os.kill(pid, signal.SIGKILL)
        assert raylet.death().signal == signal.SIGKILL
        assert_all_gone(started, escape)
        assert not is_gone(survivor), "of another worker"


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("ending", ["link closed", "SIGTERM"])
def test_everything_dies_with_the_factory(escape: str, ending: str) -> None:
    raylet = Raylet(fork_factory(obey))
    worker, pid = raylet.fork()
    started = tell(worker, ESCAPES[escape])
    assert isinstance(started, list)
    if ending == "SIGTERM":
        os.kill(raylet.process.pid, signal.SIGTERM)
        assert wait_for_exit(raylet.process.pid) == 0
        raylet.process.link.close()
        worker.close()
    else:
        assert raylet.end() == 0
    assert [p for p in (pid, *started) if not is_gone(p)] == [], "gone before the factory, not later"


def test_workers_die_with_a_killed_factory() -> None:
    raylet = Raylet(fork_factory(obey))
    worker, pid = raylet.fork()
    tell(worker, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    os.kill(raylet.process.pid, signal.SIGKILL)
    assert wait_for_exit(raylet.process.pid) == -signal.SIGKILL
    assert_all_gone([pid], "worker of a killed factory")
    raylet.process.link.close()
    worker.close()


def test_garbage_on_the_link_ends_the_factory_and_its_workers() -> None:
    raylet = Raylet(fork_factory(obey))
    _, pid = raylet.fork()
    raylet.process.link.sendall(b"\xff" * 64)
    assert wait_for_exit(raylet.process.pid) == 0
    assert is_gone(pid)
    raylet.process.link.close()
    raylet.workers[0].close()


HEAD = """
import os, socket, sys, time
sys.path.insert(0, {tests!r})
from support.factories import ESCAPES, Raylet, fork_factory, obey, tell

raylet = Raylet(fork_factory(obey))
workers = [raylet.fork() for _ in ESCAPES]
started = [pid for (worker, _), escape in zip(workers, ESCAPES.values()) for pid in tell(worker, escape)]
print(raylet.process.pid, *(pid for _, pid in workers), *started, flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_kill_9_of_the_factorys_parent_leaves_nothing(stopped: bool) -> None:
    """Nor if the factory was stopped: it is continued, by the kernel."""
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD.format(tests=str(TESTS))],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as the head is started
    )
    assert head.stdout is not None
    pids = [int(pid) for pid in head.stdout.readline().split()]
    assert len(pids) == 1 + 4 + 3 + 39
    assert sorted(pids[1:5]) == sorted(children(pids[0]))
    assert len(descendants(head.pid)) >= len(pids)
    if stopped:
        os.kill(pids[0], signal.SIGSTOP)
        wait_until(lambda: is_stopped(pids[0]), DEADLINE_S, "the factory to stop")
    head.kill()
    head.wait(DEADLINE_S)
    head.stdout.close()
    assert_all_gone(pids, "kill -9 of the head")


#: Its importer hangs in the kernel, where no stop begins, until somebody writes to the FIFO.
HANGS = """
import os
fifo = os.path.join(os.path.dirname(__file__), "fifo")
opens = [(os.POSIX_SPAWN_OPEN, 9, fifo, os.O_RDONLY, 0)]
os.waitpid(os.posix_spawn("/bin/true", ["true"], {}, file_actions=opens), 0)
"""
HEAD_OF_A_HANGING_ONE = """
import sys, time
sys.path[:0] = {tests!r}, {here!r}
from beamlet.protocol.factory import LoadModule
from support.factories import Raylet, fork_factory, obey

raylet = Raylet(fork_factory(obey, close_in_factory=[lambda: {early} and __import__("hangs")]))
print(raylet.process.pid, flush=True)
if not {early}:
    print(raylet.fork()[1], flush=True)
    raylet.send(LoadModule("hangs"))
time.sleep(100)
"""


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("early", [False, True])
def test_a_stop_that_begins_after_the_death_of_the_factorys_parent(tmp_path: Path, early: bool) -> None:
    """It was sent before: the kernel found nothing to continue, and the factory stayed stopped for ever."""
    (tmp_path / "hangs.py").write_text(HANGS)
    os.mkfifo(tmp_path / "fifo")
    head = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            HEAD_OF_A_HANGING_ONE.format(tests=str(TESTS), here=str(tmp_path), early=early),
        ],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert head.stdout is not None
    pids = [int(head.stdout.readline()) for _ in range(1 if early else 2)]
    wait_until(lambda: state(pids[0]) == "D", DEADLINE_S, "the factory to hang")
    os.kill(pids[0], signal.SIGSTOP)
    head.kill()
    head.wait(DEADLINE_S)
    head.stdout.close()
    assert state(pids[0]) == "D"
    with open(tmp_path / "fifo", "w"):
        assert_all_gone(pids, "kill -9 of the head")
