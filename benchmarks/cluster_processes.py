"""Which processes a cluster under test consists of, and what memory they use, read from /proc.

Both implementations are counted alike: the runner adopts orphans (`PR_SET_CHILD_SUBREAPER`) and runs one
workload at a time, so everything that descends from the runner, itself left out, belongs to the workload:
the driver, whatever it started, and whatever detached itself from it.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
SETTLE_POLL_S = 0.5
SETTLE_LIMIT_S = 20.0


def adopt_orphans() -> None:
    """Make processes whose parent dies children of this one, so that none escapes being counted."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) was refused")


def descendants(root: int) -> list[int]:
    """The living processes below `root`, parents before children; `root` itself is not among them."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (parent := _living_parent(int(entry))) is not None:
            children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    queue = [root]
    while queue:
        below = sorted(children.get(queue.pop(0), ()))
        found.extend(below)
        queue.extend(below)
    return found


def pss_bytes(pids: Iterable[int]) -> int:
    """Proportional set size in all: every page once, shared ones divided among those who map them."""
    return sum(_rollup(pid).get("Pss", 0) for pid in pids)


def unique_bytes(pid: int) -> int:
    """The pages that only `pid` maps: what would be free again if it ended."""
    fields = _rollup(pid)
    return fields.get("Private_Clean", 0) + fields.get("Private_Dirty", 0) + fields.get("Private_Hugetlb", 0)


def title(pid: int) -> str:
    """What `ps` would show for `pid`, shortened."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except (FileNotFoundError, ProcessLookupError):
        return "(ended)"
    return words.decode(errors="replace").strip()[:80]


def settled(read: Callable[[], float], tolerance: float = 0.01) -> float:
    """Read a figure until three readings in a row agree within `tolerance`; the last one.

    Raises TimeoutError when it still moves after 20 seconds.
    """
    readings = [read()]
    end = time.monotonic() + SETTLE_LIMIT_S
    while time.monotonic() < end:
        time.sleep(SETTLE_POLL_S)
        readings = [*readings[-2:], read()]
        if len(readings) == 3 and max(readings) - min(readings) <= tolerance * max(readings):
            return readings[-1]
    raise TimeoutError(f"memory did not settle within {SETTLE_LIMIT_S:.0f} s; last readings: {readings}")


def _living_parent(pid: int) -> int | None:
    """The parent of `pid`; None when it has ended or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent = stat.rpartition(")")[2].split()[:2]  # the name before ")" may hold anything
    return None if state in "ZX" else int(parent)


def _rollup(pid: int) -> dict[str, int]:
    """The fields of smaps_rollup in bytes; empty when the process has ended meanwhile."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}
