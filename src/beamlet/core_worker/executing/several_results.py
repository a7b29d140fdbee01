"""What a task with other than one result returned, as that many values: taken once, counted, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from beamlet.base.own_code import MADE_FOR_USERS
from beamlet.core_worker.owning.streams import DYNAMIC, STREAMING
from beamlet.protocol.peer import CallActor, PushTask


def values_of(work: PushTask | CallActor, value: Any) -> list[Any]:
    """The values of the task's results."""
    if work.num_returns == DYNAMIC:
        return [value]
    if work.num_returns in (0, STREAMING):
        return []
    values, found = _taken(value, work.num_returns)
    if len(values) != work.num_returns:
        problem = ValueError(
            f"{work.name or getattr(work, 'method', 'the task')} was submitted with num_returns="
            f"{work.num_returns} and must return (or yield) that many values; it returned {found}"
        )
        setattr(problem, MADE_FOR_USERS, True)
        raise problem
    return values


def _taken(value: Any, count: int) -> tuple[list[Any], str]:
    """The ``count`` values of one sized or finite iterable, and what it holds for a person to read."""
    if isinstance(value, Iterator):
        values = list(islice(value, count + 1))
        if len(values) > count:
            return [], f"more than {count} values"
        return values, _several_of("value", len(values))
    try:
        size = len(value)
        values = list(value) if size == count else []
    except TypeError:
        return [], f"a {type(value).__name__}"
    return values, _several_of("value", size)


def _several_of(noun: str, count: int) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"
