"""A queue that tasks, actors and drivers share: an async actor behind the interface of ``queue.Queue``."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable
from typing import Any

import beamlet
from beamlet.api.argument_table import checked
from beamlet.api.call_sites import here
from beamlet.base.own_code import for_users
from beamlet.exceptions import ActorDiedError

#: Blocked callers each hold one of these while they wait; others must still get through to wake them.
_MOST_WAITING = 1_000_000


class Empty(queue.Empty):
    """Nothing to get."""

    _made_for_users = True


class Full(queue.Full):
    """No room to put."""

    _made_for_users = True


class Queue:
    """First in, first out, for any number of producers and consumers anywhere. Pass it as an argument.

    maxsize: how many items it holds; 0 or less: any number. actor_options: of the actor that holds them.

    >>> queue = Queue(maxsize=2)
    >>> queue.put("a")
    >>> queue.put("b")
    >>> queue.get(), queue.qsize(), queue.full()
    ('a', 1, False)
    """

    @for_users
    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        self.maxsize = checked("util.queue.Queue", "maxsize", maxsize)
        given = checked("util.queue.Queue", "actor_options", actor_options) or {}
        options = {"max_concurrency": _MOST_WAITING, **given}
        actor_class: Any = beamlet.remote(_QueueActor)
        self.actor: Any = actor_class.options(**options).remote(maxsize)
        #: Where shutdown() was called on this object: copies elsewhere find their actor dead.
        self._ended_at = ""

    # -- size ------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.size()

    @for_users
    def size(self) -> int:
        """How many items it held a moment ago."""
        return int(beamlet.get(self._holder().qsize.remote()))

    def qsize(self) -> int:
        return self.size()

    @for_users
    def empty(self) -> bool:
        return bool(beamlet.get(self._holder().empty.remote()))

    @for_users
    def full(self) -> bool:
        return bool(beamlet.get(self._holder().full.remote()))

    # -- one item --------------------------------------------------------------------------------

    @for_users
    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item, waiting for room up to ``timeout`` seconds.

        Raises Full, ValueError if timeout is negative.
        """
        beamlet.get(self._put(item, block, timeout))

    @for_users
    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item, waiting for one up to ``timeout`` seconds.

        Raises Empty, ValueError if timeout is negative.
        """
        return beamlet.get(self._get(block, timeout))

    async def put_async(  # Ray's signature
        self,
        item: Any,
        block: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> None:
        """``put`` for coroutines."""
        await self._put(item, block, timeout)

    async def get_async(  # Ray's signature
        self,
        block: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Any:
        """``get`` for coroutines."""
        return await self._get(block, timeout)

    @for_users
    def put_nowait(self, item: Any) -> None:
        """``put`` that raises Full at once."""
        self.put(item, block=False)

    @for_users
    def get_nowait(self) -> Any:
        """``get`` that raises Empty at once."""
        return self.get(block=False)

    def _put(self, item: Any, block: bool, timeout: float | None) -> Any:
        checked("util.queue.Queue.put", "block", block)
        timeout = checked("util.queue.Queue.put", "timeout", timeout)
        return self._holder().put.remote(item, timeout) if block else self._holder().put_nowait.remote(item)

    def _get(self, block: bool, timeout: float | None) -> Any:
        checked("util.queue.Queue.get", "block", block)
        timeout = checked("util.queue.Queue.get", "timeout", timeout)
        return self._holder().get.remote(timeout) if block else self._holder().get_nowait.remote()

    # -- several ---------------------------------------------------------------------------------

    @for_users
    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add all items or none. Raises Full, or TypeError if ``items`` is not iterable."""
        checked("util.queue.Queue.put_nowait_batch", "items", items)
        beamlet.get(self._holder().put_nowait_batch.remote(list(items)))

    @for_users
    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take exactly ``num_items``. Raises Empty if there are fewer, and then takes none."""
        num_items = checked("util.queue.Queue.get_nowait_batch", "num_items", num_items)
        return list(beamlet.get(self._holder().get_nowait_batch.remote(num_items)))

    def _holder(self) -> Any:
        if self.actor is None:
            raise ActorDiedError(f"this Queue was shut down at {self._ended_at}: its items are gone")
        return self.actor

    # -- the end ---------------------------------------------------------------------------------

    @for_users
    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """End the actor and what it holds. force: at once; else after the calls it has. Idempotent.

        Later calls raise ActorDiedError, here and wherever the queue was passed.
        """
        checked("util.queue.Queue.shutdown", "force", force)
        grace_s = checked("util.queue.Queue.shutdown", "grace_period_s", grace_period_s)
        actor, self.actor = self.actor, None
        if actor is None:
            return
        self._ended_at = here()
        if not force:
            ended, _ = beamlet.wait([actor.__ray_terminate__.remote()], timeout=grace_s)
            if ended:
                return
        beamlet.kill(actor, no_restart=True)


class _QueueActor:
    """Where the items are. asyncio cancels a timed-out wait before it takes anything: no item is lost."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._items: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    async def qsize(self) -> int:
        return self._items.qsize()

    async def empty(self) -> bool:
        return self._items.empty()

    async def full(self) -> bool:
        return self._items.full()

    async def put(self, item: Any, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._items.put(item)
        except TimeoutError:
            raise Full(f"no room for another item within {timeout_s} s (maxsize={self._maxsize})") from None

    async def get(self, timeout_s: float | None) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._items.get()
        except TimeoutError:
            raise Empty(f"no item arrived within {timeout_s} s") from None

    async def put_nowait(self, item: Any) -> None:
        self._reserve(1)
        self._items.put_nowait(item)

    async def get_nowait(self) -> Any:
        return self._take(1)[0]

    async def put_nowait_batch(self, items: list[Any]) -> None:
        self._reserve(len(items))
        for item in items:
            self._items.put_nowait(item)

    async def get_nowait_batch(self, count: int) -> list[Any]:
        return self._take(count)

    def _reserve(self, count: int) -> None:
        held = self._items.qsize()
        if 0 < self._maxsize < held + count:
            raise Full(f"{count} more do not fit: the queue holds {held} of {self._maxsize}")

    def _take(self, count: int) -> list[Any]:
        held = self._items.qsize()
        if held < count:
            raise Empty(f"{count} asked for, but the queue holds {held}")
        return [self._items.get_nowait() for _ in range(count)]
