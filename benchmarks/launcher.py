"""Runs one workload in a process of its own, within a deadline, and sees to it that nothing is left.

It gives the process its environment, reads its answer, and notes what it left behind: processes that
still live a few seconds after the driver has ended are named in the result, then killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.catalog import Workload
from benchmarks.cluster_processes import descendants, title

ROOT = Path(__file__).resolve().parent.parent
LEAVE_S = 5.0
POLL_S = 0.05
OUTPUT_TAIL_BYTES = 4000

#: Would lead a driver to other code, or to a cluster that is running already.
NOT_PASSED_ON = ("PYTHONPATH", "RAY_ADDRESS", "BEAMLET_ADDRESS")


@dataclass(frozen=True, slots=True)
class Run:
    """What came of running one workload once."""

    workload: str
    implementation: str
    samples: Mapping[str, Sequence[float]]
    #: Why there are no samples, in one line, and what the process had to say about it; empty when there are.
    failure: str = ""
    detail: str = ""
    version: str = ""
    #: Command lines of processes that outlived the driver by five seconds.
    left_behind: Sequence[str] = field(default_factory=tuple)
    took_s: float = 0.0


def run(workload: Workload, implementation: str, python: Path, seconds: float) -> Run:
    """Run `workload` with the interpreter `python`; blocks until its processes are gone.

    The caller must have adopted orphans, and may have no other descendants: all of them are ended here.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "answer.json", Path(folder) / "output.log"
        command = [str(python), "-m", "benchmarks.child", "--implementation", implementation]
        command += ["--workload", workload.name, "--seconds", str(seconds), "--out", str(out)]
        in_time = False
        try:
            process = _start(command, environment(implementation), log)
            in_time = _wait(process, workload.deadline_s)
        finally:  # Ctrl-C must not leave a cluster running either
            left_behind = _sweep(LEAVE_S if in_time else 0.0)
        answer = _read_answer(out, log, process.returncode, None if in_time else workload.deadline_s)
    return Run(
        workload.name,
        implementation,
        answer.get("samples", {}),
        answer.get("failure", ""),
        answer.get("detail", ""),
        answer.get("version", ""),
        left_behind if in_time else (),
        time.monotonic() - started,
    )


def environment(implementation: str) -> dict[str, str]:
    """Our own environment; Beamlet from this checkout, Ray without calling home."""
    variables = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    # A loop of tiny calls is what is measured; nobody needs the advice against it.
    variables["BEAMLET_ADVICE"] = "0"
    if implementation == "beamlet" and (ROOT / "src").is_dir():
        variables["PYTHONPATH"] = str(ROOT / "src")
    variables["RAY_USAGE_STATS_ENABLED"] = "0"
    return variables


def _start(command: Sequence[str], variables: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT)


def _wait(process: subprocess.Popen[bytes], deadline_s: float) -> bool:
    """Whether the driver ended by itself within its deadline; it has ended in any case."""
    try:
        process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def _sweep(patience_s: float) -> tuple[str, ...]:
    """Wait for all our descendants to end; name and kill those that have not after `patience_s`."""
    end = time.monotonic() + patience_s
    while (alive := _living()) and time.monotonic() < end:
        time.sleep(POLL_S)
    named = tuple(title(pid) for pid in alive)
    while alive := _living():
        for pid in alive:
            _kill(pid)
        time.sleep(POLL_S)
    return named


def _living() -> list[int]:
    """Our living descendants, after those that have ended were reaped."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return []
    return descendants(os.getpid())


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _read_answer(out: Path, log: Path, code: int, deadline_s: float | None) -> dict[str, Any]:
    """What the child has written; a failure and the end of its output when it has written nothing.

    deadline_s: the deadline that it has missed; None: it ended in time.
    """
    if deadline_s is not None:
        return {"failure": f"gave up after {deadline_s:.0f} s", "detail": _tail(log)}
    if not out.exists():
        return {"failure": f"ended with code {code} and without an answer", "detail": _tail(log)}
    return dict(json.loads(out.read_text()))


def _tail(log: Path) -> str:
    return log.read_bytes()[-OUTPUT_TAIL_BYTES:].decode(errors="replace")
