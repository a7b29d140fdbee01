"""Results as they come: ``as_completed``, ``map_unordered``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import beamlet
from beamlet.api.argument_table import checked
from beamlet.api.option_rules import a_kind, brief
from beamlet.base.own_code import for_users, hide_our_frames


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
    return _yield_as_completed(list(refs), chunk_size, yield_obj_refs, kwargs)


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
    unfinished: list[Any] = []
    try:
        for item in items:
            unfinished.append(fn.remote(item))
            while most_unfinished is not None and len(unfinished) >= most_unfinished:
                ready, unfinished = _look(unfinished, chunk_size, kwargs)
                yield from ready if yield_refs else map(beamlet.get, ready)
        yield from _yield_as_completed(unfinished, chunk_size, yield_refs, kwargs)
    except BaseException as error:
        hide_our_frames(error)
        raise


def _yield_as_completed(
    unfinished: list[Any], chunk_size: int, yield_refs: bool, kwargs: dict[str, Any]
) -> Iterator[Any]:
    try:
        while unfinished:
            ready, unfinished = _look(unfinished, chunk_size, kwargs)
            yield from ready if yield_refs else map(beamlet.get, ready)
    except BaseException as error:
        hide_our_frames(error)
        raise


def _look(unfinished: list[Any], chunk_size: int, kwargs: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """At least one that is ready (unless a timeout was given), and what else is, up to a chunk."""
    first, rest = beamlet.wait(unfinished, num_returns=1, **kwargs)
    if not first or not rest or chunk_size == 1:
        return first, rest
    return beamlet.wait(unfinished, num_returns=min(chunk_size, len(unfinished)), **{**kwargs, "timeout": 0})


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
