"""A world in one thread of events: virtual time, chance from one seed, processes that run one at a time.

Everything that happens is an event in one heap, ordered by virtual time; ties go to whoever was first.  An
event runs code of one process until that code waits, then the next event comes.  Code that blocks (a task in
``get``, a worker fetching a function) runs in a ``Fiber``: a thread that has the baton only between two
waits, so however many there are, exactly one runs, and which one is decided here.

    heap of (when, number, what) ──▶ run: world.active = a process ──▶ its turn | its fiber, until it waits
                                            │                                │
                                            └── sends, timers, waits ────────┴──▶ more events

The same seed gives the same run, event for event (``trace_digest``), if the interpreter hashes alike
(PYTHONHASHSEED): sets of ids are walked in their order.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from beamlet.rpc.turns import Waiter

if TYPE_CHECKING:
    from beamlet.testing.virtual_process import VirtualProcess

#: Of what happened last, for the report of a failure.
_STORY_LINES = 400
#: A fiber that has the baton and does not come back within this (real) time is stuck in a real wait.
_STUCK_S = 60.0


class ProcessEnded(BaseException):
    """Raised inside a virtual process that is no more, wherever its code was waiting."""


class Broken(Exception):
    """The run found something wrong; the text tells seed, time and what."""


class Event:
    """Something due; ``cancel()`` makes it nothing."""

    __slots__ = ("action", "when")

    def __init__(self, when: float, action: Callable[[], None]) -> None:
        self.when = when
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class World:
    """Time, chance, and whose turn it is."""

    #: The one that runs now. Process-wide, because virtual processes reach it as they reach a kernel.
    current: World | None = None

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        #: Apart, so that one more id somewhere does not change when things happen.
        self._bytes = random.Random(f"{seed} bytes")
        self.time_s = 1000.0
        self.active: VirtualProcess | None = None
        self.fiber: Fiber | None = None
        #: All processes that ever were, in the order of their births.
        self.processes: list[VirtualProcess] = []
        #: What went wrong so far; the run ends at the first.
        self.failures: list[BaseException] = []
        #: Errors that a test throws into the system itself.
        self.tolerated: tuple[type[BaseException], ...] = ()
        #: Called after every event.
        self.after_event: list[Callable[[], None]] = []
        self.event_count = 0
        self._heap: list[tuple[float, int, Event]] = []
        self._pushed = 0
        self._story: deque[str] = deque(maxlen=_STORY_LINES)
        self._trace = hashlib.blake2b(digest_size=8)
        #: Given to the scheduler when a fiber waits or ends.
        self.baton = threading.Semaphore(0)

    def now(self) -> float:
        return self.time_s

    def random_bytes(self, count: int) -> bytes:
        return self._bytes.randbytes(count)

    # -- events ----------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> Event:
        event = Event(max(when, self.time_s), action)
        self._pushed += 1
        heapq.heappush(self._heap, (event.when, self._pushed, event))
        return event

    def later(self, delay_s: float, action: Callable[[], None]) -> Event:
        return self.at(self.time_s + delay_s, action)

    def tell(self, what: str) -> None:
        """A line of the run's story: kept for reports, and part of its digest."""
        line = f"{self.time_s:.6f} {what}"
        self._story.append(line)
        self._trace.update(line.encode())

    @property
    def trace_digest(self) -> str:
        """What happened, as one number: equal runs have equal ones."""
        return self._trace.hexdigest()

    def story(self, lines: int = 60) -> str:
        return "\n".join(list(self._story)[-lines:])

    def waits(self) -> str:
        """Where each fiber stands, innermost call last."""
        frames = sys._current_frames()
        lines: list[str] = []
        for process in self.processes:
            for fiber in process.fibers:
                until = "" if fiber.deadline is None else f" until {fiber.deadline:.6f}"
                lines.append(f"{fiber.name} waits{until}:")
                frame = frames.get(fiber.thread_id)
                calls = [] if frame is None else traceback.extract_stack(frame)[:-1]
                lines += [f"    {call.filename}:{call.lineno} {call.name}" for call in calls[-12:]]
        return "\n".join(lines)

    def contained(self, error: BaseException) -> None:
        """Production goes on after an error that was contained; a simulation has found something."""
        if not isinstance(error, self.tolerated):
            self.failures.append(error)

    def step(self) -> bool:
        """The next event; False when there is none, ever."""
        while self._heap:
            when, _, event = heapq.heappop(self._heap)
            action = event.action
            if action is None:
                continue
            self.time_s = max(self.time_s, when)
            self.event_count += 1
            action()
            for check in self.after_event:
                check()
            if self.failures:
                raise self._broken(self.failures[0])
            return True
        return False

    def run(self, until: Callable[[], bool], within_s: float, what: str) -> None:
        """Let things happen until ``until``. Raises Broken when ``within_s`` virtual seconds did not do."""
        limit = self.time_s + within_s
        while not until():
            if not self._heap or self._heap[0][0] > limit:
                raise self._broken(TimeoutError(f"{what} did not happen within {within_s:g} s"))
            self.step()

    def run_for(self, seconds: float) -> None:
        """Let things happen for so long."""
        end = self.time_s + seconds
        while self._heap and self._heap[0][0] <= end:
            self.step()
        self.time_s = max(self.time_s, end)

    def _broken(self, error: BaseException) -> Broken:
        broken = Broken(f"seed {self.seed}, {self.time_s - 1000.0:.6f} s: {type(error).__name__}: {error}")
        broken.__cause__ = error
        return broken

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def latency(self) -> float:
        """How long something takes to get from one process to another: mostly little, now and then long."""
        draw = self.rng.random()
        if draw < 0.9:
            return self.rng.uniform(5e-6, 200e-6)
        return self.rng.uniform(200e-6, 2e-3) if draw < 0.99 else self.rng.uniform(2e-3, 50e-3)


