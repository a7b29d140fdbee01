"""Several programs on one session: `beamlet start --head`, joining it, and what outlives a program.

Beamlet only: Ray's command takes many seconds, and its ports would meet those of other sessions.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance import DEADLINE_S, beamlet_only, environment, run_script

pytestmark = beamlet_only


def command(*words: str, home: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """`beamlet words`, with sessions in a folder of the test's own."""
    done = subprocess.run(
        [sys.executable, "-c", "from beamlet.cli.main import main; raise SystemExit(main())", *words],
        env=environment(XDG_RUNTIME_DIR=str(home), BEAMLET_TMPDIR=str(home)),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Path]:
    """A session started by hand, whose folder is the value; stopped afterwards."""
    home = tmp_path / "run"
    home.mkdir(mode=0o700)
    command("start", "--head", "--num-cpus", "2", home=home)
    yield home
    command("stop", home=home)


def run(folder: Path, session: Path, name: str, program: str) -> str:
    return run_script(
        folder / f"{name}.py", program, XDG_RUNTIME_DIR=str(session), BEAMLET_TMPDIR=str(session)
    )


def test_a_program_joins_with_auto(tmp_path: Path, session: Path) -> None:
    program = """
        ray.init("auto")
        print(ray.cluster_resources()["CPU"], ray.get(ray.remote(lambda: 1).remote()))
    """
    assert run(tmp_path, session, "joins", program) == "2.0 1\n"


def test_a_program_finds_a_running_session_without_being_told(tmp_path: Path, session: Path) -> None:
    program = """
        ray.init()
        print(ray.cluster_resources()["CPU"])
    """
    assert run(tmp_path, session, "finds", program) == "2.0\n"


def test_arrays_that_were_read_stay_as_they_were_after_shutdown(tmp_path: Path, session: Path) -> None:
    """Though the cluster lives on, and other programs store where they lie."""
    program = """
        import numpy as np
        def fill(value):
            ray.init("auto", **compat)
            made = ray.remote(lambda size: np.full(size, value, np.uint8))
            a = np.full(1 << 20, value, np.uint8)
            add = ray.remote(lambda a: a + 0)
            read = [ray.get(add.remote(a)) for _ in range(3)]
            read += ray.get([made.remote(12 << 20), ray.put(a), ray.put(a)])
            ray.shutdown()
            return read
        for compat in ({}, {"compat": "ray"}):
            first = fill(1)
            second = fill(2)
            print([int(a.min() if (a == a[0]).all() else -1) for a in first + second])
    """
    expected = "[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]\n"
    assert run(tmp_path, session, "reads", program) == expected * 2


def test_a_thread_in_the_middle_of_a_put_writes_nothing_after_shutdown(tmp_path: Path, session: Path) -> None:
    """Where it was writing, another program may have stored something."""
    program = """
        import os, threading
        begun, steps, real = threading.Event(), [], os.pwritev
        def page_by_page(fd, views, offset):
            steps.append(offset)
            begun.set()
            return real(fd, [views[0][:4096]], offset)
        ray.init("auto")
        os.pwritev = page_by_page
        def put():
            try:
                ray.put(bytes(200 << 20))
            except ray.exceptions.RaySystemError as error:
                print("Its session was shut down" in str(error), "are ending" in str(error))
        writer = threading.Thread(target=put)
        writer.start()
        begun.wait()
        ray.shutdown()
        at_the_end = len(steps)
        writer.join()
        print(len(steps) - at_the_end)
    """
    assert run(tmp_path, session, "writes", program) == "True False\n0\n"


def test_resources_cannot_be_given_when_joining(tmp_path: Path, session: Path) -> None:
    program = """
        try:
            ray.init("auto", num_cpus=4)
        except ValueError:
            print("refused")
    """
    assert run(tmp_path, session, "refused", program) == "refused\n"


def test_a_detached_actor_is_found_by_the_next_program(tmp_path: Path, session: Path) -> None:
    first = """
        @ray.remote
        class Counter:
            def __init__(self):
                self.n = 0
            def add(self):
                self.n += 1
                return self.n

        ray.init("auto", namespace="shared")
        counter = Counter.options(name="counter", lifetime="detached").remote()
        print(ray.get(counter.add.remote()))
    """
    second = """
        ray.init("auto", namespace="shared")
        print(ray.get(ray.get_actor("counter").add.remote()))
    """
    elsewhere = """
        ray.init("auto", namespace="another")
        try:
            ray.get_actor("counter")
        except ValueError:
            print("not here")
    """
    assert run(tmp_path, session, "first", first) == "1\n"
    assert run(tmp_path, session, "second", second) == "2\n"
    assert run(tmp_path, session, "elsewhere", elsewhere) == "not here\n"


