"""A thread that may be started under a lock: ``start`` does not wait until it runs.

Python's own does, and its first steps may run a user's ``__del__`` (the garbage collector's doing),
which may want that lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from beamlet.base.say import say


class PromptThread(threading.Thread):
    """To be joined only after it was started."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._started = _Unawaited()

    def join(self, timeout: float | None = None) -> None:
        threading.Event.wait(self._started, timeout)
        if self._started.is_set():
            super().join(timeout)


def can_start(thread: threading.Thread) -> bool:
    """Start it; False if the system has no thread for it now (``ulimit -u``, ``pids.max``)."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def log_aside(log: Callable[..., None], text: str, *arguments: object) -> None:
    """``log(text, *arguments)`` in a thread of its own, for who holds the core worker's lock.

    Handlers of logging are code of users: one may hold its own lock in another thread, and wait for ours.
    """
    if not can_start(PromptThread(target=log, args=(text, *arguments), name="beamlet-log")):
        say(text % arguments, "beamlet")


class _Unawaited(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        return True
