"""The command line as a user runs it: a cluster outlives `start`, is seen by `status`, gone after `stop`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance import AGAINST_RAY, DEADLINE_S, environment, process_is_gone, wait_until

from beamlet.processes.session import SessionDirectory, session_root

pytestmark = pytest.mark.skipif(AGAINST_RAY, reason="Ray has a command line of its own")

JOINS = """
import beamlet as ray
ray.init("auto")
print(ray.get(ray.remote(lambda: "joined").remote()), ray.cluster_resources()["gizmo"])
"""
WAITS = """
import beamlet as ray
ray.init(num_cpus=1)

@ray.remote
class Holder:
    def ping(self): return "pong"

@ray.remote(num_cpus=1)
def never_fits_beside(): pass

holder = Holder.options(name="the-holder", num_cpus=1).remote()
ray.get(holder.ping.remote())
waiting = never_fits_beside.remote()
ray.wait([waiting], timeout=0.5)
print("ready", flush=True)
input()
"""


class Shell:
    """Runs `beamlet …` with sessions of its own, so that no other test's cluster is seen or stopped."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = environment(BEAMLET_TMPDIR=str(root))
        self.env.pop("NO_COLOR", None)

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "beamlet", *args],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def ok(self, *args: str) -> str:
        done = self.run(*args)
        assert done.returncode == 0, f"{args} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def open(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *args],
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def sessions(self) -> list[Path]:
        return list(self.root.glob("beamlet-*/session_2*"))

    def head_pid(self) -> int:
        (session,) = self.sessions()
        return int(json.loads((session / "session.json").read_text())["pid"])


@pytest.fixture
def shell() -> Iterator[Shell]:
    with tempfile.TemporaryDirectory(prefix="cli-") as root:
        shell = Shell(Path(root))
        yield shell
        if shell.sessions():
            shell.ok("stop", "--all", "--force")


