"""Starting and ending: `init`'s arguments, `shutdown`, doing both many times, and leaving nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from conformance import AGAINST_RAY, DEADLINE_S, beamlet_only, get, run_script, start_script, wait_until

import beamlet as ray
from beamlet.exceptions import RaySystemError

pytestmark = pytest.mark.usefixtures("no_cluster")


def test_is_initialized() -> None:
    assert not ray.is_initialized()
    ray.init(num_cpus=1)
    assert ray.is_initialized()
    ray.shutdown()
    assert not ray.is_initialized()


def test_shutdown_without_init_does_nothing() -> None:
    ray.shutdown()
    ray.shutdown()


def test_init_twice_is_a_runtime_error() -> None:
    ray.init(num_cpus=1)
    with pytest.raises(RuntimeError, match="twice"):
        ray.init(num_cpus=1)


def test_ignore_reinit_error() -> None:
    ray.init(num_cpus=1)
    ray.init(num_cpus=1, ignore_reinit_error=True)
    assert get(ray.put(1)) == 1


def test_a_worker_may_call_init_again_as_well() -> None:
    """Modules begin with it, and workers import them."""
    mine = ray.init(num_cpus=1, namespace="here")

    @ray.remote
    def again(**options: Any) -> tuple[str, str, int]:
        with ray.init(**options) as context:
            found = context.address_info["address"], context.namespace
        return *found, ray.get(ray.put(1))

    found = get(again.remote(ignore_reinit_error=True))
    if not AGAINST_RAY:
        assert found == (mine.address_info["address"], "here", 1)
    with pytest.raises(RuntimeError):
        get(again.remote())


def test_init_after_shutdown_works_and_functions_are_exported_again() -> None:
    @ray.remote
    def f() -> int:
        return 5

    @ray.remote
    class Actor:
        def ping(self) -> str:
            return "pong"

    for _ in range(2):
        ray.init(num_cpus=1)
        assert get(f.remote()) == 5
        assert get(Actor.remote().ping.remote()) == "pong"
        ray.shutdown()


def test_the_first_remote_call_starts_a_cluster() -> None:
    assert get(ray.remote(lambda: 3).remote()) == 3
    assert ray.is_initialized()


def test_the_first_put_starts_a_cluster() -> None:
    assert get(ray.put(4)) == 4
    assert ray.is_initialized()


def test_state_calls_do_not_start_a_cluster() -> None:
    with pytest.raises(RaySystemError):
        ray.cluster_resources()
    with pytest.raises(RaySystemError):
        ray.nodes()
    assert not ray.is_initialized()


def test_num_cpus_and_resources_are_what_the_cluster_has() -> None:
    ray.init(num_cpus=3, num_gpus=0, resources={"special": 2})
    resources = ray.cluster_resources()
    assert resources["CPU"] == 3
    assert resources["special"] == 2
    assert "GPU" not in resources


def test_num_gpus_are_given_to_tasks() -> None:
    ray.init(num_cpus=1, num_gpus=2)

    @ray.remote(num_gpus=1)
    def gpus() -> tuple[list[Any], str]:
        return ray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]

    ids, visible = get(gpus.remote())
    assert [str(i) for i in ids] == [visible]
    assert visible in ("0", "1")


def test_init_without_num_cpus_detects_them() -> None:
    ray.init()
    assert 1 <= ray.cluster_resources()["CPU"] <= (os.cpu_count() or 1)


def test_object_store_memory() -> None:
    ray.init(num_cpus=1, object_store_memory=100_000_000)
    assert ray.cluster_resources()["object_store_memory"] == pytest.approx(100_000_000, rel=0.05)


def test_namespace() -> None:
    ray.init(num_cpus=1, namespace="my-namespace")
    assert ray.get_runtime_context().namespace == "my-namespace"


def test_env_vars_of_the_job_reach_tasks_and_actors() -> None:
    ray.init(num_cpus=2, runtime_env={"env_vars": {"JOB_WIDE": "yes"}})

    @ray.remote
    class Actor:
        def read(self) -> str | None:
            return os.environ.get("JOB_WIDE")

    assert get(ray.remote(lambda: os.environ.get("JOB_WIDE")).remote()) == "yes"
    assert get(Actor.remote().read.remote()) == "yes"


def test_env_vars_may_refer_to_the_environment_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Ray: a program adds to PATH, and does not lose it."""
    monkeypatch.setenv("BEFORE", "outer")
    ray.init(num_cpus=1, runtime_env={"env_vars": {"BEFORE": "job:${BEFORE}"}})

    @ray.remote
    def read() -> list[str | None]:
        return [os.environ.get(name) for name in ("BEFORE", "OWN")]

    own = {"BEFORE": "task:${BEFORE}", "OWN": "$BEFORE${NOWHERE}, $NOWHERE"}
    assert get(read.remote()) == ["job:outer", None]
    assert get(read.options(runtime_env={"env_vars": own}).remote()) == [
        "task:outer",
        "task:outer, $NOWHERE",
    ]


