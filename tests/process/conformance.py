"""What the conformance tests share: who answers `import beamlet`, bounded waiting, a gate, and scripts.

The tests state the behaviour of the public API, one behaviour each. With CONFORMANCE_IMPL=ray they run
against real Ray, which shows that they ask for what Ray does; `beamlet_only` marks where Beamlet differs
on purpose.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import beamlet as ray

AGAINST_RAY = os.environ.get("CONFORMANCE_IMPL") == "ray"
ROOT = Path(__file__).resolve().parents[2]
IMPLEMENTATION = ROOT / "tests" / "process" / "against_ray" if AGAINST_RAY else ROOT / "src"

#: The longest that one answer may take: far above what it does take, so only a hang fails.
DEADLINE_S = 60.0 if AGAINST_RAY else 20.0

beamlet_only = pytest.mark.skipif(AGAINST_RAY, reason="Beamlet differs from Ray here on purpose")


def get(refs: Any, timeout: float = DEADLINE_S) -> Any:
    """`ray.get` that cannot hang the suite."""
    return ray.get(refs, timeout=timeout)


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """Look until the condition holds; return what it returned. Fails, naming `what`, after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:g} s in vain: {what}")
        time.sleep(0.01)
    return found


def process_is_gone(pid: int) -> bool:
    """True once the process has ended; an unreaped one counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def environment(**extra: str) -> dict[str, str]:
    """The environment of a user's process that can import the implementation under test.

    Starting says nothing in it, so that tests of what is printed see the rest alone.
    """
    path = os.pathsep.join([str(IMPLEMENTATION), *filter(None, [os.environ.get("CONFORMANCE_PATH", "")])])
    quiet = {"BEAMLET_LOGGER_LEVEL": "warning"}
    return {**os.environ, **quiet, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **extra}


def start_script(path: Path, *args: str, **extra: str) -> subprocess.Popen[str]:
    """Run a file as a user would: `python path`, from its own folder."""
    return subprocess.Popen(
        [sys.executable, str(path), *args],
        cwd=path.parent,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_script(path: Path, source: str, *args: str, timeout_s: float = DEADLINE_S, **extra: str) -> str:
    """Write a program to a file, run it, and return what it printed; it must succeed."""
    path.write_text("import beamlet as ray\n" + textwrap.dedent(source))
    process = start_script(path, *args, **extra)
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"script took more than {timeout_s:g} s\nstdout:\n{out}\nstderr:\n{err}")
    assert process.returncode == 0, f"script ended with {process.returncode}\nstdout:\n{out}\nstderr:\n{err}"
    return out