def test_a_detached_actor_is_restarted_with_its_arguments_when_its_program_is_gone(
    tmp_path: Path, session: Path
) -> None:
    first = """
        import os
        import numpy as np

        @ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, lifetime="detached")
        class Keeps:
            def __init__(self, array, *, text):
                array[0] = 7
                self.kept = array, text
            def pid(self):
                return os.getpid()
            def look(self):
                return float(self.kept[0].sum()), len(self.kept[1])

        ray.init("auto", namespace="shared", log_to_driver=False)
        keeps = Keeps.options(name="keeps").remote(np.ones(300_000), text="x" * 200_000)
        large = Keeps.options(name="large").remote(np.ones(600_000), text="")
        print(ray.get([keeps.look.remote(), large.look.remote()]))
    """
    second = """
        import os

        ray.init("auto", namespace="shared", log_to_driver=False)
        keeps, large = map(ray.get_actor, ["keeps", "large"])
        for pid in ray.get([keeps.pid.remote(), large.pid.remote()]):
            os.kill(pid, 9)
        print(ray.get(keeps.look.remote(), timeout=30))
        ray.kill(keeps)
        try:
            ray.get(large.look.remote(), timeout=30)
        except ray.exceptions.RayActorError as error:
            print("owned it has exited" in str(error), "up to 4 MiB" in str(error))
    """
    assert run(tmp_path, session, "first", first) == "[(300006.0, 200000), (600006.0, 0)]\n"
    assert run(tmp_path, session, "second", second) == "(300006.0, 200000)\nTrue True\n"


def test_an_actor_that_is_not_detached_ends_with_its_program(tmp_path: Path, session: Path) -> None:
    first = """
        import os
        @ray.remote
        class A:
            def pid(self):
                return os.getpid()

        ray.init("auto", namespace="shared")
        a = A.options(name="a").remote()
        print(ray.get(a.pid.remote()))
    """
    second = """
        import time
        ray.init("auto", namespace="shared")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                ray.get_actor("a")
            except ValueError:
                print("gone")
                break
            time.sleep(0.01)
    """
    run(tmp_path, session, "first", first)
    assert run(tmp_path, session, "second", second) == "gone\n"


def test_each_program_is_a_job_of_its_own(tmp_path: Path, session: Path) -> None:
    program = """
        ray.init("auto")
        print(ray.get_runtime_context().get_job_id())
    """
    assert len({run(tmp_path, session, f"job{i}", program) for i in range(3)}) == 3


def test_the_session_outlives_a_program_that_is_killed(tmp_path: Path, session: Path) -> None:
    (tmp_path / "killed.py").write_text(
        "import beamlet as ray, os\nray.init('auto')\n"
        "ray.get(ray.remote(lambda: 1).remote())\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "killed.py")],
        env=environment(XDG_RUNTIME_DIR=str(session), BEAMLET_TMPDIR=str(session)),
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == -9
    program = "ray.init('auto')\nprint(ray.get(ray.remote(lambda: 'still here').remote()))"
    assert run(tmp_path, session, "after", program) == "still here\n"


def test_status_shows_resources_plainly_in_a_pipe(session: Path) -> None:
    out = command("status", home=session).stdout
    assert "CPU" in out
    assert "\x1b[" not in out


def test_stop_ends_every_process(tmp_path: Path) -> None:
    import psutil

    home = tmp_path / "run"
    home.mkdir(mode=0o700)
    command("start", "--head", "--num-cpus", "1", home=home)
    command("stop", home=home)
    left = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("XDG_RUNTIME_DIR") == str(home)
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    assert left == []


def test_stop_without_a_session_says_so(tmp_path: Path) -> None:
    home = tmp_path / "run"
    home.mkdir(mode=0o700)
    done = command("stop", home=home, check=False)
    assert (done.stdout + done.stderr).strip()


def test_the_sessions_folder_is_for_its_user_alone(session: Path) -> None:
    folders = [path for path in session.rglob("*") if path.is_dir() and path.name.startswith("session")]
    assert folders
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in folders if not folder.is_symlink())


