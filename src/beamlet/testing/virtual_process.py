"""A process of the simulated cluster: its reactor, descriptors, threads, and how it ends.

Its code is the production code; what is process-wide there (the API's current backend, the references let go,
the pid) is put in place while the process runs, and taken out again.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from beamlet.api import backend
from beamlet.base.ids import ObjectId
from beamlet.core_worker.executor import ExecutorCore
from beamlet.rpc.reactor import Reactor
from beamlet.rpc.turns import IDLE_S, SharedReactor, Waiter
from beamlet.serialization.refs import released
from beamlet.testing.virtual_wires import Kernel, VirtualDescriptors, VirtualPoller
from beamlet.testing.world import Event, Fiber, ProcessEnded, World

#: How long code may run on before others see what it queued: the promise of ``rpc/turns.py``.
_BACKGROUND_S = 0.001


class VirtualProcess:
    """``on_end(process)`` is told its exit code or signal, as wait4 would: one of them is -1."""

    def __init__(self, world: World, kernel: Kernel, name: str) -> None:
        self.world = world
        self.name = name
        self.pid = 10_000 + len(world.processes)
        self.ended = False
        self.exit_code = -1
        self.signal = -1
        self.on_end: Callable[[VirtualProcess], None] = _nobody_waits
        #: Once it has ended: when all that it wrote has arrived.
        self.last_words_at = 0.0
        #: What the process leaves to the kernel that is no virtual descriptor.
        self.at_end: list[Callable[[], None]] = []
        #: The API's backend in this process.
        self.core: Any = None
        #: References that died while another process ran (the garbage collector is everybody's).
        self.let_go: list[ObjectId] = []
        self.descriptors = VirtualDescriptors(self, kernel)
        self.poller = VirtualPoller(self)
        self.reactor: Reactor | None = None
        self.fibers: list[Fiber] = []
        self._main: Fiber | None = None
        #: Until then it gets no turn: a machine is busy, a process is stopped.
        self.stalled_until = 0.0
        #: Called after each of its turns.
        self.after_turn: list[Callable[[], None]] = []
        self._turn: Event | None = None
        self._timer: Event | None = None
        world.processes.append(self)

    def __repr__(self) -> str:
        return f"{self.name}({self.pid})"

    # -- turns -----------------------------------------------------------------------------------

    def turn_soon(self, delay_s: float = 0.0) -> None:
        """See to it that the reactor looks at what is ready."""
        if self.ended or self.reactor is None:
            return
        due = max(self.world.time_s + delay_s, self.stalled_until)
        if self._turn is not None and self._turn.action is not None:
            if self._turn.when <= due:
                return
            self._turn.cancel()
        self._turn = self.world.at(due, self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        if self.ended:
            return
        if self.world.time_s < self.stalled_until:
            self.turn_soon()
            return

        def turn() -> None:
            assert self.reactor is not None
            with _locked(self.reactor):
                self.reactor.dispatch(self.poller.poll(0))

        self.run(turn)

    def run(self, code: Callable[[], None]) -> None:
        """Run code of this process that does not wait."""
        if self.ended:
            return
        with self._being_active():
            try:
                code()
            except ProcessEnded:
                pass
            except BaseException as error:
                self.world.failures.append(error)
        self._settle()

    def start_fiber(self, name: str, main: Callable[[], None]) -> Fiber:
        """A thread of this process; it begins a moment later."""
        fiber = Fiber(self.world, self, f"{self.name}.{name}", main)
        self.fibers.append(fiber)
        self._main = self._main or fiber
        fiber.waking = True
        self.world.later(self.world.rng.uniform(0, 20e-6), lambda: self.run_fiber(fiber))
        return fiber

    def run_fiber(self, fiber: Fiber) -> None:
        if not self.ended and self.world.time_s < self.stalled_until:
            self.world.at(self.stalled_until, lambda: self.run_fiber(fiber))
            return
        if not fiber.is_due:
            return  # woken by what came first: its deadline, or what it waited for
        with self._being_active():
            fiber.resume()
        if fiber.ended:
            self.fibers.remove(fiber)
        self._settle()

    @property
    def main_thread_id(self) -> int:
        """Of the fiber that was started first."""
        return self._main.thread_id if self._main is not None else 0

    def interrupt(self, thread_id: int) -> None:
        """SIGINT for a thread: KeyboardInterrupt where it waits, if what it runs was cancelled."""
        core = backend.current_or_none()
        if isinstance(core, ExecutorCore) and core.work.hears_cancel(thread_id):
            for fiber in self.fibers:
                if fiber.thread_id == thread_id:
                    fiber.interrupted = True

    @contextmanager
    def _being_active(self) -> Iterator[None]:
        """What is process-wide in production is ours meanwhile."""
        outer = self.world.active
        assert outer is None, f"{self.name} would run inside {outer}"
        self.world.active = self
        released.extend(self.let_go)
        self.let_go.clear()
        backend.set_current(self.core)
        try:
            yield
        finally:
            self.core = backend.current_or_none()
            backend.set_current(None)
            self.let_go.extend(released)
            released.clear()
            self.world.active = None

    def _settle(self) -> None:
        """Arrange what follows from what just ran."""
        if self.ended:
            return
        reactor = self.reactor
        if reactor is not None:
            if self.poller.has_marked or reactor._soon:
                self.turn_soon(self.world.rng.uniform(0, 10e-6))
            elif self.let_go or (reactor.dirty and not isinstance(reactor, SharedReactor)):
                # What a core worker queues must have been seen to by its lock (rpc/turns.py).
                self.turn_soon(_BACKGROUND_S)
            while reactor._timers and reactor._timers[0].callback is None:
                heapq.heappop(reactor._timers)
            self._arm_timer(reactor)
        for fiber in self.fibers:
            if not fiber.waking and fiber.is_ready:
                fiber.waking = True
                self.world.later(self.world.rng.uniform(0, 20e-6), partial(self.run_fiber, fiber))
        for check in self.after_turn:
            check()

    def _arm_timer(self, reactor: Reactor) -> None:
        due = reactor._timers[0].when if reactor._timers else None
        if self._timer is not None:
            if self._timer.action is not None and due == self._timer.when:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = self.world.at(due, self._timer_rang)

    def _timer_rang(self) -> None:
        self._timer = None
        self.turn_soon()

    # -- the end ---------------------------------------------------------------------------------

    def exit(self, code: int) -> None:
        """os._exit(), called by the process itself. Raises ProcessEnded."""
        self._end(code, -1)
        raise ProcessEnded

    def kill(self, signal: int = 9) -> None:
        """From outside, between two turns."""
        assert self.world.active is not self
        self._end(-1, signal)

    def _end(self, code: int, signal: int) -> None:
        if self.ended:
            return
        self.ended = True
        self.exit_code, self.signal = code, signal
        self.world.tell(f"{self!r} ends: " + (f"exit {code}" if signal < 0 else f"signal {signal}"))
        for event in (self._turn, self._timer):
            if event is not None:
                event.cancel()
        self.last_words_at = self.descriptors.close_everything()
        for let_go in self.at_end:
            let_go()
        for fiber in self.fibers:
            if fiber is not self.world.fiber:
                fiber.waking = True
                self.world.later(0.0, partial(self.run_fiber, fiber))
        self.on_end(self)
        # Its memory: what it held must not be taken for what others hold.
        self.reactor = None
        self.world.later(0.0, self._forget)

    def _forget(self) -> None:
        self.core = None
        self.after_turn.clear()
        self.let_go.clear()


def _nobody_waits(_: VirtualProcess) -> None:
    """The end of a process that is nobody's child."""


