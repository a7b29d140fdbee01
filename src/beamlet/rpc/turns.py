"""Who polls: one reactor shared by the threads of a core worker, one of them at a time.

A thread that waits for something (a driver in ``get``, a worker for its next task) reads the sockets
itself, so that an answer wakes the very thread that wants it.  A background thread does so only while
nobody waits.

    leading   holds ``_turn`` and is in ``poll``/``dispatch``; at most one thread
    following waits on its own Waiter because another thread leads
    parked    the background thread while user threads come and go; it looks again after a moment, later every
              PARK_S, and leads if none came meanwhile

Invariant: whenever a Waiter is pending, somebody leads or is about to: a leader that leaves while others
follow wakes the background thread first.

Everything that handlers touch is guarded by ``lock`` (one per core worker); polling happens outside it.

Whoever queues something makes it leave, whether or not anybody waits: at the end of ``with lock`` it is
written if it is the first since a thread waited (who asks one thing at a time should not wait for anything
else), the lines were quiet for QUIET_S (longer in a loop), or GATHERED such ends have passed; else whoever
leads is told, or about to look (``leave``): while things gather it sleeps no longer than TICK_S.  So a loop
of calls gathers, and the last of them is not forgotten.

User code can run in the middle of ours: a signal handler where we wait, anywhere the ``__del__`` of what
the garbage collector found.  If it waits where its thread polls, it leads a turn within the turn (``_turn``
may be taken again by its holder); while such a handler runs, and does not wait, the background thread leads
beside it (``step_aside``).  Where its thread holds the lock (``is_in_the_middle``) books are half written:
what it asks for is ``put_off``, or refused.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from typing import Any

from beamlet.base.stack_room import StackRoom
from beamlet.rpc.core_lock import CoreLock, without_leaving
from beamlet.rpc.reactor import Reactor
from beamlet.rpc.waiter import Waiter

__all__ = ["GATHERED", "IDLE_S", "IN_THE_MIDDLE", "PARK_S", "QUIET_S", "TICK_S", "SharedReactor", "Waiter"]

#: Two processes that pass a large array to and fro wait almost so long for each other, again and again.
LONGEST_SPIN_S = 300e-6
#: How long after the last user thread's turn the background thread takes over; bounds how late a message
#: is handled while user code computes.
PARK_S = 0.002
#: The same when it has just led, and twice as long each time: a program that mostly computes waits for one
#: thing, asks for a few others, and is gone again. What it left behind lay there for 2.0 ms (median), now it
#: is 0.25; loops of waits cost the same.
_GLANCE_S = PARK_S / 8
#: Lines that carried nothing for so long are written at once: nobody else is about to.
QUIET_S = 100e-6
#: So often what is queued may be left to gather.
GATHERED = 64
#: A frame of so many says that somebody is in a loop: the next may gather so many times as long, and the
#: clock is looked at only for every eighth.
_MANY, _LONGER, _EIGHTH = 8, 4, 7
#: While things gather, whoever leads looks this often, until nothing had gathered at so many looks: to be
#: woken for each would cost more than they do.
TICK_S, _TICKS = 0.001, 8
#: With nothing else to do, how often somebody looks at ``on_idle`` (released references).
IDLE_S = 0.25
#: A thread that waits and is alone looks twice as rarely each time, down to this: nobody else releases
#: anything. Five hundred idle actors that woke eight times a second took a quarter of a core.
_ALONE_S = 4.0
#: How often a wait returns to Python so that signal handlers (Ctrl-C) run; epoll itself is interruptible.
_FOLLOW_S = 1.0
#: How long the end waits for the thread that leads to notice it.
_LEADER_LEAVES_S = 2.0
#: With fewer frames left before RecursionError, a thread neither handles nor encodes messages: they would be
#: lost halfway. Another does.
HEADROOM_FRAMES = 150


class SharedReactor(Reactor):
    """A reactor, its lock, its background thread, and the rule of turns."""

    def __init__(self, on_idle: Callable[[], None] | None = None, **ports: Any) -> None:
        """ports: what ``Reactor`` takes."""
        super().__init__(**{"longest_spin_s": LONGEST_SPIN_S, **ports})
        self.lock = CoreLock(self)
        #: Whether the calling thread holds the lock: code of the user's then runs amid half-written books.
        self.is_in_the_middle: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]
        #: The same for hot paths, which queue nothing, or say ``leave`` themselves before they let go.
        self.bare_lock = without_leaving(self.lock)
        #: Whoever holds the lock is dispatching: what it queues leaves at the end of its pass.
        self.is_dispatching = False
        self.quiet_s = QUIET_S
        self.gathered = GATHERED
        #: From when on what is queued leaves at once: the lines are quiet then, or a wait has ended.
        self._prompt_from = self._quiet_from = 0.0
        self._gathering = 0  # how often something was left to gather since it last left
        self._unlooked = 0  # a mask: while ``_gathering`` has one of these bits, nobody looks at the clock
        self._turn = threading.RLock()
        self._on_idle = on_idle
        self._followers: list[Waiter] = []
        #: Counts turns taken by user threads; the background thread watches it move.
        self._turns_taken = 0
        self._user_leads = False
        #: Handlers of signals that run in the thread that has the turn: it does not lead meanwhile.
        self._aside = 0
        #: The background thread is parked in ``acquire``; released: it shall run.
        self._bell = _thread.allocate_lock()
        self._bell.acquire()
        #: Parked until woken, because one user thread has led for a whole PARK_S: it wakes us when it leaves.
        self._deep = False
        #: The background thread leads and is in ``poll``.
        self._sleeping = False
        #: ``ask_flush`` has woken the leader, who has not dispatched yet.
        self._woken = False
        self._ticks = 0  # while above, the leader sleeps no longer than TICK_S
        #: ``nudge`` asked for a background turn.
        self._wanted = False
        self._next_idle = 0.0
        #: How long ``lead_once`` may wait.
        self._patience = IDLE_S
        self._closing = False
        #: Held from ``start`` to the end of the background thread.
        self._runs = _thread.allocate_lock()
        self._background_thread = 0

    def start(self) -> None:
        # Not a threading.Thread: it is none of the program's, and making one costs each worker 0.2 ms.
        self._next_idle = self.now() + IDLE_S
        self._runs.acquire()
        try:
            self._background_thread = _thread.start_new_thread(self._run_background, ())
        except BaseException:
            self._runs.release()
            raise

    @property
    def is_closing(self) -> bool:
        """``shut`` was called: waits end, whether or not what they wait for came."""
        return self._closing

    # -- user threads ----------------------------------------------------------------------------

    def wait(self, waiter: Waiter, deadline: float | None = None) -> bool:
        """Read and dispatch until ``waiter`` is complete; False when ``deadline`` (monotonic) came first.

        Called without the lock.  KeyboardInterrupt passes through.
        """
        if waiter.remaining <= 0:
            return True
        if self.is_in_the_middle():
            raise RuntimeError(IN_THE_MIDDLE)
        if _stack_is_nearly_full() or not self._turn.acquire(blocking=False):
            return self._follow(waiter, deadline)
        led = self._user_leads
        try:
            if self._closing:
                return False
            self._user_leads = True
            self._turns_taken += 1
            return self._lead(waiter, deadline)
        finally:
            self._user_leads = led
            self._prompt_from = 0.0
            self._turn.release()
            if self._followers or self._deep:
                self._unpark()

    def _lead(self, waiter: Waiter, deadline: float | None) -> bool:
        if self.dirty:
            with self.bare_lock:
                self.flush()
        longest = IDLE_S
        while waiter.remaining > 0:
            if self._closing:
                return False
            ticks = self._ticks
            timeout = TICK_S if ticks else longest
            if deadline is not None:
                left = deadline - self.now()
                if left <= 0:
                    return False
                if left < timeout:
                    timeout = left
            events = self.poll(timeout)
            longest = IDLE_S if events or ticks else self._alone(longest)
            with self.bare_lock:
                self.dispatch(events)
                if self.now() > self._next_idle:
                    self._idle()
        return True

    def _alone(self, longest: float) -> float:
        """How long to wait after a wait of ``longest`` in which nothing came."""
        return min(2 * longest, _ALONE_S) if threading.active_count() == 1 else IDLE_S

    def lead_once(self, timeout_s: float | None) -> bool:
        """One pass for a thread that has a loop of its own; False when another thread leads.

        Then that thread is told that a user thread wants the turn, and whatever it handles must wake the
        caller's loop.
        """
        self._turns_taken += 1
        if not self._turn.acquire(blocking=False):
            with self.lock:
                self.flush()
            return False
        led = self._user_leads
        try:
            self._user_leads = True
            with self.bare_lock:
                self.flush()
            ticks = self._ticks
            limit = TICK_S if ticks else self._patience
            if timeout_s is not None and timeout_s < limit:
                limit = timeout_s
            events = self.poll(limit)
            if events or ticks:
                self._patience = IDLE_S
            elif limit >= self._patience:  # else the loop has something to do, and did not wait
                self._patience = self._alone(limit)
            with self.bare_lock:
                self.dispatch(events)
                if self.now() > self._next_idle:
                    self._idle()
        finally:
            self._user_leads = led
            self._prompt_from = 0.0
            self._turn.release()
            if self._followers or self._deep:
                self._unpark()
        return True

    def _follow(self, waiter: Waiter, deadline: float | None) -> bool:
        with self.lock:
            if _stack_is_nearly_full():
                self.ask_flush()
            else:
                self.flush()
            waiter.arm()
            self._followers.append(waiter)
        self._turns_taken += 1
        try:
            while waiter.remaining > 0:
                timeout = _FOLLOW_S
                if deadline is not None:
                    timeout = min(timeout, deadline - self.now())
                    if timeout <= 0:
                        return False
                if self._closing:
                    return False
                if self._nobody_leads():
                    self._unpark()
                waiter.follow(timeout)
            return True
        finally:
            self._prompt_from = 0.0
            with self.lock:
                self._followers.remove(waiter)

    def _nobody_leads(self) -> bool:
        """Or only the calling thread, which is about to follow in the middle of its own turn."""
        if not self._turn.acquire(blocking=False):
            return False
        self._turn.release()
        return True

    def step_aside(self) -> bool | None:
        """A handler of the user's begins, here. It may wait for other threads, which wait for messages.

        None if that is no concern of theirs; else to be given to ``step_back``.
        """
        if not self._turn._is_owned():  # type: ignore[attr-defined]
            return None
        led, self._user_leads = self._user_leads, False
        self._aside += 1
        self._unpark()
        return led

    def step_back(self, led: bool | None) -> None:
        """It is over. What the caller waits for may be here by now: it looks, before it sleeps on."""
        if led is not None:
            self._aside -= 1
            self._user_leads = led
            self.wake()

    def leave(self) -> None:
        """The calling thread is about to let go of the lock: what is queued leaves, or is seen to."""
        if self.is_dispatching:
            return
        if self.dirty:
            self._gathering = count = self._gathering + 1
            if count & self._unlooked and self._ticks and self._prompt_from:
                return
            now = self.now()
            if (now > self._prompt_from or self._gathering >= self.gathered) and self._write(now):
                return
        elif not self._soon:
            return
        if self._sleeping or self._user_leads or self._deep:
            self.ask_flush()

    def gather(self) -> None:
        """As ``leave``, by a thread that is about to queue more."""
        self._gathering = count = self._gathering + 1
        if count & self._unlooked and self._ticks:
            return
        now = self.now()
        if (now > self._quiet_from or self._gathering >= self.gathered) and self._write(now):
            return
        if self._sleeping or self._user_leads or self._deep:
            self.ask_flush()

    def _write(self, now: float) -> bool:
        """False: another thread must see to something."""
        if _stack_is_nearly_full():
            return False
        many = self._gathering >= _MANY
        self._gathering = 0
        self._unlooked = _EIGHTH if many else 0
        self._prompt_from = self._quiet_from = now + self.quiet_s * (_LONGER if many else 1)
        Reactor.flush(self)
        return not self._soon

    def flush(self) -> None:
        if self.dirty:
            self._gathering = 0
            self._prompt_from = self._quiet_from = self.now() + self.quiet_s
            Reactor.flush(self)

    def ask_flush(self) -> None:
        """Something is queued, or put off, and nobody here will see to it: another thread soon shall.

        Cheap when that is arranged already. Called under the lock by a thread that does not lead. A
        background thread that is parked for a moment needs no word.
        """
        if self._sleeping or self._user_leads:
            if not (self._ticks or self._woken):
                self._woken = True
                self.wake()
            self._ticks = _TICKS
        elif self._deep:
            self._deep = False  # once is enough: until it runs, which may take a while, we go on
            self._unpark()

    def dispatch(self, events: list[tuple[int, int]]) -> None:
        self._woken = False
        if self._ticks and not (self.dirty or self._soon):
            self._ticks -= 1
        self.is_dispatching = True
        try:
            Reactor.dispatch(self, events)
        finally:
            self.is_dispatching = False

    def put_off(self, callback: Callable[[], None]) -> None:
        """For user code in the middle of our work: do it, under the lock, as soon as that is over."""
        self._soon.append(callback)
        if not self.is_dispatching:
            self.ask_flush()

    @property
    def has_put_off(self) -> bool:
        """Something is still to be done ``as soon as that is over``."""
        return bool(self._soon)

    def nudge(self) -> None:
        """Nobody will wait for what comes next (a coroutine, a future): the background thread should read."""
        self._wanted = True
        self._unpark()

    # -- background thread -----------------------------------------------------------------------

    def _run_background(self) -> None:
        try:
            self._background()
        finally:
            # Logging makes an entry for a thread that ``threading`` does not know, and before 3.13 it stays.
            threading._active.pop(_thread.get_ident(), None)  # type: ignore[attr-defined]
            self._runs.release()

    def _background(self) -> None:
        seen = -1
        park_s = _GLANCE_S
        while not self._closing:
            if self.now() > self._next_idle:
                with self.lock:
                    self._idle()
            quiet = seen == self._turns_taken
            seen = self._turns_taken
            try:
                is_due = quiet or self._wanted or self._somebody_waits()
                if is_due and self._turn.acquire(blocking=False):
                    try:
                        self._lead_in_background(seen)
                    finally:
                        self._turn.release()
                    park_s = _GLANCE_S
                elif is_due and self._stands_in():
                    self._lead_in_background(seen, beside=True)
                    self.wake()  # who has stepped back may sleep, and what it waits for have come here
                else:
                    self._park(park_s, deep=quiet and self._user_leads)
                    park_s = min(2 * park_s, PARK_S)
            except BaseException as error:  # SystemExit, too: nobody here could act on it
                self._survive(error)

    def _survive(self, error: BaseException) -> None:
        if not self._closing:
            self.containment.contain(error, "leading in the background")
            self._bell.acquire(timeout=PARK_S)

    def _park(self, park_s: float, deep: bool) -> None:
        """Let user threads have the turns for a while."""
        if self.dirty or self._soon:
            with self.lock:
                self.dispatch([])
        self._deep = deep
        # Who left before it could see that wakes nobody.
        self._bell.acquire(timeout=-1 if deep and self._user_leads else park_s)
        self._deep = False

    def _unpark(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:
            pass  # it has been told already

    def _idle(self) -> None:
        """Under the lock: what should happen now and then, busy or not."""
        self._next_idle = self.now() + IDLE_S
        if self._on_idle is not None:
            try:
                self._on_idle()
            except Exception as error:
                self.containment.contain(error, "housekeeping")
            self.flush()

    def _somebody_waits(self) -> bool:
        """A follower's waiter is still to be completed. (One that is complete may not have noticed yet.)"""
        return any(waiter.remaining > 0 for waiter in tuple(self._followers))

    def _stands_in(self) -> bool:
        """Who has the turn has stepped aside, and does not wait."""
        return self._aside > 0 and not self._user_leads

    def _lead_in_background(self, seen: int, beside: bool = False) -> None:
        """beside: without the turn, for as long as who has it does not lead."""
        self._wanted = False
        while not self._closing and (seen == self._turns_taken or self._somebody_waits()):
            if beside and not self._stands_in():
                return
            with self.bare_lock:
                self.flush()
                self._sleeping = True
                ticks = self._ticks
                self.spin_as_usual()  # nobody waits who would gain by more
            events = self.poll(TICK_S, spin=False) if ticks else self.poll(IDLE_S)
            with self.bare_lock:
                self._sleeping = False
                self.dispatch(events)
                if self.now() > self._next_idle:
                    self._idle()

    def abandon(self) -> None:
        """In a fork: there are no other threads here, and nothing will come; waits end."""
        self._closing = True
        super().close()

    def shut(self) -> None:
        """Stop the background thread and every wait. Idempotent; then the caller closes connections."""
        self._closing = True
        self.wake()
        self._unpark()
        with self.lock:
            for waiter in self._followers:
                waiter.interrupt()
        if _thread.get_ident() != self._background_thread and self._runs.acquire(timeout=_LEADER_LEAVES_S):
            self._runs.release()

    def close(self) -> None:
        """After ``shut`` and the end of all connections: give back the descriptors.

        A leader that is still in a handler keeps them, until the process ends, rather than losing them to
        whoever opens something next. So does one whose poll a signal handler, our caller, has interrupted.
        """
        if self._turn._is_owned():  # type: ignore[attr-defined]
            return
        if self._turn.acquire(timeout=_LEADER_LEAVES_S):
            try:
                super().close()
            finally:
                self._turn.release()


IN_THE_MIDDLE = (
    "this call cannot be made here: a __del__, or another callback of the garbage collector, made it in the "
    "middle of Beamlet's own work, where nothing can be waited for. There .remote(), kill() and cancel() are "
    "done a moment later, and small values can be put; leave the rest to a task."
)
_stack_is_nearly_full = StackRoom(HEADROOM_FRAMES).is_lacking
