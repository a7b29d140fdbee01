"""One thread's event loop: readiness of descriptors, timers, calls from other threads.

This is all the I/O multiplexing there is: head, workers and drivers run the same loop; asyncio appears
only where users write coroutines.  Handlers are plain functions that never block.

    run_once: flush what was queued → poll (spin a little, then sleep) → dispatch → due timers → flush

Spinning: a process that sleeps in epoll needs some 20–70 µs to be woken here, one that polls in a loop
notices in under 1 µs.  So a wait first polls for about ``SPIN_S`` — but only while that keeps paying off:
the budget halves with each miss, and is restored when a sleep turns out to have been short.  In core workers
it also follows waits that take a little longer (``longest_spin_s``), while nobody else wants the core.
Between looks that is offered to whoever could use it, which may be the very process we wait for: on a busy
machine that is the difference between 13 and 57 µs.
"""

from __future__ import annotations

import heapq
import mmap
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from beamlet.base.deferring import lets_through
from beamlet.rpc.containment import Containment
from beamlet.rpc.descriptors import KERNEL, Descriptors, KernelPoller, Poller

if TYPE_CHECKING:
    from beamlet.rpc.connection import Connection

#: Longest time a wait burns CPU before it sleeps.
SPIN_S = 60e-6
#: A sleep shorter than this would have been worth spinning for.
_SHORT_SLEEP_S = 120e-6
#: Two looks within _AGAIN_S that took so long say that others want the core, and get it for whole slices,
#: whereas who sleeps would be let in at once. One alone is the system's, or of who shares the machine.
_CROWDED_S, _AGAIN_S = 400e-6, 0.1
#: For so long after that nobody spins for longer than SPIN_S; and for twice as long each time that it is so
#: again, up to the second.
_CALM_S, _CALM_MOST_S = 0.2, 6.4
#: A wait that was slept through is spun through the next time, if it takes about as long.
_NEXT_TIME = 1.3
_MIN_SPIN_S = 2e-6
_READ_BUFFER_BYTES = 1 << 20
_NEVER = float("inf")
_READABLE = select.EPOLLIN


