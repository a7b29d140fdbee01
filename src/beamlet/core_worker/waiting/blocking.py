"""How a thread of this process waits without the lock: a driver with a hint, a worker lending its CPU.

Both fit ``owning.ports.Blocking``; which one a process has is decided where it is composed.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from beamlet.base.ids import ObjectId
from beamlet.core_worker.executing.blocked import BlockedThreads
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.owning.ports import Ref
from beamlet.core_worker.waiting.explaining import Explaining
from beamlet.core_worker.waiting.waits import CallWaits
from beamlet.exceptions import DeadlockError
from beamlet.rpc.turns import SharedReactor, Waiter

#: How long a worker waits before it tells the raylet that it is blocked: most waits are shorter.
BLOCKED_AFTER_S = 0.001
#: How long a driver waits before it minds why: nobody is told, or asked, of shorter waits.
_EXPLAINED_FROM_S = 0.2


class DriverBlocking:
    """Waits, and says after a while what for."""

    def __init__(self, reactor: SharedReactor, link: NodeLink, explaining: Explaining) -> None:
        self._reactor = reactor
        self._link = link
        self._explaining = explaining

    def block_until(
        self, waiter: Waiter, deadline: float | None, refs: Sequence[Ref] = (), needs_all: bool = True
    ) -> bool:
        began = monotonic()
        soon = began + _EXPLAINED_FROM_S
        if deadline is not None and deadline <= soon:
            return self._reactor.wait(waiter, deadline)
        return self._reactor.wait(waiter, soon) or self._explaining.wait(waiter, deadline, refs, began)

    def timeout_text(self, waiter: Waiter, object_ids: Sequence[ObjectId], timeout_s: float) -> str:
        return self._explaining.timeout_text(waiter, object_ids, timeout_s)

    def raise_if_shut(self) -> None:
        if self._reactor.is_closing or self._link.connection.closed:
            raise self._link.gone()


class WorkerBlocking(DriverBlocking):
    """Gives back the CPU during a long wait, and ends one that is part of a circle."""

    def __init__(
        self,
        reactor: SharedReactor,
        link: NodeLink,
        explaining: Explaining,
        blocked: BlockedThreads,
        waits: CallWaits,
    ) -> None:
        super().__init__(reactor, link, explaining)
        self._blocked = blocked
        self._waits = waits

    def block_until(
        self, waiter: Waiter, deadline: float | None, refs: Sequence[Ref] = (), needs_all: bool = True
    ) -> bool:
        reactor = self._reactor
        began = monotonic()
        soon = began + BLOCKED_AFTER_S
        if deadline is not None and deadline <= soon:
            return reactor.wait(waiter, deadline)
        if reactor.wait(waiter, soon):
            return True
        objects = [ref._id for ref in refs] if needs_all and deadline is None else []
        with self._blocked.one_more(), self._waits.entered(waiter, objects) as wait:
            done = self._explaining.wait_until(waiter, deadline, refs, began)
        if wait is not None and wait.verdict:
            raise DeadlockError(wait.verdict)
        return done