@contextmanager
def _locked(reactor: Reactor) -> Iterator[None]:
    lock = getattr(reactor, "lock", None)
    if lock is None:
        yield
    else:
        with lock:
            yield


class VirtualLock:
    """The lock of a core worker. Threads of the world never wait for it: who waits must not hold it."""

    def __init__(self, reactor: VirtualReactor) -> None:
        self._reactor = reactor
        self._owner: int | None = None
        self._depth = 0

    @property
    def is_held_here(self) -> bool:
        return self._owner == threading.get_ident()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = threading.get_ident()
        if self._owner not in (None, me):
            raise AssertionError("a thread waits while it holds its core worker's lock")
        self._owner = me
        self._depth += 1
        return True

    def release(self) -> None:
        assert self._owner == threading.get_ident(), "released by another thread"
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        if (self._reactor.dirty or self._reactor._soon) and not self._reactor.is_dispatching:
            self._reactor._left()
        self.release()


class VirtualReactor(SharedReactor):
    """A core worker's reactor. Threads that wait are fibers; the world reads the sockets."""

    def __init__(self, process: VirtualProcess, on_idle: Callable[[], None] | None = None) -> None:
        super().__init__(
            on_idle,
            poller=process.poller,
            clock=process.world.now,
            descriptors=process.descriptors,
        )
        # What production contains fails the simulation.
        self.containment.on_contained = process.world.contained
        self.lock = VirtualLock(self)  # type: ignore[assignment]
        self._process = process
        process.reactor = self

    def start(self) -> None:
        self._process.world.later(IDLE_S, self._tick)

    def _tick(self) -> None:
        """What the background thread does now and then."""
        if self._closing or self._process.ended:
            return

        def idle() -> None:
            with self.lock:
                self._idle()

        self._process.run(idle)
        self._process.world.later(IDLE_S, self._tick)

    def wait(self, waiter: Waiter, deadline: float | None = None) -> bool:
        if waiter.remaining <= 0:
            return True
        world = self._process.world
        fiber = world.fiber
        assert fiber is not None, "only fibers wait"
        with self.lock:
            self.flush()
        if self._closing:
            return False
        self._followers.append(waiter)
        try:
            fiber.wait(waiter, deadline)
        finally:
            self._followers.remove(waiter)
        return waiter.remaining <= 0

    def _left(self) -> None:
        # No time passes while code runs, so no line is ever quiet: what may wait for a moment leaves at once.
        self.flush()
        if self._soon:
            self.ask_flush()

    def ask_flush(self) -> None:
        self._process.turn_soon(_BACKGROUND_S)

    def nudge(self) -> None:
        self._process.turn_soon(_BACKGROUND_S)

    def shut(self) -> None:
        self._closing = True
        for fiber in self._process.fibers:
            if fiber is not self._process.world.fiber and not fiber.waking:
                fiber.waking = True
                self._process.world.later(0.0, partial(self._process.run_fiber, fiber))

    def close(self) -> None:
        Reactor.close(self)