def processes_of(session: str) -> list[int]:
    """Every process that carries the session's mark."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if (
                entry.isdigit()
                and f"BEAMLET_SESSION={session}".encode() in Path(f"/proc/{entry}/environ").read_bytes()
            ):
                found.append(int(entry))
        except OSError:
            continue
    return found


def test_version(shell: Shell) -> None:
    assert re.fullmatch(r"beamlet, version \d+\.\d+\.\d+\n", shell.ok("--version"))


def test_start_join_status_stop(shell: Shell) -> None:
    said = shell.ok("start", "--head", "--num-cpus", "2", "--resources", '{"gizmo": 3}')
    assert "ray.init('auto')" in said
    assert "\x1b" not in said, "no colours where a program reads"
    (session,) = shell.sessions()
    driver = shell.open("-c", JOINS)
    assert driver.communicate(timeout=DEADLINE_S) == ("joined 3.0\n", "")
    status = shell.ok("status")
    assert "0.0/2.0 CPU" in status
    assert "0.0/3.0 gizmo" in status
    assert "(no resource demands)" in status
    head = shell.head_pid()
    shell.ok("stop")
    assert process_is_gone(head)
    assert not processes_of(session.name)
    assert not session.exists()


def test_stop_without_a_cluster_is_no_error(shell: Shell) -> None:
    assert "No cluster started" in shell.ok("stop")


def test_status_without_a_cluster_says_what_to_do(shell: Shell) -> None:
    done = shell.run("status")
    assert done.returncode == 1
    assert "beamlet start --head" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_start_is_refused(shell: Shell) -> None:
    shell.ok("start", "--head", "--num-cpus", "1")
    done = shell.run("start", "--head")
    assert done.returncode == 1
    assert f"head process {shell.head_pid()}" in done.stderr
    assert len(shell.sessions()) == 1


def test_of_several_that_start_at_once_one_does(shell: Shell) -> None:
    """As of each rank of a job. They made a cluster each, of which `stop` ended one."""
    begun = [shell.open("-m", "beamlet", "start", "--head", "--num-cpus", "1") for _ in range(3)]
    said = [(each.communicate(timeout=DEADLINE_S), each.returncode) for each in begun]
    assert sorted(code for _, code in said) == [0, 1, 1], said
    assert sum("a cluster is running already" in errors for (_, errors), _ in said) == 2
    assert shell.ok("stop").count("Stopped") == 1
    assert not shell.sessions()


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["start"], 1, "beamlet start --head"),
        (["start", "--address", "1.2.3.4:6379"], 1, "several nodes"),
        (["start", "--head", "--resources", "nonsense"], 2, "is not JSON"),
        (["start", "--head", "--resources", '{"CPU": 2}'], 2, "use --num-cpus instead"),
        (["start", "--head", "--resources", '{"a": "x"}'], 2, "must contain numbers"),
        (["start", "--head", "--num-cpus", "nan"], 2, "'nan' must be a finite number"),
        (["start", "--head", "--num-cpus", "1e30"], 2, "'1e30' must be at most"),
        (["start", "--head", "--num-cpus", "two"], 2, "'two' is not a number"),
        (["start", "--head", "--object-store-memory", "1e30"], 2, "'1e30' must be at most"),
        (["stop", "--grace-period", "nan"], 2, "'nan' is not a number of seconds"),
        (["start", "--head", "--num-cpus", "-1"], 2, "negative"),
        (["microbenchmark", "--only", "nonsense"], 1, "no line has 'nonsense' in its name"),
        (["start", "--head", "--object-store-memory", "5"], 1, "75 MiB"),
        (["start", "--haed"], 2, "unrecognized"),
        (["stop", "--session", "session_nowhere"], 1, "does not name a running session"),
        (["nonsense"], 2, "invalid choice"),
        ([], 2, ""),
    ],
)
def test_wrong_use_says_what_is_wrong(shell: Shell, args: list[str], status: int, said: str) -> None:
    done = shell.run(*args)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not shell.sessions(), "what did not start leaves nothing"


def test_flags_of_ray_are_taken_and_noted(shell: Shell) -> None:
    done = shell.run("start", "--head", "--num-cpus", "1", "--port", "6379", "--include-dashboard", "false")
    assert done.returncode == 0
    assert "--port has no effect in this release" in done.stderr
    assert "--include-dashboard has no effect" in done.stderr


def test_a_head_that_is_stopped_is_named_and_ends_in_order(shell: Shell) -> None:
    shell.ok("start", "--head", "--num-cpus", "1")
    (session,) = shell.sessions()
    head = shell.head_pid()
    os.kill(head, signal.SIGSTOP)
    refused = shell.run("status").stderr
    assert f"its head, process {head}, is stopped" in refused
    assert f"`beamlet stop --session {session.name}` ends it" in refused
    assert "by force" not in shell.ok("stop")
    assert process_is_gone(head)
    assert not session.exists()
    wait_until(lambda: not processes_of(session.name), "nothing of the session to be left")


def test_a_head_that_does_not_listen_to_sigterm_is_killed(shell: Shell) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as head:
        assert head.stdout is not None
        assert head.stdout.readline() == b"\n"
        session = SessionDirectory.create(session_root(shell.env))
        session.describe("", head.pid)
        assert session.lock is not None
        held = os.dup(session.lock.fd)
        threading.Thread(target=lambda: (head.wait(), os.close(held))).start()
        session.let_go()
        out = shell.ok("stop", "--all", "--grace-period", "0.2")
    assert "by force: it did not end within 0.2 s" in out
    assert f"Its logs stay in {session.logs}" in out
    assert head.returncode == -signal.SIGKILL


@pytest.mark.parametrize("name", ["current_cluster", "session.json", "lock", "secret", "node.sock", "logs"])
def test_a_cluster_of_which_a_cleaner_took_one_file_is_found(shell: Shell, name: str) -> None:
    """`stop` said that it had stopped it, or that there was none, and it lived on."""
    shell.ok("start", "--head", "--num-cpus", "1", "--resources", '{"gizmo": 3}')
    pid = shell.head_pid()
    (session,) = shell.sessions()
    gone = session.parent / name if name == "current_cluster" else session / name
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()
    wait_until(gone.exists, "the head to make it again")
    assert shell.head_pid() == pid
    assert f"session {session.name}, head process {pid}" in shell.run("start", "--head").stderr
    assert "gizmo" in shell.ok("status")
    joined = subprocess.run(
        [sys.executable, "-c", JOINS], env=shell.env, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert joined.stdout == "joined 3.0\n", joined.stderr
    assert f"Stopped session {session.name}." in shell.ok("stop")
    assert process_is_gone(pid)
    assert not processes_of(session.name)


@pytest.mark.parametrize(
    ("args", "how"),
    [
        (("stop",), ""),
        (("stop", "--all"), ""),
        (("stop", "--force"), ", by force"),
        (("stop", "-g", "0.1"), ", by force: which process is its head was not found"),
    ],
)
def test_stop_ends_a_cluster_whose_head_is_not_named(shell: Shell, args: tuple[str, ...], how: str) -> None:
    """At once: the head has not looked yet."""
    shell.ok("start", "--head", "--num-cpus", "1")
    pid = shell.head_pid()
    (session,) = shell.sessions()
    (session / "session.json").unlink()
    if "-g" in args:
        (session / "session.json" / "in the way").mkdir(parents=True)
    assert f"Stopped session {session.name}{how}." in shell.ok(*args)
    assert process_is_gone(pid)
    assert not processes_of(session.name)


def test_the_logs_stay_where_a_driver_was_left_behind_and_nowhere_else(shell: Shell) -> None:
    shell.ok("start", "--head", "--num-cpus", "1")
    (session,) = shell.sessions()
    program = shell.open("-c", "import beamlet as ray; ray.init('auto'); print(flush=True); input()")
    assert program.stdout is not None
    assert program.stdout.readline() == "\n"
    assert f"Its logs stay in {session}/logs" in shell.ok("stop")
    program.communicate("\n", timeout=DEADLINE_S)
    assert (session / "logs" / "head.log").exists(), "errors of the driver that was left behind name it"
    shell.ok("start", "--head", "--num-cpus", "1")
    assert "logs" not in shell.ok("stop")
    assert shell.sessions() == [session]


def test_block_stays_until_it_is_told_to_go(shell: Shell) -> None:
    blocked = shell.open("-m", "beamlet", "start", "--head", "--num-cpus", "1", "--block")
    wait_until(lambda: "is there" if "Idle" in shell.run("status").stdout else "", "the cluster to be there")
    head = shell.head_pid()
    blocked.send_signal(signal.SIGINT)
    out, _ = blocked.communicate(timeout=DEADLINE_S)
    assert blocked.returncode == 0
    assert "Stopping" in out
    assert process_is_gone(head)
    assert not shell.sessions()


def test_block_fails_when_the_head_does(shell: Shell) -> None:
    blocked = shell.open("-m", "beamlet", "start", "--head", "--num-cpus", "1", "--block")
    wait_until(lambda: "is there" if "Idle" in shell.run("status").stdout else "", "the cluster to be there")
    (session,) = shell.sessions()
    os.kill(shell.head_pid(), signal.SIGKILL)
    _, err = blocked.communicate(timeout=DEADLINE_S)
    assert blocked.returncode == 1
    assert "the cluster has ended" in err
    wait_until(lambda: not processes_of(session.name), "nothing of the session to be left")


def test_status_of_a_programs_own_cluster_says_what_waits_and_why(shell: Shell) -> None:
    program = shell.open("-c", WAITS)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    status = shell.ok("status", "-v")
    assert "1.0/1.0 CPU" in status
    assert re.search(r"\{'CPU': 1\}: \d\+ pending tasks/actors\n   because ", status)
    assert "Holder 'the-holder'" in status
    assert "ALIVE" in status
    assert "1 started by running programs" in shell.ok("stop"), (
        "a program's own cluster is not stopped unasked"
    )
    assert program.poll() is None
    program.communicate("\n", timeout=DEADLINE_S)


def test_stop_all_ends_programs_clusters_too(shell: Shell) -> None:
    program = shell.open("-c", WAITS)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    (session,) = shell.sessions()
    shell.ok("stop", "--all")
    program.communicate("\n", timeout=DEADLINE_S)
    wait_until(lambda: not processes_of(session.name), "nothing of the session to be left")


def test_colours_are_for_terminals(shell: Shell) -> None:
    shell.ok("start", "--head", "--num-cpus", "1")
    seen = on_a_terminal(shell, "status")
    assert "\x1b[1m" in seen
    shell.env["NO_COLOR"] = "1"
    assert "\x1b" not in on_a_terminal(shell, "status")


def on_a_terminal(shell: Shell, *args: str) -> str:
    """What the command writes to a terminal."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "beamlet", *args], env={**shell.env, "TERM": "xterm"}, stdout=theirs
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:
        pass  # how Linux says that the other end is closed
    finally:
        os.close(ours)
    assert process.wait(DEADLINE_S) == 0
    return seen.decode()


def test_timeline_writes_a_trace(shell: Shell, tmp_path: Path) -> None:
    shell.ok("start", "--head", "--num-cpus", "1")
    said = shell.ok("timeline", "--output", str(tmp_path / "trace.json"))
    assert str(tmp_path / "trace.json") in said
    assert isinstance(json.loads((tmp_path / "trace.json").read_text()), list)


def test_microbenchmark_prints_rays_lines(shell: Shell) -> None:
    shell.ok("start", "--head", "--num-cpus", "1")  # it measures a cluster of its own, beside this one
    lines = shell.ok("microbenchmark", "--quick", "--num-cpus", "1", "--only", "sync").splitlines()
    assert len(lines) >= 6
    for line in lines:
        assert re.fullmatch(r"[^ ].* per second \d+\.\d\d \+- \d+\.\d\d", line)
