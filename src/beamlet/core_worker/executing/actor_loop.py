"""The event loop of an async actor: it lives as long as the process, whatever users' code does with it.

All calls of the actor run on it, and nobody else would run them.  So ``stop`` only lets ``serve`` begin its
next round, and ``close`` does nothing; each says so once.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
from typing import NoReturn

from beamlet.core_worker.context import current_task

logger = logging.getLogger("beamlet")


class ActorLoop(asyncio.SelectorEventLoop):
    """``owner``: the actor, for messages."""

    def __init__(self, selector: selectors.BaseSelector, owner: str) -> None:
        super().__init__(selector)
        self._owner = owner
        #: What was asked in vain, and said.
        self._told: set[str] = set()
        self._is_serving = False

    def serve(self) -> NoReturn:
        """Run until the process ends, or a callback raises SystemExit."""
        self._is_serving = True
        while True:
            self.run_forever()

    def stop(self) -> None:
        """As ever while the constructor runs it (``run_until_complete``); then there is no end to it."""
        super().stop()
        if self._is_serving:
            self._tell("stop", "it goes on. To end the actor call beamlet.actor.exit_actor()")

    def close(self) -> None:
        self._tell("close", "it stays open as long as the actor lives")

    def _tell(self, verb: str, instead: str) -> None:
        if verb not in self._told:
            self._told.add(verb)
            context = current_task.get()
            who = context.name if context is not None and context.name else f"code of {self._owner}"
            logger.warning(
                "%s called %s() of the event loop on which all calls of %s run: %s.",
                *(who, verb, self._owner, instead),
            )