def test_what_a_task_or_actor_starts_inherits_its_env_vars_and_nobody_else_does() -> None:
    ray.init(num_cpus=1, runtime_env={"env_vars": {"JOB_WIDE": "yes"}})

    @ray.remote
    def read() -> tuple[str | None, str | None, str | None]:
        return tuple(os.environ.get(name) for name in ("JOB_WIDE", "PARENT", "OWN"))

    @ray.remote
    class Parent:
        def task(self) -> Any:
            return get(read.remote())

        def other_task(self) -> Any:
            return get(read.options(runtime_env={"env_vars": {"OWN": "1"}}).remote())

        def child(self) -> Any:
            return get(Parent.options(num_cpus=0).remote().task.remote())

    @ray.remote(runtime_env={"env_vars": {"PARENT": "2"}})
    def parent() -> Any:
        return get(read.remote())

    actor = Parent.options(num_cpus=0, runtime_env={"env_vars": {"PARENT": "1"}}).remote()
    assert get(actor.child.remote()) == ("yes", "1", None)
    assert get(actor.task.remote()) == ("yes", "1", None)
    assert get(actor.other_task.remote()) == ("yes", "1", "1")
    assert get(parent.remote()) == ("yes", "2", None)
    assert {get(read.remote()) for _ in range(20)} == {("yes", None, None)}


def test_env_vars_of_a_task_come_before_the_jobs() -> None:
    ray.init(num_cpus=1, runtime_env={"env_vars": {"A": "job", "B": "job"}})

    @ray.remote(runtime_env={"env_vars": {"A": "task"}})
    def read() -> tuple[str | None, str | None]:
        return os.environ.get("A"), os.environ.get("B")

    assert get(read.remote()) == ("task", "job")


@pytest.mark.parametrize(
    "argument",
    [
        {"include_dashboard": False},
        {"dashboard_host": "127.0.0.1"},
        {"dashboard_port": 8399, "include_dashboard": False},
        {"configure_logging": True},
        {"logging_level": "warning"},
        {"log_to_driver": False},
        {"_temp_dir": None},
        {"labels": {"zone": "a"}},
    ],
    ids=repr,
)
def test_other_arguments_of_init_are_taken(argument: dict[str, Any]) -> None:
    ray.init(num_cpus=1, **argument)
    assert get(ray.put(1)) == 1


def test_an_unknown_argument_of_init_is_a_runtime_error() -> None:
    with pytest.raises(RuntimeError, match="no_such_argument"):
        ray.init(no_such_argument=1)


@pytest.mark.parametrize("argument", [{"num_cpus": -1}, {"resources": {"x": -1}}], ids=repr)
def test_bad_values_of_init_are_errors(argument: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, AssertionError)):
        ray.init(**argument)


def test_init_as_a_context() -> None:
    with ray.init(num_cpus=1) as context:
        assert get(ray.put(1)) == 1
        assert context.address_info["node_id"]
    assert not ray.is_initialized()


