"""The threads that serve one queue: which is woken, or started, and when. No I/O but their Waiters.

Threads take turns at the interpreter.  Calls that do next to nothing are done soonest by one thread: two
would hand it to each other for each call, which costs more than the calls.  Calls that wait for something
want a thread each.  Nobody knows before, so it is learnt: while calls are *brisk*, one thread does them
alone, and somebody looks after LOOK_S whether it is stuck in one that is not; from then on whoever comes for
an item has the next one woken, as it was before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from beamlet.rpc.turns import Waiter

#: A call that took no longer, its answer included, is brisk: to have another thread do it would take as long.
BRISK_S = 30e-6
#: One that took longer is not, whatever those before it were.
LONG_S = 300e-6
#: So many between the two, one after the other, say the same.
_DOUBTS = 4
#: How long a call may hold up those behind it because the ones before it were brisk.
LOOK_S = 0.001
#: When no thread could be had: until another is asked for, if something waits then.
RETRY_S = 0.5


class Threads(Protocol):
    """What a crew of several needs of the process."""

    def start(self) -> bool:
        """One more; it calls ``take`` with ``woken``. False: none can be had."""

    def now(self) -> float: ...

    def look_later(self, look: Callable[[], None], after_s: float = LOOK_S) -> None:
        """Call ``look`` under the core worker's lock after ``after_s``."""


class Crew:
    """Guarded by the core worker's lock."""

    __slots__ = (
        "_active",
        "_brisk",
        "_is_watched",
        "_lacking",
        "_since",
        "_threads",
        "_work_waits",
        "idle",
        "is_waking",
        "may_start",
    )

    def __init__(self, work_waits: Callable[[], bool]) -> None:
        """work_waits: whether something is queued."""
        self._work_waits = work_waits
        #: Those that have nothing to do; whoever came last is woken first, for its stack is still at hand.
        self.idle: list[Waiter] = []
        #: A thread was woken, or started, and has not come for its item yet.
        self.is_waking = False
        #: How many more threads may be started.
        self.may_start = 0
        #: How many of them could not be, the last time one was asked for.
        self._lacking = 0
        #: None: one thread serves the queue, and need not be told apart.
        self._threads: Threads | None = None
        #: Who took something last, and when. None: nobody is sure to come back soon.
        self._active: Waiter | None = None
        self._since = 0.0
        #: Above 0: the calls of late were brisk. Doubts still allowed.
        self._brisk = 0
        self._is_watched = False

    @property
    def is_alone(self) -> bool:
        return self._threads is None

    def allow(self, count: int, threads: Threads) -> None:
        """Up to ``count`` more threads may serve the queue."""
        self.may_start = count
        self._threads = threads if count else None

    # -- a thread comes for something to do ------------------------------------------------------

    def may_take(self, thread: Waiter) -> bool:
        """Of several: whether ``thread``, which has come, shall take something that waits."""
        assert self._threads is not None
        now = self._threads.now()
        if thread is self._active:
            self._learn(now - self._since)
        elif self._brisk and self._active is not None and now - self._since < BRISK_S:
            self._look_later()  # another is at it, and will be back sooner than this one could begin
            return False
        self._active, self._since = thread, now
        return True

    def rest(self, thread: Waiter) -> None:
        """It waits now; ``thread`` is completed when there is something to do."""
        if thread is self._active:
            self._active = None
        self.idle.append(thread)

    def _learn(self, took_s: float) -> None:
        if took_s < BRISK_S:
            self._brisk = _DOUBTS
        elif took_s > LONG_S:
            self._brisk = 0
        elif self._brisk:
            self._brisk -= 1

    # -- something waits -------------------------------------------------------------------------

    def help_wanted(self) -> None:
        """Something waits, and somebody is idle or may be started."""
        if self._brisk and self._active is not None:
            self._look_later()
        else:
            self._wake_one()

    def _wake_one(self) -> None:
        """One at a time: who comes for an item wakes the next, or has it started, if there is more to do."""
        if self.is_waking:
            return
        if self.idle:
            self.is_waking = True
            self.idle.pop().complete()
        elif self.may_start:
            assert self._threads is not None
            self.is_waking = self._threads.start()
            if self.is_waking:
                self.may_start -= 1
            else:  # perhaps nobody serves this queue yet, so somebody must try again
                self._lacking, self.may_start = self.may_start, 0
                self._threads.look_later(self._try_again, RETRY_S)

    def _try_again(self) -> None:
        self.may_start, self._lacking = self._lacking, 0
        if self._work_waits():
            self._wake_one()

    def _look_later(self) -> None:
        if not self._is_watched:
            assert self._threads is not None
            self._is_watched = True
            self._threads.look_later(self._look)

    def _look(self) -> None:
        self._is_watched = False
        if not (self._work_waits() and (self.idle or self.may_start)):
            return
        assert self._threads is not None
        if self._threads.now() - self._since < LOOK_S * 0.75:  # it gets on, and took something meanwhile
            self._look_later()
        else:
            self._brisk, self._active = 0, None
            self._wake_one()
