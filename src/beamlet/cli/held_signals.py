"""The signals that end a command, held back where it must not be torn apart, heard where it waits.

    hold_back()               SIGINT, SIGTERM and SIGHUP wait from here on …
    head = start_head(…)
    try:
        with heard():         … and raise here, those that came before at once
            await_head(head)
    except BaseException:     one is raised, no more: nothing disturbs what undoes
        stop_head(head, at_once=True)
        raise

Until the process ends: who has said that all is well should not die of a signal while the interpreter goes.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def hold_back() -> None:
    """For the main thread of a process without others. A signal that is ignored (`nohup`) stays so."""
    told: list[int] = []

    def tell(number: int, frame: object) -> None:
        if told:
            return
        told.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    for number in _ENDING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, tell)


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """After ``hold_back``: raises KeyboardInterrupt (SIGINT) or SystemExit (128 + the signal's number)."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
