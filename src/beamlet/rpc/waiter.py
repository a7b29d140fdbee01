"""What a thread waits for, until another completes it."""

from __future__ import annotations

import threading

from beamlet.base.deferring import lets_through


class Waiter:
    """Something a thread waits for: ``remaining`` completions. Completed under the lock by any thread."""

    __slots__ = ("_signal", "remaining")

    def __init__(self, remaining: int = 1) -> None:
        self.remaining = remaining
        self._signal: threading.Lock | None = None

    def complete(self, count: int = 1) -> None:
        self.remaining -= count
        if self.remaining <= 0 and self._signal is not None:
            self.interrupt()

    def interrupt(self) -> None:
        """End the sleep of a thread in ``follow``. Called under the lock."""
        if self._signal is not None:
            signal, self._signal = self._signal, None
            signal.release()

    @lets_through
    def follow(self, timeout_s: float) -> None:
        """Sleep until completed by another thread, or ``timeout_s``. Called without the lock."""
        signal = self._signal
        if signal is not None:
            signal.acquire(timeout=timeout_s)

    def arm(self) -> None:
        """Called under the lock before ``follow``."""
        if self._signal is None and self.remaining > 0:
            self._signal = threading.Lock()
            self._signal.acquire()
