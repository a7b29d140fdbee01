"""What tests of programs use: waiting for a condition, a signal between tasks, a program as a text.

Names Ray has in ``ray._common.test_utils``.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import beamlet


def wait_for_condition(
    condition_predictor: Callable[..., Any],
    timeout: float = 10,
    retry_interval_ms: float = 100,
    raise_exceptions: bool = False,
    **kwargs: Any,
) -> None:
    """Look until ``condition_predictor(**kwargs)`` is true.

    timeout: seconds. raise_exceptions: what it raises is raised, not counted as "not yet".
    Raises RuntimeError at the end of the time, with the last exception as its cause.
    """
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while True:
        try:
            if condition_predictor(**kwargs):
                return
        except Exception as error:
            if raise_exceptions:
                raise
            last = error
        if time.monotonic() > deadline:
            raise RuntimeError(_in_vain(condition_predictor, timeout, last)) from last
        time.sleep(retry_interval_ms / 1000)


async def async_wait_for_condition(
    condition_predictor: Callable[..., Any],
    timeout: float = 10,  # noqa: ASYNC109 — Ray's signature
    retry_interval_ms: float = 100,
    **kwargs: Any,
) -> None:
    """``wait_for_condition`` for coroutines; the condition may be one itself."""
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while True:
        try:
            found = condition_predictor(**kwargs)
            if await found if inspect.isawaitable(found) else found:
                return
        except Exception as error:
            last = error
        if time.monotonic() > deadline:
            raise RuntimeError(_in_vain(condition_predictor, timeout, last)) from last
        await asyncio.sleep(retry_interval_ms / 1000)


def _in_vain(condition: Callable[..., Any], timeout: float, last: Exception | None) -> str:
    name = getattr(condition, "__name__", repr(condition))
    raised = f" It raised {last!r} at last." if last is not None else ""
    return f"the condition {name} was not met within {timeout} s.{raised}"


def wait_for_pid_to_exit(pid: int, timeout: float = 20) -> None:
    """Until no process ``pid`` runs; one that is dead and not reaped counts as gone. Raises RuntimeError."""

    def gone() -> bool:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                return stat.read().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    gone.__name__ = f"process_{pid}_is_gone"
    wait_for_condition(gone, timeout, 20)


def run_string_as_driver(driver_script: str, env: dict[str, str] | None = None) -> str:
    """Run a program given as text in a process of its own; what it printed. Raises CalledProcessError."""
    done = subprocess.run(
        [sys.executable, "-c", driver_script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr)
    done.check_returncode()
    return done.stdout


@beamlet.remote(num_cpus=0)
class SignalActor:
    """A gate: ``wait()`` returns once somebody has called ``send()``."""

    def __init__(self) -> None:
        self._sent = asyncio.Event()
        self._waiters = 0

    async def send(self, clear: bool = False) -> None:
        """Let all pass who wait; clear: and close the gate again."""
        self._sent.set()
        if clear:
            self._sent.clear()

    async def wait(self, should_wait: bool = True) -> None:
        if not should_wait:
            return
        self._waiters += 1
        try:
            await self._sent.wait()
        finally:
            self._waiters -= 1

    async def cur_num_waiters(self) -> int:
        return self._waiters


@beamlet.remote(num_cpus=0)
class Semaphore:
    """As asyncio's, between tasks."""

    def __init__(self, value: int = 1) -> None:
        self._semaphore = asyncio.Semaphore(value)

    async def acquire(self) -> None:
        await self._semaphore.acquire()

    async def release(self) -> None:
        self._semaphore.release()

    async def locked(self) -> bool:
        return self._semaphore.locked()
