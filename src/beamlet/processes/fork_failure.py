"""Why a fork failed: the limits that could have refused it, read where the kernel keeps them."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from beamlet.processes.host import cgroup_directories


def explain_fork_failure(error: OSError, root: Path = Path("/")) -> str:
    """What happened, the limits in force, and what to do. ``root``: where proc and sys are, for tests."""
    limits = "; ".join(_process_limits(root) if error.errno == errno.EAGAIN else _memory_limits(root))
    advice = {
        errno.EAGAIN: "The number of processes and threads is at a limit: raise the one that is reached, or "
        "ask for fewer workers (fewer actors, num_cpus in init).",
        errno.ENOMEM: "The system would not promise the memory for another process: use fewer workers, or "
        "raise the memory limit (or vm.overcommit_memory).",
    }.get(error.errno or 0, "This is not a limit Beamlet knows; the system's log may say more.")
    return f"fork failed: {error.strerror} (errno {error.errno}). {advice} Limits: {limits or 'none found'}."


def explain_no_descriptors(what_for: str, error: OSError) -> str:
    """Why a process without connection or output was not forked, and what to do."""
    text = f"no descriptors for {what_for}: {error.strerror}"
    if error.errno == errno.EMFILE:  # we have raised it as far as we may: see host.py
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        text += (
            f". The head may have {limit} open (ulimit -n), some for each worker: raise that where the "
            "cluster is started, or ask for fewer workers (fewer actors, num_cpus in init)"
        )
    return text


def _process_limits(root: Path) -> Iterator[str]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY:
        most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
        yield f"ulimit -u {soft} for all processes of uid {os.getuid()} (can be raised to {most})"
    for directory in cgroup_directories(root, "pids"):
        most = _read(directory / "pids.max")
        if most and most != "max":
            yield f"pids.max {most} in {directory}, of which {_read(directory / 'pids.current')} are used"
    for name in ("pid_max", "threads-max"):
        if value := _read(root / "proc/sys/kernel" / name):
            yield f"kernel.{name} {value}"


def _memory_limits(root: Path) -> Iterator[str]:
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name in ("MemAvailable", "CommitLimit", "Committed_AS"):
            yield f"{name} {value.strip()}"
    if mode := _read(root / "proc/sys/vm/overcommit_memory"):
        yield f"vm.overcommit_memory {mode}"
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield f"ulimit -v {soft // 1024} KiB"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
