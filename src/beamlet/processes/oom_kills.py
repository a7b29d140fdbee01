"""Whether the kernel's out-of-memory killer struck: it sends a plain SIGKILL, and only counters tell.

Counted by our control group (v2: memory.events, v1: memory.oom_control); where neither can be read, by the
machine (/proc/vmstat), which counts the victims of other containers too.
"""

from __future__ import annotations

from pathlib import Path

from beamlet.processes.host import cgroup_directories

#: Several may be killed at once, and are reported one by one; what nobody claims by then was another's.
_CLAIM_S = 2.0


class OomKills:
    def __init__(self, root: Path = Path("/")) -> None:
        groups = list(cgroup_directories(root, "memory"))
        files = [group / name for group in groups[:1] for name in ("memory.events", "memory.oom_control")]
        self._files = [*files, root / "proc/vmstat"]
        self._seen = self._count()
        self._unclaimed = 0
        self._claim_until = 0.0

    def another_one(self, now: float) -> bool:
        """Whether a process of ours that got SIGKILL can be a victim that was not claimed before."""
        count = self._count()
        if now > self._claim_until:
            self._unclaimed = 0
        if count > self._seen:
            self._unclaimed += count - self._seen
            self._seen, self._claim_until = count, now + _CLAIM_S
        if not self._unclaimed:
            return False
        self._unclaimed -= 1
        return True

    def _count(self) -> int:
        for file in self._files:
            try:
                lines = file.read_text().splitlines()
            except OSError:
                continue
            for line in lines:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0