def test_no_tcp_port_is_open(tmp_path: Path) -> None:
    program = """
        import psutil
        ray.init(num_cpus=1)
        ray.get(ray.remote(lambda: 1).remote())
        me = psutil.Process()
        family = [me, *me.children(recursive=True)]
        print([c for p in family for c in p.net_connections("inet") if c.status == "LISTEN"])
    """
    assert (
        run_script(
            tmp_path / "ports.py", program, XDG_RUNTIME_DIR=str(tmp_path), BEAMLET_TMPDIR=str(tmp_path)
        )
        == "[]\n"
    )


def test_version() -> None:
    done = command("--version", home=Path(os.environ.get("TMPDIR", "/tmp")))
    assert "0." in done.stdout


def test_a_program_that_leaves_with_tasks_unfinished_ends_nothing_but_its_job(
    tmp_path: Path, session: Path
) -> None:
    """The head ended with most programs that did so, and every other job with it."""
    leaves = """
        import time
        ray.init("auto")
        slow = ray.remote(lambda: time.sleep(0.01))
        refs = [slow.remote() for _ in range(100)]
    """
    stays = """
        ray.init("auto")
        print(ray.get(ray.remote(num_cpus=2)(lambda: 1).remote(), timeout=20))
    """
    for number in range(3):
        run(tmp_path, session, f"leaves{number}", leaves)
    assert run(tmp_path, session, "stays", stays) == "1\n", "all CPUs were given back"


def test_a_detached_actor_that_waits_for_a_cpu_when_its_program_leaves_is_started_later(
    tmp_path: Path, session: Path
) -> None:
    leaves = """
        import time
        ray.init("auto", namespace="n")
        hogs = [ray.remote(time.sleep).remote(60) for _ in range(2)]
        @ray.remote(num_cpus=1, name="late", lifetime="detached")
        class Late:
            def answer(self):
                return "alive"
        Late.remote()
    """
    finds = """
        ray.init("auto", namespace="n")
        print(ray.get(ray.get_actor("late").answer.remote(), timeout=20))
    """
    run(tmp_path, session, "leaves", leaves)
    assert run(tmp_path, session, "finds", finds) == "alive\n"


def test_what_a_detached_actor_has_others_do_and_what_it_uses_outlives_the_program(
    tmp_path: Path, session: Path
) -> None:
    """An actor that a task of its had created was ended with the program, and so was an idle worker whose
    value it held."""
    founds = """
        import os
        ray.init("auto", namespace="n")
        @ray.remote(num_cpus=0)
        class Waiter:
            def wait(self, path):
                while not os.path.exists(path):
                    time.sleep(0.01)
                return 7
        @ray.remote(num_cpus=0)
        def use_an_actor(path):
            return ray.get(Waiter.remote().wait.remote(path))
        @ray.remote(num_cpus=0)
        def own():
            return [ray.put(5), os.getpid()]
        @ray.remote(num_cpus=0, name="founder", lifetime="detached")
        class Founder:
            def keep(self, given):
                self.given = given
            def begin(self, path):
                (self.five, self.owner), self.seven = ray.get(own.remote()), use_an_actor.remote(path)
            def end(self):
                return ray.get([*self.given, self.five, self.seven])
            def pids(self):
                return [os.getpid(), self.owner]
        import time
        founder = Founder.remote()
        ray.get(founder.begin.remote(%r))
        mine = ray.get(own.remote())[:1]  # by a worker that this program still has leased when it ends
        ray.get(founder.keep.remote(mine))
    """
    finds = """
        import os, time
        ray.init("auto", namespace="n")
        founder = ray.get_actor("founder")
        end = founder.end.remote()
        open(%r, "w").close()
        print(ray.get(end, timeout=20))
        pids = ray.get(founder.pids.remote())
        ray.kill(founder)
        deadline = time.monotonic() + 20
        while any(os.path.exists(f"/proc/{pid}") for pid in pids):
            assert time.monotonic() < deadline, "a worker of an ended job is still there"
            time.sleep(0.05)
    """
    path = str(tmp_path / "go")
    run(tmp_path, session, "founds", founds % path)
    assert run(tmp_path, session, "finds", finds % path) == "[5, 5, 7]\n"
