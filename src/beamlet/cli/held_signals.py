"""The signals that end a command, held back where it must not be torn apart, heard where it waits.

    with held_back():             SIGINT, SIGTERM and SIGHUP wait …
        head = start_head(…)
        try:
            with heard():         … and raise here: those that came before at once
                await_head(head)
        except BaseException:     one is raised, no more: nothing disturbs what undoes
            stop_head(head, at_once=True)
            raise

What came and was not heard is forgotten: by then the command is done, or ends for another reason.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """For the main thread of a process without others. A signal that is ignored (`nohup`) stays so."""
    ours = [n for n in _ENDING if signal.getsignal(n) in (signal.SIG_DFL, signal.default_int_handler)]
    told: list[int] = []

    def tell(number: int, frame: object) -> None:
        if told:
            return
        told.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    before = [signal.signal(number, tell) for number in ours]
    try:
        yield
    finally:
        while signal.sigtimedwait(_ENDING, 0) is not None:
            pass
        for number, handler in zip(ours, before, strict=True):
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Within ``held_back``: raises KeyboardInterrupt (SIGINT) or SystemExit (128 + the signal's number)."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