class Timer:
    """A call due once; ``cancel()`` is idempotent and may come after it fired."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None] | None) -> None:
        self.when = when
        self.callback = callback

    def cancel(self) -> None:
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when


class Reactor:
    """Not thread-safe, but for ``call_soon_threadsafe``, ``wake`` and ``stop``."""

    def __init__(
        self,
        *,
        spin_s: float = SPIN_S,
        longest_spin_s: float = 0.0,
        poller: Poller | None = None,
        clock: Callable[[], float] = time.monotonic,
        descriptors: Descriptors = KERNEL,
    ) -> None:
        self._poller: Poller = poller or KernelPoller()
        #: Monotonic seconds.
        self.now = clock
        #: Makes and copies descriptors for connections.
        self.descriptors = descriptors
        #: What becomes of errors of handlers.
        self.containment = Containment()
        self._readers: dict[int, Callable[[], object]] = {self._poller.wakeup: self._poller.drain}
        self._writers: dict[int, Callable[[], None]] = {}
        #: Who is told that reading or writing raised.
        self._owners: dict[int, Callable[[Exception], None]] = {}
        self._paused: set[int] = set()
        self._timers: list[Timer] = []
        self._soon: deque[Callable[[], None]] = deque()
        self._is_stopped = False
        self._spin_limit = spin_s
        #: Up to this a wait that turned out to be longer than the budget lengthens it; 0: never.
        self._longest_spin_s = longest_spin_s
        self._spin_s = spin_s
        #: When it may spin for longer than that again, and how long it waits after the next crowd.
        self._calm_from, self._calm_s = 0.0, _CALM_S
        self._crowded_at = -_NEVER
        #: Connections with messages queued since their last flush.
        self.dirty: list[Connection] = []
        #: Takes turns with it, as a connection's two lists do.
        self._spare: list[Connection] = []
        self._is_flushing = False
        #: Lent to whichever connection is reading; valid until its handler returns. Anonymous pages exist
        #: from their first touch on: a process takes as much of this as its largest message.
        self.read_buffer = mmap.mmap(-1, _READ_BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.read_view = memoryview(self.read_buffer)

    # -- registration ----------------------------------------------------------------------------

    def add_reader(
        self,
        fd: int,
        on_readable: Callable[[], object],
        on_given_up: Callable[[Exception], None] | None = None,
    ) -> None:
        """on_given_up: told that it, or the writer, raised, and that neither will be called again."""
        self._poller.register(fd, select.EPOLLIN)
        self._readers[fd] = on_readable
        if on_given_up is not None:
            self._owners[fd] = on_given_up

    def remove_reader(self, fd: int) -> None:
        """Forget ``fd`` altogether; must come before it is closed."""
        if self._readers.pop(fd, None) is not None:
            self._writers.pop(fd, None)
            self._owners.pop(fd, None)
            self._paused.discard(fd)
            self._poller.unregister(fd)

    def set_writer(self, fd: int, on_writable: Callable[[], None] | None) -> None:
        """Also watch a registered descriptor for room to write, or no longer."""
        if on_writable is None:
            if self._writers.pop(fd, None) is not None:
                self._watch(fd)
        elif fd in self._readers:
            self._writers[fd] = on_writable
            self._watch(fd)

    def pause_reader(self, fd: int, paused: bool) -> None:
        """Look away from what arrives on ``fd`` (but not from its end), or look again."""
        if fd in self._readers:
            (self._paused.add if paused else self._paused.discard)(fd)
            self._watch(fd)

    def _watch(self, fd: int) -> None:
        mask = 0 if fd in self._paused else select.EPOLLIN
        self._poller.modify(fd, mask | select.EPOLLOUT if fd in self._writers else mask)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(self.now() + delay_s, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call it later in this pass, or in the next."""
        self._soon.append(callback)

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)
        self.wake()

    def wake(self) -> None:
        """End a sleep in ``run_once``, from any thread or signal handler."""
        try:
            self._poller.wake()
        except BlockingIOError:
            pass  # the counter is full: the wake-up is certain anyway

    # -- running ---------------------------------------------------------------------------------

    def run_once(self, timeout_s: float | None) -> None:
        """One pass; sleeps at most ``timeout_s`` (None: until something happens)."""
        self.flush()
        self.dispatch(self.poll(timeout_s))

    @lets_through
    def poll(self, timeout_s: float | None, spin: bool = True) -> list[tuple[int, int]]:
        """What is ready. Touches no shared state but the spin budget, so it needs no lock."""
        poll = self._poller.poll
        events = poll(0)
        if events or timeout_s == 0.0 or self._soon:
            return events
        clock = self.now
        started = clock()
        if spin and self._spin_s > _MIN_SPIN_S:
            until = started + self._spin_s
            yield_core = os.sched_yield
            looked = started
            while True:
                events = poll(0)
                if events:
                    if self._spin_s > self._spin_limit and (now := clock()) - looked > _CROWDED_S:
                        self._crowded(now)
                    return events
                now = clock()
                if now >= until:
                    break
                if now - looked > _CROWDED_S:
                    self._crowded(now)
                    until = min(until, started + self._spin_limit)
                looked = now
                yield_core()
            self._spin_s = min(self._spin_s * 0.5, self._spin_limit)
        limit = _NEVER if timeout_s is None else timeout_s
        if self._timers:
            limit = min(limit, max(0.0, self._timers[0].when - clock()))
        if self._soon:
            limit = 0.0
        asleep = clock()
        events = poll(None if limit is _NEVER else limit)
        if events:
            woken = clock()
            if woken - started < self._longest_spin_s and woken > self._calm_from:
                self._spin_s = max(self._spin_limit, _NEXT_TIME * (woken - started))
            elif woken - asleep < _SHORT_SLEEP_S:
                self._spin_s = self._spin_limit
        return events

    def spin_as_usual(self) -> None:
        """Not for longer than SPIN_S the next time."""
        self._spin_s = min(self._spin_s, self._spin_limit)

    def _crowded(self, now: float) -> None:
        since, self._crowded_at = now - self._crowded_at, now
        if since > _AGAIN_S:
            return
        if now > self._calm_from + self._calm_s:
            self._calm_s = _CALM_S
        elif now > self._calm_from:
            self._calm_s = min(2 * self._calm_s, _CALM_MOST_S)
        self._calm_from = now + self._calm_s
        self.spin_as_usual()

    def dispatch(self, events: list[tuple[int, int]]) -> None:
        """Handle ``events``, due timers and calls from other threads, then flush."""
        for fd, mask in events:
            try:
                if mask != _READABLE and mask & select.EPOLLOUT:
                    writer = self._writers.get(fd)
                    if writer is not None:
                        writer()
                    mask &= ~select.EPOLLOUT
                if mask:
                    reader = self._readers.get(fd)
                    if reader is not None:
                        reader()
            except Exception as error:
                self._give_up(fd, error)
        if self._soon:
            self._run_soon()
        if self._timers and self._timers[0].when <= self.now():
            self._run_timers()
        if self.dirty:
            self.flush()

    def flush(self) -> None:
        """Send what connections have queued."""
        if self._is_flushing:
            return  # a __del__ runs in the middle of it: a frame within a frame would overtake it
        self._is_flushing = True
        try:
            while self.dirty:
                dirty, self.dirty = self.dirty, [] if self._spare else self._spare
                self._spare = dirty
                for connection in dirty:
                    try:
                        connection.flush()
                    except Exception as error:
                        self.containment.contain(error, "flushing", connection.label)
                dirty.clear()
        finally:
            self._is_flushing = False

    def put_first(self, connection: Connection) -> None:
        """What it has queued leaves before what others have: what they say is to be true if we die then."""
        dirty = self.dirty
        if connection in dirty and dirty[0] is not connection:
            dirty.remove(connection)
            dirty.insert(0, connection)

    def run_forever(self) -> None:
        """Until ``stop``."""
        while not self._is_stopped:
            self.run_once(None)
        self._is_stopped = False

    def stop(self) -> None:
        """Make ``run_forever`` return after its present pass; or at once, if it is yet to be called."""
        self._is_stopped = True
        self.wake()

    def renew(self) -> None:
        """In a fork, by its only thread: watch by means of our own, those so far are our parent's, too."""
        parents, self._poller = self._poller, KernelPoller()
        del self._readers[parents.wakeup]
        for fd in self._readers:
            self._poller.register(fd, select.EPOLLIN)
        self._readers[self._poller.wakeup] = self._poller.drain
        parents.close()
        self._spin_s = 0.0  # nothing comes at once

    def close(self) -> None:
        """Give back the descriptors. Nobody may be in ``poll``, and nobody will be again. Idempotent."""
        self._poller.close()

    # -- parts -----------------------------------------------------------------------------------

    def _give_up(self, fd: int, error: Exception) -> None:
        """A reader or writer raised. It is not called again: nothing would be different the next time."""
        owner = self._owners.get(fd)
        self.remove_reader(fd)
        self.containment.contain(error, f"reading or writing descriptor {fd}")
        if owner is not None:
            owner(error)

    def _run_soon(self) -> None:
        for _ in range(len(self._soon)):
            try:
                self._soon.popleft()()
            except Exception as error:
                self.containment.contain(error, "running what was put off")

    def _run_timers(self) -> None:
        now = self.now()
        while self._timers and self._timers[0].when <= now:
            callback = heapq.heappop(self._timers).callback
            if callback is None:
                continue
            try:
                callback()
            except Exception as error:
                self.containment.contain(error, "running a timer")
