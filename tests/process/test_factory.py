"""The factory with real processes: forks, deaths reported exactly, and nothing left alive.

Every process a test starts writes its pid into a pipe; "gone" is judged by /proc, with a deadline.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import psutil
import pytest

from beamlet.base.ids import WorkerId
from beamlet.processes import factory as factory_module
from beamlet.processes.factory import FactoryProcess, WorkerBoot, fork_factory
from beamlet.processes.fate_sharing import children, descendants, die_with_parent, is_stopped, sweep, wake
from beamlet.protocol.factory import (
    ChildExited,
    FactoryMessage,
    Forked,
    ForkFailed,
    ForkWorker,
    KillWorker,
    LoadModule,
    Preloaded,
)
from beamlet.protocol.message import Message
from beamlet.rpc.connection import encode_frame
from beamlet.rpc.framing import Deframer

pytestmark = pytest.mark.usefixtures("no_leaks")

DEADLINE_S = 10.0


# --- the raylet's part, played by the test --------------------------------------------------------


class Worker:
    """A worker as the raylet sees it."""

    def __init__(self, worker_id: WorkerId) -> None:
        self.worker_id = worker_id
        self.link, self._their_link = socket.socketpair()
        self.link.settimeout(DEADLINE_S)
        self.stdout, self._stdout_write = os.pipe()
        self.stderr, self._stderr_write = os.pipe()

    @property
    def given(self) -> list[int]:
        return [self._their_link.fileno(), self._stdout_write, self._stderr_write]

    def gave(self) -> None:
        self._their_link.close()
        os.close(self._stdout_write)
        os.close(self._stderr_write)

    def close(self) -> None:
        self.link.close()
        os.close(self.stdout)
        os.close(self.stderr)

    def read_all(self, fd: int) -> str:
        """Everything until the last holder of the write end is gone."""
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
        return b"".join(chunks).decode()


class Raylet:
    def __init__(self, process: FactoryProcess) -> None:
        self.process = process
        self.process.link.settimeout(DEADLINE_S)
        self._deframer = Deframer()
        self._decoder = msgspec.msgpack.Decoder(list[FactoryMessage])
        self._inbox: list[Message] = []
        self.workers: list[Worker] = []

    def send(self, *messages: Message, fds: Sequence[int] = ()) -> None:
        socket.send_fds(self.process.link, [bytes(encode_frame(list(messages)))], fds)

    def receive(self) -> Message:
        while not self._inbox:
            data = self.process.link.recv(65536)
            assert data, "the factory closed its link"
            for header in self._deframer.feed(memoryview(data)):
                self._inbox += self._decoder.decode(header)
        return self._inbox.pop(0)

    def ask_for(self, count: int = 1) -> list[Worker]:
        """All in one frame, with all descriptors in one sendmsg."""
        workers = [Worker(WorkerId(b"worker%d" % (len(self.workers) + i))) for i in range(count)]
        self.workers += workers
        self.send(*(ForkWorker(w.worker_id) for w in workers), fds=[fd for w in workers for fd in w.given])
        for worker in workers:
            worker.gave()
        return workers

    def fork(self) -> tuple[Worker, int]:
        [worker] = self.ask_for()
        answer = self.receive()
        assert isinstance(answer, Forked), answer
        assert answer.worker_id == worker.worker_id
        return worker, answer.pid

    def death(self) -> ChildExited:
        message = self.receive()
        assert isinstance(message, ChildExited), message
        return message

    def end(self) -> int:
        """Close the link; the factory's exit code."""
        self.process.link.close()
        for worker in self.workers:
            worker.close()
        return wait_for_exit(self.process.pid)


def wait_for_exit(pid: int) -> int:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail(f"the factory did not end within {DEADLINE_S} s")


@contextlib.contextmanager
def factory(child_main: Callable[[WorkerBoot], None], preload: Sequence[str] = ()) -> Iterator[Raylet]:
    raylet = Raylet(fork_factory(child_main, preload))
    try:
        yield raylet
    finally:
        assert raylet.end() == 0


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def assert_all_gone(pids: Sequence[int], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while alive := [pid for pid in pids if not is_gone(pid)]:
        if time.monotonic() > deadline:
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"{what}: {alive} of {pids} still alive after {DEADLINE_S} s")
        time.sleep(0.005)


# --- what workers do ------------------------------------------------------------------------------


def obey(boot: WorkerBoot) -> None:
    """Run what comes over the link as Python, answer with repr(answer)."""
    link = socket.socket(fileno=boot.link)
    while code := link.recv(65536):
        scope = {"boot": boot, "answer": None}
        exec(code.decode(), scope)
        link.sendall(repr(scope["answer"]).encode())


def tell(worker: Worker, code: str) -> object:
    worker.link.sendall(code.encode())
    answer: object = eval(worker.link.recv(65536).decode())
    return answer


