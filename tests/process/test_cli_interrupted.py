"""`beamlet start` and `stop` interrupted or killed at chosen moments: never a cluster that nobody finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conformance import DEADLINE_S, beamlet_only, environment, start_script, wait_until

from support.marked import Marked

pytestmark = beamlet_only

#: MOMENT before|after SIGNALS: sends itself these when it gets to MOMENT, and again when it ends its head.
STRUCK = """
import importlib, os, subprocess, sys
from beamlet.cli import main, start

moment, when, numbers = sys.argv[1:4]

def strike():
    for number in numbers.split(","):
        os.kill(os.getpid(), int(number))

def strike_at(place, when):
    module, name = place.split(":")
    module = importlib.import_module(module)
    *outer, name = name.split(".")
    for each in outer:
        module = getattr(module, each)
    real = getattr(module, name)
    def struck(*args, **kwargs):
        if when == "before":
            strike()
        returned = real(*args, **kwargs)
        if when == "after":
            strike()
        return returned
    setattr(module, name, struck)

strike_at(moment, when)
strike_at("beamlet.cli.start:stop_head", "before")
sys.exit(main.main(sys.argv[4:]))
"""
START = ("start", "--head", "--num-cpus", "1", "--object-store-memory", "80000000")
#: In their order.
MOMENTS = [
    "beamlet.cli.start:find_current before",
    "beamlet.cli.start:new_session after",
    "beamlet.cli.start:head_options after",
    "subprocess:_fork_exec after",
    "beamlet.cli.start:start_head after",
    "beamlet.cli.start:await_head before",
    "beamlet.cli.start:await_head after",
    "beamlet.cli.start:let_go after",
    "beamlet.cli.start:banner before",
    "beamlet.cli.start:banner after",
]


class Commands:
    """`beamlet …` with sessions of its own."""

    def __init__(self, tmp_path: Path) -> None:
        self.marked = Marked(tmp_path / "root")
        self.struck = tmp_path / "struck.py"
        self.struck.write_text(STRUCK)

    def run(self, *args: str, starts: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *args],
            env=environment(**self.marked.environment()),
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE_S,
            preexec_fn=starts,
            check=False,
        )

    def beamlet(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "beamlet", *args)

    def struck_at(
        self, moment: str, *numbers: int, args: tuple[str, ...] = START
    ) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.struck), *moment.split(), ",".join(str(int(n)) for n in numbers), *args)

    def heads(self) -> list[int]:
        return [each.pid for each in self.marked.processes() if each.is_head]

    def sessions(self) -> list[Path]:
        return list(self.marked.root.glob("beamlet-*/session_2*"))


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    yield commands
    commands.marked.kill_everything()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    "numbers", [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)]
)
def test_a_start_that_is_interrupted_leaves_nothing(
    commands: Commands, moment: str, numbers: tuple[int, ...]
) -> None:
    """And once more while it ends what it began. A head that nobody found was left."""
    done = commands.struck_at(moment, *numbers)
    assert done.returncode in [128 + each for each in numbers], done.stderr
    assert "Traceback" not in done.stderr
    assert not commands.marked.left()
    assert not commands.sessions()


def test_a_start_is_interrupted_while_it_waits_for_its_head(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(
        "import os, signal, sys\nfrom beamlet.cli import main, start\nreal = start.start_head\n"
        "def starts(*args):\n    head = real(*args)\n    os.kill(head.process.pid, signal.SIGSTOP)\n"
        "    print('stopped', flush=True)\n    return head\n"
        "start.start_head = starts\nsys.exit(main.main(sys.argv[1:]))\n"
    )
    with start_script(tmp_path / "p.py", *START, **commands.marked.environment()) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "stopped\n"
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=DEADLINE_S)
    assert (program.returncode, errors) == (130, "")
    assert not commands.marked.left()
    assert not commands.sessions()


def test_a_signal_that_is_ignored_interrupts_nothing(commands: Commands) -> None:
    """`nohup beamlet start --head`."""
    args = (str(commands.struck), "beamlet.cli.start:await_head", "before", str(int(signal.SIGHUP)), *START)
    done = commands.run(*args, starts=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN) and None)
    assert done.returncode == 0, done.stderr
    assert "Stopped" in commands.beamlet("stop").stdout
    assert not commands.marked.left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_too_late_interrupts_nothing(commands: Commands, number: signal.Signals) -> None:
    """The cluster is there and that was said; the interpreter, which takes its time to end, died of it."""
    commands.struck.write_text(f"import atexit\natexit.register(lambda: strike())\n{STRUCK}")
    done = commands.struck_at("beamlet.cli.start:_announce after", number)
    assert done.returncode == 0, done.stderr
    assert "Stopped" in commands.beamlet("stop").stdout
    assert not commands.marked.left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_start_that_stays_ends_its_cluster_also_if_it_is_told_twice(
    commands: Commands, number: signal.Signals
) -> None:
    done = commands.struck_at("subprocess:Popen.wait before", number, args=(*START, "--block"))
    assert done.returncode == (0 if number is signal.SIGINT else 128 + number), done.stderr
    assert "Traceback" not in done.stderr
    assert not commands.marked.left()
    assert not commands.sessions()


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_a_start_that_was_killed_leaves_is_found_or_ends(commands: Commands, moment: str) -> None:
    """By the next `start`, at once: two clusters never are, of which one is not announced."""
    assert commands.struck_at(moment, signal.SIGKILL).returncode == -signal.SIGKILL
    second = commands.beamlet(*START)
    assert second.returncode == 0 or "a cluster is running already" in second.stderr, second.stderr
    wait_until(lambda: len(commands.heads()) == 1 and "one", "one head to be there")
    assert "Stopped" in commands.beamlet("stop").stdout
    assert commands.beamlet("stop").returncode == 0
    assert not commands.marked.left()


def test_output_that_cannot_be_written_is_an_error_that_leaves_nothing(commands: Commands) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "beamlet", *START],
            env=environment(**commands.marked.environment()),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=2 * DEADLINE_S,
            check=False,
        )
    assert done.returncode != 0
    assert "No space left on device" in done.stderr
    assert not commands.marked.left()


def test_a_start_whose_output_nobody_reads_stays_all_the_same(commands: Commands) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        [sys.executable, "-m", "beamlet", *START, "--block"],
        env=environment(**commands.marked.environment()),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    ) as blocked:
        os.close(writer)
        wait_until(
            lambda: "is there" if commands.beamlet("status").returncode == 0 else "", "a cluster to be there"
        )
        assert blocked.poll() is None
        blocked.terminate()
        assert blocked.communicate(timeout=DEADLINE_S)[1] == ""
    assert blocked.returncode == 128 + signal.SIGTERM
    assert not commands.marked.left()


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_stop_that_is_interrupted_half_way(
    commands: Commands, when: str, number: signal.Signals, force: tuple[str, ...]
) -> None:
    """Its head is told by then, and ends by itself, or its factory cleans up after it."""
    assert commands.beamlet(*START).returncode == 0
    commands.struck_at(f"beamlet.cli.stop:_ends {when}", number, args=("stop", *force))
    commands.marked.expect_nothing_left(DEADLINE_S, "beamlet stop was interrupted")
    assert "No cluster" in commands.beamlet("stop").stdout
