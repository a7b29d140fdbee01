"""Carries out effects in the order in which they were decided.

A decision made while an effect is carried out (a lease granted because a worker was found because …) queues
its own effects behind those that are waiting: no handler ever runs inside another one.  An effect that fails
is reported and the others are carried out all the same: what was decided for one must not depend on whether
something could be done for another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

E = TypeVar("E")


class Step(NamedTuple):
    """Part of something that is done as a whole as far as it can be: that one part fails stops no other."""

    what: str
    action: Callable[[], None]


class Performer:
    """One per raylet. Each type of effect has one handler.

    contain: is told of an effect that failed, as ``Containment.contain``. on_done: called after a run of
    effects.
    """

    def __init__(
        self, contain: Callable[[Exception, str], None], on_done: Callable[[], None] = lambda: None
    ) -> None:
        self._contain = contain
        self._on_done = on_done
        self._handlers: dict[type, Callable[[Any], None]] = {Step: lambda step: step.action()}
        self._waiting: deque[object] = deque()
        self._busy = False

    def on(self, kind: type[E], handler: Callable[[E], None]) -> None:
        assert kind not in self._handlers, f"two handlers for {kind.__name__}"
        self._handlers[kind] = handler

    def perform(self, effects: Iterable[object]) -> None:
        self._waiting.extend(effects)
        if self._busy:
            return
        self._busy = True
        try:
            while self._waiting:
                effect = self._waiting.popleft()
                try:
                    self._handlers[type(effect)](effect)
                except Exception as error:
                    what = effect.what if isinstance(effect, Step) else type(effect).__name__
                    self._contain(error, f"carrying out {what}")
        finally:
            self._busy = False
        self._on_done()
