"""A program and all that it starts, seen from outside: found by a mark in the environment, in /proc alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from support.leaks import shared_memory

MARK = "CHAOS_MARK"


class Found(NamedTuple):
    pid: int
    parent: int
    #: Its title, or the command that it was started with.
    command: str

    @property
    def is_worker(self) -> bool:
        return self.command.startswith("beamlet::") and not self.is_factory

    @property
    def is_factory(self) -> bool:
        return self.command == "beamlet::factory"

    @property
    def is_head(self) -> bool:
        return "beamlet.head" in self.command and not self.command.startswith("beamlet::")


class Marked:
    """Programs run with ``environment`` and their sessions below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mark = str(root)
        self._shared_memory = shared_memory()

    def environment(self, **extra: str) -> dict[str, str]:
        return {**os.environ, MARK: self.mark, "BEAMLET_TMPDIR": str(self.root), **extra}

    def processes(self) -> list[Found]:
        """All that live, but for zombies: those are their parents' affair."""
        wanted = f"{MARK}={self.mark}".encode()
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            with contextlib.suppress(OSError):  # gone meanwhile
                if wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    command = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                    state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
                    if state != "Z":
                        found.append(Found(int(name), int(parent), command))
        return found

    def below(self, pid: int) -> list[Found]:
        everyone, found = self.processes(), [pid]
        for each in found:
            found += [other.pid for other in everyone if other.parent == each]
        return [other for other in everyone if other.pid in found[1:]]

    def left(self, secrets: bool = True) -> list[str]:
        """What should not be there any more, a line each."""
        files = [Path(folder, name) for folder, _, names in os.walk(self.root) for name in names]
        lines = [
            f"process {each.pid} (parent {each.parent}): {each.command[:100]}" for each in self.processes()
        ]
        lines += [f"socket {path}" for path in files if path.suffix == ".sock"]
        lines += [f"secret {path}" for path in files if path.name == "secret" and secrets]
        lines += [f"/dev/shm/{name}" for name in sorted(shared_memory() - self._shared_memory)]
        return lines

    def expect_nothing_left(self, within_s: float, after: str, secrets: bool = True) -> float:
        """Fails, naming it, if anything is left after ``within_s``. Returns how long it took."""
        started = time.monotonic()
        while left := self.left(secrets):
            if time.monotonic() - started > within_s:
                pytest.fail(f"{within_s:g} s after {after} there is still:\n  " + "\n  ".join(left))
            time.sleep(0.01)
        return time.monotonic() - started

    def kill_everything(self) -> None:
        for each in self.processes():
            kill(each.pid)


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def ended(program: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """The program ends with the block, whatever happens in it."""
    try:
        yield program
    finally:
        program.kill()
        program.wait()
        for stream in (program.stdin, program.stdout, program.stderr):
            if stream is not None:
                stream.close()
