"""What a test left behind: processes, shared memory, file descriptors."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

#: How long what a test started may take to be gone after the test; a leak is what is still there then.
SETTLE_S = 5.0


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
