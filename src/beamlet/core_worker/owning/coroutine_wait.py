"""A coroutine that waits for something of ours, on whatever loop it runs."""

from __future__ import annotations

import asyncio  # a dozen milliseconds and 2 MB: import this module only where a coroutine waits
import logging
from typing import Any

from beamlet.processes.prompt_thread import log_aside

logger = logging.getLogger("beamlet")


class CoroutineWait:
    """``await wait.future``; ``on_ready`` ends it, from any thread and under the lock.

    The loop is the user's: it may be closed by then, or do anything; who calls ``on_ready`` is not harmed.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self._loop.create_future()

    def on_ready(self, _: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._end)
        except Exception as error:
            if not self._loop.is_closed():  # else nobody waits any more
                log_aside(logger.error, "the event loop %r did not take a result: %r", self._loop, error)

    def _end(self) -> None:
        if not self.future.done():  # it may have been cancelled
            self.future.set_result(None)
