"""A thread that may be started under a lock: ``start`` does not wait until it runs.

Python's own does, and its first steps may run a user's ``__del__`` (the garbage collector's doing),
which may want that lock.
"""

from __future__ import annotations

import threading


class PromptThread(threading.Thread):
    """To be joined only after it was started."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._started = _Unawaited()

    def join(self, timeout: float | None = None) -> None:
        threading.Event.wait(self._started, timeout)
        if self._started.is_set():
            super().join(timeout)


class _Unawaited(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        return True
