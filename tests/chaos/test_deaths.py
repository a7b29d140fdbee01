"""kill -9 of any process at any moment, under load: nothing is left behind, no retriable task is lost.

Short here; `CHAOS_MOMENTS=50 pytest -m chaos tests/chaos` is the long form. A failure prints the seed:
`CHAOS_SEED=… CHAOS_MOMENTS=…` repeats its moments (what runs at them is up to the machine).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.marked import Found, Marked, ended, kill
from support.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]

MOMENTS = int(os.environ.get("CHAOS_MOMENTS", "8"))
SEED = int(os.environ.get("CHAOS_SEED", "20261121"))
LOAD = Path(__file__).with_name("load.py")
SOURCE = Path(__file__).resolve().parents[2] / "src"
#: In which everything of a dead session must be gone. Twice what is promised: tests share their machine.
GONE_S = 4.0
#: Killing begins with the program's start, so that beginnings are hit as well.
LATEST_S = 1.2

Pick = Callable[[Found], bool]


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[Marked]:
    marked = Marked(tmp_path / "root")
    yield marked
    marked.kill_everything()


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> random.Random:
    print(f"CHAOS_SEED={SEED} CHAOS_MOMENTS={MOMENTS}")
    return random.Random(f"{SEED} {request.node.name}")


def start(marked: Marked, end: str) -> subprocess.Popen[str]:
    marked.root.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(LOAD), end],
        env=marked.environment(
            PYTHONPATH=str(SOURCE), CHAOS_EFFECTS=str(marked.root / "effects"), OPENBLAS_NUM_THREADS="1"
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_ready(program: subprocess.Popen[str]) -> None:
    assert program.stdout is not None
    for line in program.stdout:
        if line == "ready\n":
            return
    pytest.fail(f"the program ended before it was ready: {program.communicate()[1]}")


def some(
    program: subprocess.Popen[str], marked: Marked, chance: random.Random, pick: Pick, what: str
) -> Found:
    """One of the processes that are ``what``, as soon as there is one."""
    found: list[Found] = []

    def look() -> bool:
        if program.poll() is not None:
            pytest.fail(f"the program ended before there was a {what}: {program.communicate()}")
        found[:] = sorted(each for each in marked.processes() if pick(each))
        return bool(found)

    wait_until(look, 20.0, f"{what} to appear")
    return chance.choice(found)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_the_driver_is_killed(marked: Marked, moments: random.Random, number: signal.Signals) -> None:
    slowest = 0.0
    for _ in range(MOMENTS if number == signal.SIGKILL else max(2, MOMENTS // 3)):
        delay = moments.uniform(0.0 if number == signal.SIGKILL else 0.1, LATEST_S)
        with ended(start(marked, "killed")) as program:
            if number != signal.SIGKILL:
                await_ready(program)  # before that, Python itself may die of the signal in an import
            time.sleep(delay)
            program.send_signal(number)
            sent = time.monotonic()
            program.communicate(timeout=20.0)
            marked.expect_nothing_left(GONE_S, f"{number.name} at {delay:.3f} s")
            slowest = max(slowest, time.monotonic() - sent)
    print(f"from {number.name} to nothing left: {slowest:.2f} s at most")
    assert slowest < GONE_S


@pytest.mark.parametrize(
    ("end", "code"), [("sys.exit", 3), ("os._exit", 4), ("exception", 1), ("falls off", 0)]
)
def test_the_driver_ends_with_work_under_way(marked: Marked, end: str, code: int) -> None:
    with ended(start(marked, end)) as program:
        _, errors = program.communicate(timeout=30.0)
        assert program.returncode == code, errors
        marked.expect_nothing_left(GONE_S, end)


@pytest.mark.parametrize("victims", ["head", "factory", "head and factory"])
def test_the_cluster_is_killed_under_its_driver(marked: Marked, moments: random.Random, victims: str) -> None:
    picks: dict[str, Pick] = {"head": lambda p: p.is_head, "factory": lambda p: p.is_factory}
    for _ in range(MOMENTS if " " not in victims else max(2, MOMENTS // 2)):
        delay = moments.uniform(0.0, LATEST_S)
        with ended(start(marked, "killed")) as program:
            time.sleep(delay)
            for each in [
                some(program, marked, moments, picks[name], name) for name in victims.split(" and ")
            ]:
                kill(each.pid)
            killed = time.monotonic()
            out, errors = program.communicate(timeout=30.0)
            assert "recovered\n" in out, f"{victims} killed at {delay:.3f} s\n{out}\n{errors}"
            assert time.monotonic() - killed < 15.0, "the driver took too long to notice and go on"
            marked.expect_nothing_left(GONE_S, f"{victims} killed at {delay:.3f} s")
    assert len(list(marked.root.glob("*/session_2*"))) <= 12, "directories of dead sessions pile up"


def is_actor(process: Found) -> bool:
    return process.command in ("beamlet::Steady", "beamlet::Brittle")


@pytest.mark.parametrize("what", ["worker", "actor"])
def test_workers_are_killed_and_no_task_is_lost(marked: Marked, moments: random.Random, what: str) -> None:
    pick: Pick = is_actor if what == "actor" else lambda p: p.is_worker
    with ended(start(marked, "serve")) as program:
        await_ready(program)
        assert program.stdin is not None
        for _ in range(2 * MOMENTS):
            time.sleep(moments.uniform(0.0, 0.15))
            victim = some(program, marked, moments, pick, what)
            below = {each.pid for each in marked.below(victim.pid)}
            kill(victim.pid)
            wait_until(
                lambda: not below & {each.pid for each in marked.processes()},  # noqa: B023  used at once
                GONE_S,
                f"what {victim.command} had started to be gone with it",
            )
        out, errors = program.communicate("stop\n", timeout=90.0)
        reports = [line for line in out.splitlines() if line.startswith("REPORT ")]
        assert reports, f"{program.returncode}\n{out[-2000:]}\n{errors[-4000:]}"
        report = json.loads(reports[0].removeprefix("REPORT "))
        print(report["counts"])
        assert not report["failures"], "\n".join(report["failures"][:10])
        expect_every_side_effect(marked.root / "effects", report["last"])
        marked.expect_nothing_left(GONE_S, "the end")


def expect_every_side_effect(effects: Path, last: int) -> None:
    """At least once: what was killed may have run before."""
    times = Counter(effects.read_text().splitlines())
    for i in range(10, last + 1, 10):
        for what in (*(f"square {i + k}" for k in range(4)), f"increment {i}"):
            assert times[what] >= 1, f"{what} never ran"


def test_driver_and_head_killed_together_leave_no_process(marked: Marked, moments: random.Random) -> None:
    for _ in range(max(2, MOMENTS // 2)):
        delay = moments.uniform(0.0, LATEST_S)
        with ended(start(marked, "killed")) as program:
            time.sleep(delay)
            head = some(program, marked, moments, lambda p: p.is_head, "head")
            program.kill()
            kill(head.pid)
            program.communicate(timeout=20.0)
            # Before the factory was forked nobody is left to remove the secret: the next start does that.
            after = f"driver and head killed at {delay:.3f} s"
            marked.expect_nothing_left(GONE_S, after, secrets=False)


def test_what_nobody_was_left_to_clean_up_goes_with_the_next_start(
    marked: Marked, moments: random.Random
) -> None:
    """Driver, head and factory at once: the workers die with them; a session of the user's own may not."""
    with ended(start(marked, "killed")) as program:
        await_ready(program)
        some(program, marked, moments, lambda p: p.command == "sleep 1000", "a task's child")
        for each in [*filter(lambda p: p.is_head or p.is_factory, marked.processes())]:
            kill(each.pid)
        program.kill()
        program.communicate(timeout=20.0)
    with ended(start(marked, "falls off")) as program:
        program.communicate(timeout=30.0)
        marked.expect_nothing_left(GONE_S, "the next start")
