"""The factory with real processes: what a worker is born with, and forks that are refused or impossible."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from beamlet.base.ids import WorkerId
from beamlet.processes import factory as factory_module
from beamlet.processes.factory import fork_factory
from beamlet.protocol.factory import Forked, ForkFailed, ForkWorker, KillWorker, LoadModule, Preloaded
from support.factories import DEADLINE_S, ESCAPES, TESTS, Raylet, Worker, factory, is_gone, obey, tell
from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_leaks")


def test_a_worker_is_born_with_its_own_link_output_session_and_title() -> None:
    with factory(obey) as raylet:
        worker, pid = raylet.fork()
        assert tell(worker, "import os; answer = (boot.worker_id, os.getpid())") == (worker.worker_id, pid)
        assert os.getsid(pid) == pid
        assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0") == b"beamlet::IDLE"
        tell(worker, "import sys; print('to stdout', flush=False); print('to stderr', file=sys.stderr)")
        assert tell(worker, "import sys; answer = sys.stdin.read()") == ""
        worker.link.close()
        assert worker.read_all(worker.stdout) == "to stdout\n"
        assert worker.read_all(worker.stderr) == "to stderr\n"
        death = raylet.death()
        assert (death.pid, death.exit_code, death.signal) == (pid, 0, -1)
        assert 2**20 < death.peak_rss_bytes < 2**31


def test_workers_asked_for_in_one_frame_get_each_its_own_descriptors() -> None:
    with factory(obey) as raylet:
        workers = raylet.ask_for(5)
        answers = [raylet.receive() for _ in workers]
        assert [a.worker_id for a in answers if isinstance(a, Forked)] == [w.worker_id for w in workers]
        for worker in workers:
            assert tell(worker, "answer = boot.worker_id") == worker.worker_id
            tell(worker, "print(boot.worker_id)")
        for worker in workers:
            worker.link.close()
            # EOF comes only if no other worker and not the factory holds this one's pipe.
            assert worker.read_all(worker.stdout) == f"{worker.worker_id!r}\n"


def open_files(pid: int) -> set[str]:
    found = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of this listing
            found.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    return found


def test_a_worker_holds_nothing_of_the_factory() -> None:
    with factory(obey) as raylet:
        worker, pid = raylet.fork()
        tell(worker, "answer = 1")  # it is past its birth

        def of_the_factory() -> set[str]:
            return open_files(raylet.process.pid) - open_files(os.getpid())

        # Its end of the link and the pair that signals write to; what it gave the worker it closes meanwhile.
        wait_until(lambda: len(of_the_factory()) == 3, DEADLINE_S, "the factory has three files of its own")
        assert not open_files(pid) & of_the_factory()
        assert len({name for name in open_files(pid) - open_files(os.getpid()) if "socket" in name}) == 1


def test_a_worker_starts_with_pythons_own_signals_and_its_own_randomness() -> None:
    code = """if True:
        import gc, random, signal
        answer = (
            signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
            signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL,
            signal.getsignal(signal.SIGINT) is signal.default_int_handler,
            signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set(),
            gc.isenabled(),
        )"""
    draw = "import random, numpy; answer = (random.random(), numpy.random.random())"
    with factory(obey, ["numpy"]) as raylet:
        assert raylet.receive() == Preloaded([])
        (first, _), (second, _) = raylet.fork(), raylet.fork()
        assert tell(first, code) == (True,) * 5
        one, two = tell(first, draw), tell(second, draw)
        assert isinstance(one, tuple)
        assert isinstance(two, tuple)
        assert one[0] != two[0]
        assert one[1] != two[1]


def test_numpy_preloaded_multiplies_in_a_child() -> None:
    """Holds the allow-list: OpenBLAS must restart its threads after the fork."""
    code = "import numpy as np; a = np.ones((400, 400)); answer = float((a @ a).sum())"
    with factory(obey, ["numpy"]) as raylet:
        raylet.receive()
        worker, _ = raylet.fork()
        assert tell(worker, code) == 400.0**3


def test_modules_that_cannot_be_forked_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaves_a_thread.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    (tmp_path / "harmless_module.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "exits.py").write_text("import os\nos._exit(3)\n")
    (tmp_path / "starts_a_process.py").write_text(
        "import subprocess\nhelper = subprocess.Popen(['sleep', '1000'])\n"
    )
    modules = ["harmless_module", "leaves_a_thread", "no_such_module", "exits", "starts_a_process"]
    with factory(obey, modules) as raylet:
        report = raylet.receive()
        worker, _ = raylet.fork()
        loaded = tell(worker, f"import sys; answer = [m for m in {modules} if m in sys.modules]")
        helpers = [process.cmdline() for process in psutil.Process(raylet.process.pid).children()]
    assert loaded == ["harmless_module", "starts_a_process"], "and nothing that forks cannot use"
    assert helpers.count(["sleep", "1000"]) == 1, "that of the trial is gone"
    assert isinstance(report, Preloaded)
    reasons = dict(report.unfit)
    assert list(reasons) == ["leaves_a_thread", "no_such_module", "exits"]
    assert "started 1 thread" in reasons["leaves_a_thread"]
    assert "ModuleNotFoundError" in reasons["no_such_module"]
    assert "ended the process" in reasons["exits"]


def test_a_module_loaded_later_is_there_in_workers_from_then_on(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys; answer = 'colorsys' in sys.modules"
    with factory(obey) as raylet:
        before, _ = raylet.fork()
        raylet.send(LoadModule("no_such_module"), LoadModule("colorsys"))
        after, _ = raylet.fork()
        assert (tell(before, code), tell(after, code)) == (False, True)
    assert "LoadModule could not be carried out" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "Resource temporarily unavailable"),
        (MemoryError("no pages"), "MemoryError: no pages"),
        (RuntimeError("a hook of a module"), "RuntimeError: a hook of a module"),
    ],
)
def test_a_refused_fork_is_answered_and_the_factory_goes_on(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    fork, calls = os.fork, []

    def refuse_second_fork() -> int:
        # The first call is fork_factory's; the second is the factory's own.
        calls.append(1)
        if len(calls) == 2:
            raise error
        return fork()

    monkeypatch.setattr(factory_module.os, "fork", refuse_second_fork)
    with factory(obey) as raylet:
        [refused] = raylet.ask_for()
        answer = raylet.receive()
        assert isinstance(answer, ForkFailed)
        assert answer.worker_id == refused.worker_id
        assert said in answer.reason
        assert not isinstance(error, OSError) or "ulimit -u" in answer.reason or "pid_max" in answer.reason
        assert refused.read_all(refused.stdout) == "", "its descriptors are closed"
        worker, _ = raylet.fork()
        assert tell(worker, "answer = 1") == 1


def test_an_order_that_cannot_be_carried_out_costs_nobody_else(capfd: pytest.CaptureFixture[str]) -> None:
    with factory(obey) as raylet:
        worker, _ = raylet.fork()
        raylet.send(KillWorker(worker.worker_id, 12345))
        other, _ = raylet.fork()
        assert tell(worker, "answer = 1") == tell(other, "answer = 1") == 1
    said = capfd.readouterr().err
    assert "beamlet factory: KillWorker could not be carried out" in said
    assert "Invalid argument" in said


def test_missing_descriptors_are_answered() -> None:
    with factory(obey) as raylet:
        raylet.send(ForkWorker(WorkerId(b"bare")))
        answer = raylet.receive()
        assert isinstance(answer, ForkFailed)
        assert "0 of the 3 descriptors" in answer.reason


@pytest.mark.parametrize("free", [1, 2])
def test_a_factory_with_too_many_open_files_answers_and_goes_on(free: int) -> None:
    with factory(obey) as raylet:
        _, pid = raylet.fork()
        process = raylet.process.pid
        raylet.send(ForkWorker(WorkerId(b"bare")))
        assert isinstance(raylet.receive(), ForkFailed)  # so it has closed what it passed on
        limits = resource.prlimit(process, resource.RLIMIT_NOFILE)
        taken = {int(fd) for fd in os.listdir(f"/proc/{process}/fd")}
        room = [fd for fd in range(len(taken) + 10) if fd not in taken]
        resource.prlimit(process, resource.RLIMIT_NOFILE, (room[free], limits[1]))
        late = Worker(WorkerId(b"late"))
        raylet.workers.append(late)
        raylet.send(ForkWorker(late.worker_id), fds=late.given)
        late.gave()
        answer = raylet.receive()
        assert isinstance(answer, ForkFailed)
        assert "of the 3 descriptors" in answer.reason
        resource.prlimit(process, resource.RLIMIT_NOFILE, (room[0], limits[1]))
        os.kill(pid, signal.SIGKILL)
        assert raylet.death().pid == pid
        resource.prlimit(process, resource.RLIMIT_NOFILE, limits)
        raylet.fork()


@pytest.mark.parametrize("escape", ["own session and an empty environment", "double-forked daemon"])
def test_a_factory_with_too_many_open_files_ends_all_the_same(escape: str) -> None:
    raylet = Raylet(fork_factory(obey))
    worker, pid = raylet.fork()
    started = tell(worker, ESCAPES[escape])
    assert isinstance(started, list)
    process = raylet.process.pid
    taken = {int(fd) for fd in os.listdir(f"/proc/{process}/fd")}
    room = next(fd for fd in range(len(taken) + 1) if fd not in taken)
    hard = resource.prlimit(process, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(process, resource.RLIMIT_NOFILE, (room, hard))
    assert raylet.end() == 0
    assert [each for each in (pid, *started) if not is_gone(each)] == []


LOOSE_HEAD = """
import os, sys
sys.path.insert(0, {tests!r})
from support.factories import Raylet, fork_factory, obey, tell
from support.waiting import wait_until

print("once")
os.close(0)
raylet = Raylet(fork_factory(obey))
worker, _ = raylet.fork()
tell(worker, "print('from the worker')")
worker.link.close()
assert worker.read_all(worker.stdout) == "from the worker\\n"
assert raylet.death().exit_code == 0
assert raylet.end() == 0
"""


def test_buffered_output_and_closed_streams_of_the_head_do_not_reach_workers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOSE_HEAD.format(tests=str(TESTS))],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "once\n", "")


def test_the_tests_themselves_have_one_thread() -> None:
    """fork_factory may only be called then; a plugin that starts threads would make every test here flaky."""
    assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