@pytest.mark.usefixtures("no_cluster")
def test_the_first_use_may_come_from_several_threads_at_once() -> None:
    """As in a threaded server that never calls init()."""
    together = threading.Barrier(6)

    def use(number: int) -> int:
        together.wait()
        return get(ray.remote(lambda: number).remote())

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(use, range(6))) == [0, 1, 2, 3, 4, 5]


@beamlet_only
@pytest.mark.usefixtures("no_cluster")
def test_a_get_in_another_thread_ends_with_shutdown_and_says_so() -> None:
    ray.init(num_cpus=1)
    never = ray.remote(lambda: threading.Event().wait()).remote()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ray.get, never)
        ray.wait([never], timeout=0.2)
        ray.shutdown()
        with pytest.raises(RaySystemError, match=r"shutdown\(\) was called in this .* Its session was shut"):
            waiting.result(DEADLINE_S)


def test_init_auto_without_a_cluster_is_a_connection_error() -> None:
    with pytest.raises(ConnectionError):
        ray.init(address="auto")


def test_refs_of_an_old_session_fail_in_a_new_one() -> None:
    ray.init(num_cpus=1)
    ref = ray.put(1)
    ray.shutdown()
    ray.init(num_cpus=1)
    with pytest.raises(Exception):  # noqa: B017  which one is the implementation's choice; hanging is not
        ray.get(ref, timeout=5)
    assert get(ray.put(2)) == 2


@beamlet_only
def test_a_hundred_sessions_do_not_grow() -> None:
    process = psutil.Process()

    def session() -> None:
        ray.init(num_cpus=1)
        assert get(ray.remote(lambda: 1).remote()) == 1
        ray.shutdown()

    for _ in range(5):
        session()
    before, memory = (process.num_fds(), process.num_threads()), process.memory_info().rss
    for _ in range(20):
        session()
    # Fewer is fine: what an earlier test left to end by itself may have ended meanwhile.
    assert process.num_fds() <= before[0]
    # The kernel counts a thread that has just said that it is done.
    wait_until(lambda: process.num_threads() <= before[1], f"no more threads than {before[1]}")
    assert process.memory_info().rss < memory + (10 << 20)


# --- ends of every kind --------------------------------------------------------------------------

PROGRAM = """
import beamlet as ray
import os, sys, time

ray.init(num_cpus=2)

@ray.remote
class Actor:
    def pid(self):
        return os.getpid()

@ray.remote
def busy():
    time.sleep(600)

actor = Actor.remote()
ray.get(actor.pid.remote())
ref = busy.remote()
print("ready", flush=True)
"""

MARK = "CONFORMANCE_PROGRAM"


