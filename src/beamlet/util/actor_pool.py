"""``ActorPool``: a few actors, many values; each actor gets the next value when it is free."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, NoReturn, TypeVar

import beamlet
from beamlet.api.argument_table import checked
from beamlet.api.option_rules import a_kind
from beamlet.base.own_code import for_users, hide_our_frames
from beamlet.exceptions import ActorDiedError

V = TypeVar("V")

#: (actor, value) → reference to the result; a list of references for a method with num_returns.
Submit = Callable[[Any, V], Any]
#: What one call gave: its reference, or all of several as a tuple.
_Result = Any


class ActorPool(Generic[V]):
    """Spreads calls over actors. Not thread-safe.

    >>> import beamlet as ray
    >>> @ray.remote
    ... class Doubler:
    ...     def double(self, x: int) -> int:
    ...         return 2 * x
    >>> pool = ActorPool([Doubler.remote(), Doubler.remote()])
    >>> list(pool.map(lambda actor, x: actor.double.remote(x), [1, 2, 3]))
    [2, 4, 6]
    """

    @for_users
    def __init__(self, actors: Iterable[Any]) -> None:
        self._idle: list[Any] = checked("util.ActorPool", "actors", actors)
        #: Of calls not yet returned: result → (its number, its actor).
        self._running: dict[_Result, tuple[int, Any]] = {}
        self._numbered: dict[int, _Result] = {}
        self._waiting: deque[tuple[Submit[V], V]] = deque()
        self._next_number = 0
        #: The number that get_next() returns next.
        self._next_wanted = 0

    # -- submitting ------------------------------------------------------------------------------

    @for_users
    def submit(self, fn: Submit[V], value: V) -> None:
        """Call ``fn(actor, value)`` with a free actor, now or as soon as there is one."""
        checked("util.ActorPool.submit", "fn", fn)
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.pop()
        try:
            result = _result_of(fn(actor, value))
        except BaseException:
            self._idle.append(actor)  # it was asked for nothing
            raise
        self._running[result] = (self._next_number, actor)
        self._numbered[self._next_number] = result
        self._next_number += 1

    @for_users
    def map(self, fn: Submit[V], values: Iterable[V]) -> Iterator[Any]:
        """Results of ``fn`` for all values, in their order. What was submitted before is dropped."""
        checked("util.ActorPool.map", "fn", fn)
        self._submit_all(fn, checked("util.ActorPool.map", "values", values))
        return self._drain(self.get_next)

    @for_users
    def map_unordered(self, fn: Submit[V], values: Iterable[V]) -> Iterator[Any]:
        """Results of ``fn`` for all values, each when it is there. What was submitted before is dropped."""
        checked("util.ActorPool.map_unordered", "fn", fn)
        self._submit_all(fn, checked("util.ActorPool.map_unordered", "values", values))
        return self._drain(self.get_next_unordered)

    def _submit_all(self, fn: Submit[V], values: Iterable[V]) -> None:
        self._forget_pending()
        for value in values:
            self.submit(fn, value)

    def _drain(self, next_result: Callable[[], Any]) -> Iterator[Any]:
        try:
            while self.has_next():
                yield next_result()
        except BaseException as error:
            hide_our_frames(error)
            raise

    def _forget_pending(self) -> None:
        """Their actors are free for us at once: what they still do comes first in their own queue."""
        self._idle += [actor for _, actor in self._running.values()]
        self._running.clear()
        self._numbered.clear()
        self._waiting.clear()
        self._next_wanted = self._next_number

    # -- results ---------------------------------------------------------------------------------

    def has_next(self) -> bool:
        """Whether a result is still to be returned."""
        return bool(self._running or self._waiting)

    @for_users
    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The result of the earliest submission not yet returned.

        timeout: seconds. ignore_if_timedout: the submission that was too slow is dropped, and its actor free.
        Raises StopIteration if nothing is pending, TimeoutError, ValueError if get_next_unordered() has
        returned something later, or what the call raised.
        """
        timeout = checked("util.ActorPool.get_next", "timeout", timeout)
        checked("util.ActorPool.get_next", "ignore_if_timedout", ignore_if_timedout)
        self._refuse_if_empty()
        result = self._numbered.get(self._next_wanted)
        if result is None:
            raise ValueError(
                "get_next() cannot be mixed with get_next_unordered(), which has already returned the next "
                "result in order. Use one or the other."
            )
        ready, _ = beamlet.wait([_first_of(result)], timeout=timeout)
        if not ready:
            self._too_slow(result, timeout, ignore_if_timedout)
        return self._return(result)

    @for_users
    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Whatever result is there first. Arguments and errors as of ``get_next``."""
        timeout = checked("util.ActorPool.get_next_unordered", "timeout", timeout)
        checked("util.ActorPool.get_next_unordered", "ignore_if_timedout", ignore_if_timedout)
        self._refuse_if_empty()
        results = {_first_of(result): result for result in self._running}
        ready, _ = beamlet.wait(list(results), num_returns=1, timeout=timeout)
        if not ready:
            self._too_slow(next(iter(self._running)), timeout, ignore_if_timedout)
        return self._return(results[ready[0]])

    def _refuse_if_empty(self) -> None:
        if not self.has_next():
            raise StopIteration("no more results: nothing that was submitted is pending")
        if not self._running:
            count = len(self._waiting)
            waiting = "1 submission is waiting" if count == 1 else f"{count} submissions are waiting"
            raise RuntimeError(f"{waiting}, and the pool has no living actor: push() one")

    def _too_slow(self, result: _Result, timeout: float | None, drop: bool) -> NoReturn:
        if drop:
            self._free(self._forget(result))
        raise TimeoutError(
            f"{_first_of(result)} was not ready within {timeout} s" + (", and is dropped" if drop else "")
        )

    def _forget(self, result: _Result) -> Any:
        """It is accounted for; returns the call's actor."""
        number, actor = self._running.pop(result)
        del self._numbered[number]
        self._next_wanted = max(self._next_wanted, number + 1)
        return actor

    def _return(self, result: _Result) -> Any:
        """Free the call's actor, unless it turns out to be dead, then return the result or raise it."""
        actor = self._forget(result)
        try:
            value = beamlet.get(list(result) if isinstance(result, tuple) else result)
        except ActorDiedError:
            raise
        except BaseException:
            self._free(actor)
            raise
        self._free(actor)
        return value

    # -- actors ----------------------------------------------------------------------------------

    def has_free(self) -> bool:
        """Whether an actor has nothing to do."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> Any:
        """Take a free actor out of the pool; None if there is none."""
        return self._idle.pop() if self.has_free() else None

    @for_users
    def push(self, actor: Any) -> None:
        """Add an actor. Raises ValueError if it is in the pool."""
        checked("util.ActorPool.push", "actor", actor)
        if actor in self._idle or any(actor == busy for _, busy in self._running.values()):
            raise ValueError(f"{actor!r} is already in the pool")
        self._free(actor)

    def _free(self, actor: Any) -> None:
        self._idle.append(actor)
        if self._waiting:
            self.submit(*self._waiting.popleft())


def _result_of(returned: Any) -> _Result:
    """What the user's function returned, as a key; TypeError if it is not what a call of an actor gives."""
    refs = returned if isinstance(returned, list) else [returned]
    if not refs or not all(isinstance(ref, beamlet.ObjectRef | beamlet.ObjectRefGenerator) for ref in refs):
        raise TypeError(
            f"util.ActorPool: the function must return the reference that actor.method.remote(…) gives, "
            f"not {a_kind(returned)}"
        )
    return tuple(refs) if isinstance(returned, list) else returned


def _first_of(result: _Result) -> Any:
    """What to wait for: the values of one call are there together."""
    return result[0] if isinstance(result, tuple) else result
