"""The death certificate: what is known of how a process of ours ended."""

from __future__ import annotations

import signal as signals

import msgspec

#: A new worker exits with this when the system has no thread for it: it cannot begin.
NO_THREAD_EXIT = 71


class DeathCertificate(msgspec.Struct, array_like=True, frozen=True):
    """Kept in the GCS, carried by the error that the user sees.

    Exactly one of ``exit_code`` and ``signal`` is set, unless neither is known.
    ``killed_by`` is "" unless it was one of us, then it says who and why.
    """

    worker_id: bytes
    node_id: bytes
    pid: int
    exit_code: int | None = None
    signal: int | None = None
    killed_by: str = ""
    oom_kill: bool = False
    peak_rss_bytes: int = 0
    #: Age of the process, not of its last task.
    uptime_s: float = 0.0
    task_name: str = ""
    last_words: tuple[str, ...] = ()
    #: The task that ``cancel(force=True)`` ended with it; b"" otherwise.
    cancelled: bytes = b""

    @property
    def words_size(self) -> int:
        """Characters of its last words: nearly all that a certificate takes, where it has many."""
        return sum(map(len, self.last_words))

    def describe(self) -> str:
        """One sentence that names the cause, then the last words."""
        text = f"process {self.pid} {self._cause()}"
        if self.task_name:
            text += f" while running {self.task_name}"
        text += f" (the process was {self.uptime_s:.1f} s old"
        if self.peak_rss_bytes:
            text += f", peak memory {self.peak_rss_bytes / 2**20:.0f} MiB"
        text += ")"
        if self.last_words:
            text += ". Its last words on stderr:\n  " + "\n  ".join(self.last_words)
        return text

    def _cause(self) -> str:
        if self.killed_by:
            return f"was ended by beamlet ({self.killed_by})"
        if self.oom_kill:
            return "was killed by the kernel because memory ran out (OOM killer)"
        if self.signal is not None:
            try:
                name = signals.Signals(self.signal).name
            except ValueError:
                name = "unknown"
            if name in ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT"):
                return f"crashed in native code (signal {self.signal}, {name})"
            by_whom = "sent from outside beamlet"
            if name == "SIGKILL":
                by_whom += " (by a person, a batch system, or an OOM killer that we cannot see)"
            return f"was killed by signal {self.signal} ({name}) {by_whom}"
        if self.exit_code is not None:
            return f"exited with code {self.exit_code}"
        return "ended in a way that nobody saw"
