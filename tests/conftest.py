"""What every test gets: stacks when something hangs, and on request proof that nothing was left behind."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

#: How long what a test started may take to be gone after the test; a leak is what is still there then.
SETTLE_S = 5.0


# --- hangs --------------------------------------------------------------------------------------
# pytest's faulthandler_timeout dumps the stacks of all threads of this process; what it cannot show is what
# the processes below are doing, which is usually where a distributed hang sits.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    failed = call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception)
    if failed and (children := describe_processes(psutil.Process().children(recursive=True))):
        report.sections.append(("processes alive at the failure", children))
    return report  # type: ignore[return-value]


def describe_processes(processes: list[psutil.Process]) -> str:
    return "\n".join(filter(None, map(describe_process, processes)))


def describe_process(process: psutil.Process) -> str:
    """One line: who it is, what state the kernel has it in, and the kernel function it waits in."""
    try:
        waiting = Path(f"/proc/{process.pid}/wchan").read_text()
    except OSError:
        waiting = "?"
    try:
        with process.oneshot():
            command = " ".join(process.cmdline())[:100] or process.name()
            return f"pid={process.pid} parent={process.ppid()} {process.status()} in {waiting}: {command}"
    except psutil.NoSuchProcess:
        return ""


# --- leaks --------------------------------------------------------------------------------------


class Holdings(NamedTuple):
    """What a process and its children hold that outlives a forgetful test."""

    processes: dict[int, str]
    shared_memory: frozenset[str]
    descriptors: dict[int, str]

    @classmethod
    def now(cls) -> Holdings:
        children = psutil.Process().children(recursive=True)
        return cls({p.pid: describe_process(p) for p in children}, shared_memory(), descriptors())

    def beyond(self, before: Holdings) -> list[str]:
        """What is held now and was not held ``before``, one line each."""
        lines = [text for pid, text in self.processes.items() if pid not in before.processes and text]
        lines += [f"/dev/shm/{name}" for name in sorted(self.shared_memory - before.shared_memory)]
        lines += [f"fd {fd} → {to}" for fd, to in self.descriptors.items() if fd not in before.descriptors]
        return lines


def shared_memory() -> frozenset[str]:
    """Names in /dev/shm that are ours to lose (other programs of the machine use it, too)."""
    with contextlib.suppress(FileNotFoundError):
        return frozenset(name for name in os.listdir("/dev/shm") if "beamlet" in name)
    return frozenset()


def descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor of this very listing is already closed
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
    return found


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Poll ``condition`` until it holds; fail, naming ``what``, when ``timeout_s`` has passed."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s} s: {what}")
        time.sleep(0.01)


@contextlib.contextmanager
def leaving_nothing_behind(settle_s: float = SETTLE_S) -> Iterator[None]:
    """Fail if the block leaves processes, shared memory or file descriptors that were not there before."""
    before = Holdings.now()
    yield
    deadline = time.monotonic() + settle_s
    while leaked := Holdings.now().beyond(before):
        if time.monotonic() > deadline:
            pytest.fail(f"left behind after {settle_s} s:\n  " + "\n  ".join(leaked))
        time.sleep(0.01)


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Opt in per test: ``pytestmark = pytest.mark.usefixtures("no_leaks")`` or an argument."""
    with leaving_nothing_behind():
        yield


@pytest.fixture(scope="module")
def no_leaks_in_module() -> Iterator[None]:
    """For modules that share one cluster: checked once, after the cluster's fixture has shut it down."""
    with leaving_nothing_behind():
        yield


def pytest_configure() -> None:
    faulthandler.enable()
