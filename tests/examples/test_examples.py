"""Every program in examples/ runs as a user runs it, prints what it should, and leaves no process behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
RUN_MARK = "BEAMLET_EXAMPLE_RUN"

#: What each program must have printed: patterns, each found in a line of its own, in this order.
EXPECTED: dict[str, list[str]] = {
    "quickstart.py": [
        r"first task: 7² = 49 +\d",
        r"squares sum to 332833500 +[\d.]+ ms",
        r"one after another: counter at 1000 +[\d.]+ ms",
        r"all at once: counter at 2000 +[\d.]+ ms",
        r"put an array of 32 MB",
        r"sum their parts of it: 7999998000000 ",
        r"shut down; no process is left +[\d.]+ ms",
    ],
    "monte_carlo_pi.py": [
        r"8 tasks draw 20,000,000 points",
        r"pi is about 3\.14\d+, off by 0\.00",
        r"from 8 tasks in",
    ],
    "parameter_server.py": [
        r"2 workers with 4000 pictures",
        r"^synchronous SGD: accuracy \d+\.\d% -> [89]\d\.\d%",
        r"^asynchronous SGD: accuracy \d+\.\d% -> [89]\d\.\d%",
    ],
    "word_count.py": [
        r"160 files",
        r"\d,\d{3}  self",
        r"same counts as in one process: True",
        r"map-reduce \d",
    ],
    "tree_reduction.py": [
        r"chain: 63 products, 63 steps",
        r"tree: 63 products,  6 steps",
        r"agree: True",
        r"still: True",
    ],
    "simulator_pool.py": [
        r"0\.10 +80%",
        r"16 scenarios on [23] simulators",
        r"worst: infection rate 0\.1, 0% vaccinated",
    ],
    "cartpole.py": [
        r"generation  0",
        r"mean reward [1-9]\d\.\d -> (1[5-9]\d|[2-5]\d\d)\.\d in",
        r"environment steps",
    ],
    "web_pipeline.py": [
        r"answered 400 requests",
        r"status 200: 385, 404: 15$",
        r"never more than 16 in flight \(limit 16\)",
        r"cache: 335 hits, 50 misses",
        r"latency: median",
    ],
    "actors_and_cpus.py": [
        r"CPUs in the cluster: 8, free: 8",
        r"free CPUs with 4 actors alive: 0",
        r"waits: True",
        r"starts: counter-4",
        r"3 tasks started 12 calls in .* largest value 6",
        r"counts: counter-0=6 counter-1=6 counter-2=6 counter-4=6",
        r"out of scope: 8",
    ],
}


def processes_of_run(mark: str) -> list[psutil.Process]:
    """Living processes that carry this run's mark in their environment, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(RUN_MARK) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


def test_every_example_is_in_the_readme() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    assert [name for name in EXPECTED if f"]({name})" not in readme] == []


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name: str) -> None:
    if name == "cartpole.py":
        pytest.importorskip("gymnasium")
    mark = uuid.uuid4().hex
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    if os.environ.get("CONFORMANCE_IMPL") == "ray":
        path = str(ROOT / "tests" / "process" / "against_ray")
    environment = {**os.environ, "PYTHONPATH": path, RUN_MARK: mark, "PYTHONUNBUFFERED": "1"}
    try:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / name)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=75,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        lines = iter(done.stdout.splitlines())
        for pattern in EXPECTED[name]:
            assert any(re.search(pattern, line) for line in lines), f"no line has {pattern!r}:\n{done.stdout}"
        deadline = time.monotonic() + 5
        while processes_of_run(mark) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert processes_of_run(mark) == []
    finally:
        for process in processes_of_run(mark):
            process.kill()
