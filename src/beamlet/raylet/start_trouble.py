"""When the node cannot start worker processes: when to try again, and who has waited long enough. ●

Limits on processes, descriptors and memory are often reached for a moment only, and by our own idle workers.
So one failure refuses nobody: tries follow each other at growing distances, one process at a time, until one
succeeds; only those who have waited ``PATIENCE_S`` of the trouble are told.  Tasks that have workers of their
own kind get on without a further one, and are told after ``LONG_PATIENCE_S``.
"""

from __future__ import annotations

#: A limit that is reached for so long is not reached for a moment.
PATIENCE_S = 5.0
LONG_PATIENCE_S = 60.0
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 2.0
_NEVER = float("-inf")


class StartTrouble:
    def __init__(self) -> None:
        #: Rounds of failures since the last success.
        self._rounds = 0
        self._since = 0.0
        self._reason = ""
        #: Nothing is to be started before.
        self.again_at = _NEVER

    def __bool__(self) -> bool:
        return self._rounds > 0

    def failed(self, reason: str, now: float) -> None:
        """A process could not be started. What was asked for in one go, and fails together, counts once."""
        self._reason = reason
        if now < self.again_at:
            return
        if not self._rounds:
            self._since = now
        self.again_at = now + min(_FIRST_RETRY_S * 2**self._rounds, _LAST_RETRY_S)
        self._rounds += 1

    def eased(self, now: float) -> None:
        """A process has ended: perhaps there is room now."""
        if self._rounds:
            self.again_at = now

    def over(self) -> None:
        self._rounds, self.again_at = 0, _NEVER

    def waited_enough(self, since: float, has_others: bool, now: float) -> bool:
        """Whether who waits ``since`` is to be told; ``has_others``: workers like the one it wants."""
        patience_s = LONG_PATIENCE_S if has_others else PATIENCE_S
        return self._rounds > 0 and now - max(since, self._since) >= patience_s

    def describe(self, now: float) -> str:
        return (
            f"no worker process could be started for {now - self._since:.0f} s "
            f"({self._rounds} times in a row); last: {self._reason}"
        )