class Fiber:
    """Code of a process that may wait. Runs only while ``resume`` does; ``main()`` is its whole life."""

    def __init__(self, world: World, process: VirtualProcess, name: str, main: Callable[[], None]) -> None:
        self.world = world
        self.process = process
        self.name = name
        self.ended = False
        #: What it waits for, and until when.
        self.waiter: Waiter | None = None
        self.deadline: float | None = None
        #: An event that will resume it is in the heap.
        self.waking = False
        #: Its next wait ends with KeyboardInterrupt.
        self.interrupted = False
        self._alarm: Event | None = None
        self._go = threading.Semaphore(0)
        self._main = main
        self._thread: threading.Thread | None = None

    # -- the scheduler's side --------------------------------------------------------------------

    def resume(self) -> None:
        """Let it run until it waits or ends. In its process's turn."""
        self.waking = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._thread is None:
            self._thread = threading.Thread(target=self._live, name=self.name, daemon=True)
            self._thread.start()
        outer, self.world.fiber = self.world.fiber, self
        self._go.release()
        if not self.world.baton.acquire(timeout=_STUCK_S):
            raise RuntimeError(f"{self.name} of {self.process.name} waits for something outside of the world")
        self.world.fiber = outer

    @property
    def thread_id(self) -> int:
        """0 before it has begun."""
        return (self._thread.ident or 0) if self._thread is not None else 0

    @property
    def is_ready(self) -> bool:
        """What it waits for is there."""
        return self.waiter is None or self.waiter.remaining <= 0 or self.interrupted or self.process.ended

    @property
    def is_due(self) -> bool:
        """It may go on now."""
        late = self.deadline is not None and self.deadline <= self.world.time_s
        return not self.ended and (self.is_ready or late)

    # -- its own side ----------------------------------------------------------------------------

    def wait(self, waiter: Waiter, deadline: float | None) -> None:
        """Give the baton away until ``waiter`` is complete, or ``deadline``.

        Raises ProcessEnded, or KeyboardInterrupt.
        """
        self.waiter, self.deadline = waiter, deadline
        if deadline is not None:
            self._alarm = self.world.at(deadline, lambda: self.process.run_fiber(self))
        self.world.baton.release()
        self._go.acquire()
        self.waiter = self.deadline = None
        if self.process.ended:
            raise ProcessEnded
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt

    def _live(self) -> None:
        self._go.acquire()
        try:
            if not self.process.ended:
                self._main()
        except ProcessEnded:
            pass
        except BaseException as error:
            if not self.process.ended:  # what unwinds in a dead process is nobody's concern
                self.world.failures.append(error)
        finally:
            self.ended = True
            self.world.baton.release()


def sleep(seconds: float) -> None:
    """For user code in a virtual process: let virtual time pass."""
    world = World.current
    fiber = world.fiber if world is not None else None
    assert world is not None, "there is no world"
    assert fiber is not None, "sleep() is for code that runs in a fiber"
    fiber.wait(Waiter(), world.now() + seconds)
