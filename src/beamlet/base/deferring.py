"""● Which functions let a signal's handler run: what our code and ``processes.interrupts`` both know.

A handler that a signal starts in the middle of our work is *deferred*.  Functions in whose own frames nothing
can be left half done say so: ``lets_through``.  The outermost functions of the API ``deliver`` at their end.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, TypeVar

Handler = Callable[[int, FrameType | None], Any]
F = TypeVar("F", bound=Callable[..., Any])

#: Signals that came in the middle of our work, each once, and what is to be run.
deferred: dict[int, Handler] = {}
#: The functions in which a handler may run.
transparent: set[CodeType] = set()
#: An attribute of errors.
FROM_HANDLER = "_raised_by_signal_handler"
#: How to run what is deferred; set by ``interrupts``, which alone defers.
_deliver: list[Callable[[], None]] = []


def lets_through(function: F) -> F:
    """Decorates what waits, and the outermost functions of the API. Costs nothing when called."""
    transparent.add(function.__code__)
    return function


def is_from_handler(error: BaseException) -> bool:
    """Whether a signal's handler raised it: then it is for the user, whatever error of ours it looks like."""
    return FROM_HANDLER in error.__dict__


@lets_through
def deliver() -> None:
    """At the end of an API call, if something is ``deferred``: now it may be run."""
    for run in _deliver:
        run()


def deliver_by(run: Callable[[], None]) -> None:
    _deliver[:] = [run]
