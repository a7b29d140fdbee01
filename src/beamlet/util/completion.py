"""Results as they come: ``as_completed``, ``map_unordered``."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import beamlet
from beamlet.api.argument_table import checked
from beamlet.api.option_rules import a_kind, brief
from beamlet.base.own_code import for_users, hide_our_frames

#: So many chunks are looked at before all.
_NEAR_CHUNKS = 10


@for_users
def as_completed(
    refs: Sequence[Any], *, chunk_size: int = 10, yield_obj_refs: bool = False, **kwargs: Any
) -> Iterator[Any]:
    """Yield each value when it is there.

    chunk_size: how many are taken at one look. yield_obj_refs: the references instead of the values.
    kwargs: passed to ``wait`` (timeout of one look, fetch_local). Raises ValueError for num_returns or a
    chunk_size below 1, and what a task raised, when its turn comes.

    >>> import beamlet as ray
    >>> sorted(as_completed([ray.put(i) for i in range(3)]))
    [0, 1, 2]
    """
    _check("util.as_completed", chunk_size, yield_obj_refs, kwargs)
    checked("util.as_completed", "refs", refs)
    return _yield_as_completed(_Unfinished(chunk_size, kwargs, refs), yield_obj_refs)


@for_users
def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    **kwargs: Any,
) -> Iterator[Any]:
    """Run ``fn.remote(item)`` for every item and yield each result when it is there.

    backpressure_size: at most so many unfinished at once, so that endless items fit into memory; None: all.
    Other arguments as of ``as_completed``. Raises TypeError if ``fn`` is no remote function.
    """
    _check("util.map_unordered", chunk_size, yield_obj_refs, kwargs)
    checked("util.map_unordered", "items", items)
    checked("util.map_unordered", "backpressure_size", backpressure_size)
    if isinstance(fn, type) or not hasattr(fn, "remote"):
        raise TypeError(
            f"map_unordered(fn={brief(fn)}): fn must be a remote function, not {a_kind(fn)}: "
            "decorate it with @beamlet.remote"
        )
    if backpressure_size is not None and backpressure_size < chunk_size:
        raise ValueError(
            f"backpressure_size ({backpressure_size}) must be at least chunk_size ({chunk_size})"
        )
    return _map_unordered(fn, items, backpressure_size, chunk_size, yield_obj_refs, kwargs)


def _map_unordered(
    fn: Any,
    items: Iterable[Any],
    most_unfinished: int | None,
    chunk_size: int,
    yield_refs: bool,
    kwargs: dict[str, Any],
) -> Iterator[Any]:
    unfinished = _Unfinished(chunk_size, kwargs)
    try:
        for item in items:
            unfinished.far.append(fn.remote(item))
            while most_unfinished is not None and len(unfinished) >= most_unfinished:
                yield from _of(unfinished.look(), yield_refs)
        yield from _yield_as_completed(unfinished, yield_refs)
    except BaseException as error:
        hide_our_frames(error)
        raise


def _yield_as_completed(unfinished: _Unfinished, yield_refs: bool) -> Iterator[Any]:
    try:
        while len(unfinished):
            yield from _of(unfinished.look(), yield_refs)
    except BaseException as error:
        hide_our_frames(error)
        raise


def _of(ready: list[Any], yield_refs: bool) -> Iterator[Any]:
    for ref in ready:  # not map(): a StopIteration that a task raised would end it, as if that were all
        yield ref if yield_refs else beamlet.get(ref)


class _Unfinished:
    """References of which some may be ready; those at the beginning are looked at first.

    To look at all takes as long as they are many, and of a hundred thousand ten thousand chunks are taken: so
    all are looked at only when none of the first is ready.
    """

    def __init__(self, chunk_size: int, kwargs: dict[str, Any], refs: Iterable[Any] = ()) -> None:
        self._chunk_size = chunk_size
        self._kwargs = kwargs
        self._near: list[Any] = []
        self.far = deque(refs)

    def __len__(self) -> int:
        return len(self._near) + len(self.far)

    def look(self) -> list[Any]:
        """Take out at least one that is ready (unless a timeout was given), and others, up to a chunk."""
        while self.far and len(self._near) < _NEAR_CHUNKS * self._chunk_size:
            self._near.append(self.far.popleft())
        ready, self._near = self._ready_of(self._near)
        if ready:
            return ready
        everything = [*self._near, *self.far]
        first, rest = beamlet.wait(everything, num_returns=1, **self._kwargs)
        if first and rest and self._chunk_size > 1:
            first, rest = self._ready_of(everything)
        self._near, self.far = [], deque(rest)
        return first

    def _ready_of(self, refs: list[Any]) -> tuple[list[Any], list[Any]]:
        most = min(self._chunk_size, len(refs))
        return beamlet.wait(refs, num_returns=most, **{**self._kwargs, "timeout": 0})


def _check(function: str, chunk_size: int, yield_obj_refs: bool, kwargs: dict[str, Any]) -> None:
    checked(function, "chunk_size", chunk_size)
    checked(function, "yield_obj_refs", yield_obj_refs)
    for name, value in kwargs.items():
        if name in ("timeout", "fetch_local"):
            checked("wait", name, value)
        elif name != "num_returns":
            raise TypeError(f"{function.removeprefix('util.')}() has no argument {name!r}")
    if "num_returns" in kwargs:
        raise ValueError(
            "num_returns cannot be given: all results are returned, chunk_size of them at a time"
        )