# --- forks ----------------------------------------------------------------------------------------


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
        of_the_factory = open_files(raylet.process.pid) - open_files(os.getpid())
        assert len(of_the_factory) == 3, "its end of the link and the pair that signals write to"
        assert not open_files(pid) & of_the_factory
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


# --- deaths ---------------------------------------------------------------------------------------


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


#: Each prints the pids it has started; all of them try to escape.
ESCAPES = {
    "own session": """if True:
        import subprocess
        answer = [subprocess.Popen(['sleep', '100'], start_new_session=True).pid]""",
    "own session and an empty environment": """if True:
        import subprocess
        answer = [subprocess.Popen(['/bin/sleep', '100'], start_new_session=True, env={}).pid]""",
    "double-forked daemon": """if True:
        import os, time
        r, w = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.write(w, b'%d' % os.getpid())
                time.sleep(100)
            os._exit(0)
        os.wait()
        answer = [int(os.read(r, 20))]""",
    "bomb of depth 3": """if True:
        import os, time
        r, w = os.pipe()
        def burst(depth):
            for _ in range(3):
                if os.fork() == 0:
                    os.setsid()
                    os.write(w, b'%d ' % os.getpid())
                    if depth > 1:
                        burst(depth - 1)
                    time.sleep(100)
        burst(3)
        seen = b''
        while seen.count(b' ') < 3 + 9 + 27:
            seen += os.read(r, 1000)
        answer = [int(pid) for pid in seen.split()]""",
}


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


# --- the head is killed ---------------------------------------------------------------------------

HEAD = """
import os, socket, sys, time
sys.path.insert(0, {tests!r})
from tests_process_factory import ESCAPES, Raylet, fork_factory, obey, tell

raylet = Raylet(fork_factory(obey))
workers = [raylet.fork() for _ in ESCAPES]
started = [pid for (worker, _), escape in zip(workers, ESCAPES.values()) for pid in tell(worker, escape)]
print(raylet.process.pid, *(pid for _, pid in workers), *started, flush=True)
time.sleep(100)
"""


def test_kill_9_of_the_factorys_parent_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "tests_process_factory.py").symlink_to(__file__)
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD.format(tests=str(tmp_path))], stdout=subprocess.PIPE, text=True
    )
    assert head.stdout is not None
    pids = [int(pid) for pid in head.stdout.readline().split()]
    assert len(pids) == 1 + 4 + 3 + 39
    assert sorted(pids[1:5]) == sorted(children(pids[0]))
    assert len(descendants(head.pid)) >= len(pids)
    head.kill()
    head.wait(DEADLINE_S)
    head.stdout.close()
    assert_all_gone(pids, "kill -9 of the head")


LOOSE_HEAD = """
import os, sys
sys.path.insert(0, {tests!r})
from tests_process_factory import Raylet, fork_factory, obey, tell

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


def test_buffered_output_and_closed_streams_of_the_head_do_not_reach_workers(tmp_path: Path) -> None:
    (tmp_path / "tests_process_factory.py").symlink_to(__file__)
    done = subprocess.run(
        [sys.executable, "-c", LOOSE_HEAD.format(tests=str(tmp_path))],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "once\n", "")


def test_sweep_finds_what_carries_the_marker_and_nothing_else() -> None:
    def start(marker: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["/bin/sh", "-c", "env -i sleep 100 & echo; wait"],
            env={"BEAMLET_SESSION": marker, "PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE,
        )

    mark = f"test-{os.getpid()}"
    ours, other = start(mark), start(mark + "0")
    for each in (ours, other):
        assert each.stdout is not None
        each.stdout.readline()  # its child, which hides its environment, is started
        each.stdout.close()
    below = descendants(ours.pid)
    killed = sweep(mark)
    assert set(killed) == {ours.pid, *below}
    assert ours.wait(DEADLINE_S) == -signal.SIGKILL
    assert_all_gone(below, "child of a swept process")
    assert other.poll() is None
    assert set(sweep(mark + "0")) >= {other.pid}
    other.wait(DEADLINE_S)


def test_wake_continues_what_is_stopped_of_a_session_and_nothing_else() -> None:
    ours, other = (
        subprocess.Popen(["sleep", "100"], env={"BEAMLET_SESSION": f"{os.getpid()}-{name}"}) for name in "ab"
    )
    with ours, other:
        for process in (ours, other):
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
        wake(f"{os.getpid()}-a")
        assert os.waitpid(ours.pid, os.WCONTINUED) != (0, 0)
        assert not is_stopped(ours.pid)
        assert is_stopped(other.pid)
        for process in (ours, other):
            process.kill()


def test_die_with_parent_acts_at_once_when_the_parent_is_dead_already() -> None:
    pid = os.fork()
    if pid == 0:
        die_with_parent(signal.SIGKILL, expected_parent_pid=1 << 22)
        os._exit(0)
    assert wait_for_exit(pid) == -signal.SIGKILL


def test_the_tests_themselves_have_one_thread() -> None:
    """fork_factory may only be called then; a plugin that starts threads would make every test here flaky."""
    assert threading.active_count() == 1
