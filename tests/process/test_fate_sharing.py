"""Dying together, without a factory: sweeps by a session's mark, and parents that are dead already."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from beamlet.processes.fate_sharing import descendants, die_with_parent, is_stopped, sweep, wake
from support.factories import DEADLINE_S, assert_all_gone, wait_for_exit

pytestmark = pytest.mark.usefixtures("no_leaks")


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