def processes_with(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def start_program(tmp_path: Path, end: str) -> tuple[subprocess.Popen[str], str]:
    """Start a program with a task and an actor; returns once both run. All its processes carry a mark."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM + end)
    mark = str(tmp_path)
    program = start_script(path, **{MARK: mark})
    assert program.stdout is not None
    while (line := program.stdout.readline()) != "ready\n":
        assert line, program.communicate()[1]
    return program, mark


def assert_nothing_left(mark: str) -> None:
    try:
        wait_until(lambda: not processes_with(mark), "every process of the program to end")
    finally:
        for process in processes_with(mark):
            process.kill()


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("ray.shutdown()\n", 0),
        ("sys.exit(3)\n", 3),
        ("raise RuntimeError('at top level')\n", 1),
        ("os._exit(4)\n", 4),
    ],
    ids=["falls off the end", "shutdown", "sys.exit", "exception", "os._exit"],
)
def test_a_program_that_ends_leaves_nothing(tmp_path: Path, end: str, code: int) -> None:
    program, mark = start_program(tmp_path, end)
    program.communicate(timeout=DEADLINE_S)
    assert program.returncode == code
    assert_nothing_left(mark)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_program_that_is_interrupted_in_get_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    program, mark = start_program(tmp_path, "ray.get(ref)\n")
    program.send_signal(number)
    program.communicate(timeout=DEADLINE_S)
    assert program.returncode != 0
    assert_nothing_left(mark)


@beamlet_only
@pytest.mark.parametrize("victim", ["head", "oldest", "newest"])
def test_killing_any_process_and_ending_leaves_nothing(tmp_path: Path, victim: str) -> None:
    program, mark = start_program(tmp_path, "time.sleep(600)\n")
    try:
        wait_until(lambda: kill_one(program, mark, newest=victim == "newest"), "a process to kill")
    finally:
        program.kill()
        program.communicate(timeout=DEADLINE_S)
    assert_nothing_left(mark)


def kill_one(program: Any, mark: str, newest: bool) -> bool:
    """False if the one that was found was only passing through: a fork that tried something, say."""
    others = sorted((p for p in processes_with(mark) if p.pid != program.pid), key=lambda p: p.create_time())
    try:
        others[-1 if newest else 0].kill()
    except psutil.NoSuchProcess:
        return False
    return True


@beamlet_only
def test_the_programs_processes_leave_no_shared_memory(tmp_path: Path) -> None:
    before = set(os.listdir("/dev/shm"))
    program, mark = start_program(
        tmp_path, "import numpy\nx = ray.put(numpy.zeros(10**6))\nos.kill(os.getpid(), 9)\n"
    )
    program.communicate(timeout=DEADLINE_S)
    assert_nothing_left(mark)
    assert set(os.listdir("/dev/shm")) <= before


def test_ctrl_c_in_get_is_a_keyboard_interrupt_and_the_program_goes_on(tmp_path: Path) -> None:
    end = (
        "try:\n    print('waiting', flush=True)\n    ray.get(ref)\n"
        "except KeyboardInterrupt:\n    print('interrupted', flush=True)\n"
        "print(ray.get(actor.pid.remote()) > 0, flush=True)\n"
    )
    program, mark = start_program(tmp_path, end)
    assert program.stdout is not None
    assert program.stdout.readline() == "waiting\n"
    program.send_signal(signal.SIGINT)
    out, _ = program.communicate(timeout=DEADLINE_S)
    assert out == "interrupted\nTrue\n"
    assert_nothing_left(mark)


def test_a_program_without_main_guard_runs(tmp_path: Path) -> None:
    out = run_script(
        tmp_path / "p.py", "print(ray.get([ray.remote(lambda x: x).remote(i) for i in range(3)]))"
    )
    assert out == "[0, 1, 2]\n"


def test_threads_may_wait_for_futures_when_the_main_thread_has_ended(tmp_path: Path) -> None:
    program = """
        import threading

        @ray.remote
        def late():
            threading.Event().wait(0.2)
            return "late"

        def wait():
            threading.main_thread().join()
            print(late.remote().future().result(), future.result())

        ray.init(num_cpus=2)
        future = late.remote().future()
        threading.Thread(target=wait).start()
    """
    assert run_script(tmp_path / "p.py", program) == "late late\n"


def test_importing_starts_nothing(tmp_path: Path) -> None:
    program = """
        import psutil, threading
        print(len(psutil.Process().children()), ray.is_initialized())
    """
    assert run_script(tmp_path / "p.py", program) == "0 False\n"


@beamlet_only
def test_starting_and_ending_is_quick() -> None:
    started = time.monotonic()
    ray.init(num_cpus=1)
    get(ray.put(1))
    ray.shutdown()
    assert time.monotonic() - started < 5


def test_many_programs_at_once_do_not_meet(tmp_path: Path) -> None:
    count = 1 if AGAINST_RAY else 3  # programs without an address: each its own cluster
    paths = []
    for i in range(count):
        path = tmp_path / f"p{i}.py"
        path.write_text(
            "import beamlet as ray\nray.init(address='local', num_cpus=1, namespace='same')\n"
            "class C:\n    def __init__(self, n): self.n = n\n    def read(self): return self.n\n"
            f"c = ray.remote(C).options(name='c').remote({i})\n"
            "print(ray.get(ray.get_actor('c').read.remote()))\n"
        )
        paths.append(path)
    programs = [start_script(path) for path in paths]
    assert [p.communicate(timeout=DEADLINE_S)[0] for p in programs] == [f"{i}\n" for i in range(count)]
