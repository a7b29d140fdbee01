"""ObjectRefGenerator: the references that a generator task yields, one after another, as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from beamlet.api.object_ref import ObjectRef
from beamlet.base.own_code import for_users, hide_our_frames
from beamlet.core_worker.owning.streams import DYNAMIC, STREAMING, Stream, Streams

T_co = TypeVar("T_co", covariant=True)


def returns_on_wire(num_returns: int | str) -> int:
    """How ``num_returns`` travels: generators have numbers below zero."""
    if isinstance(num_returns, int):
        return num_returns
    return STREAMING if num_returns == "streaming" else DYNAMIC


_ONE_BY_ONE = (
    "an ObjectRefGenerator {}: it gives references one after another, while the task runs. Iterate over it; "
    "list(generator) waits until the task has ended."
)


class ObjectRefGenerator(Generic[T_co]):
    """What ``f.remote()`` returns when ``f`` is a generator: iterate over it, also with ``async for``.

    Each step gives an ObjectRef, as soon as the task has yielded it.  If the task raises, its error is the
    last reference.  Cannot be pickled; one thread at a time.  A generator that was read from is stopped when
    the last reference to this goes.

    >>> import beamlet as ray
    >>> @ray.remote
    ... def count(n: int):
    ...     yield from range(n)
    >>> [ray.get(ref) for ref in count.remote(3)]
    [0, 1, 2]
    """

    def __init__(self, streams: Streams, stream: Stream, completion: ObjectRef[None]) -> None:
        self._streams = streams
        self._stream = stream
        self._completion = completion

    def __del__(self) -> None:
        if hasattr(self, "_stream"):  # else its constructor was refused
            self._streams.abandon(self._stream)

    def __iter__(self) -> Iterator[ObjectRef[T_co]]:
        return self

    def __next__(self) -> ObjectRef[T_co]:
        try:
            ref = self._streams.next(self._stream, None)
        except BaseException as error:
            hide_our_frames(error)
            raise
        if ref is None:
            raise StopIteration
        return ref  # type: ignore[no-any-return]

    def __aiter__(self) -> AsyncIterator[ObjectRef[T_co]]:
        return self

    async def __anext__(self) -> ObjectRef[T_co]:
        try:
            ref = await self._streams.next_async(self._stream)
        except BaseException as error:
            hide_our_frames(error)
            raise
        if ref is None:
            raise StopAsyncIteration
        return ref  # type: ignore[no-any-return]

    def completed(self) -> ObjectRef[None]:
        """A reference that is ready when the task has ended; getting it raises the task's error."""
        return self._completion

    def next_ready(self) -> bool:
        """Whether the next step would not wait."""
        return self._stream.can_step

    def is_finished(self) -> bool:
        """Whether the task has ended and every item was taken."""
        return self._stream.finished and not self._stream.ready

    def send(self, value: Any) -> NoReturn:
        raise NotImplementedError("values cannot be sent into a generator that runs in another process")

    def throw(self, value: Any) -> NoReturn:
        raise NotImplementedError("exceptions cannot be thrown into a remote generator; use beamlet.cancel()")

    def close(self) -> NoReturn:
        raise NotImplementedError("a remote generator is ended with beamlet.cancel(generator)")

    asend, athrow, aclose = send, throw, close

    if not TYPE_CHECKING:  # a checker shall say so itself

        @for_users
        def __len__(self):
            raise TypeError(_ONE_BY_ONE.format("has no length"))

        @for_users
        def __getitem__(self, key):
            raise TypeError(_ONE_BY_ONE.format("cannot be indexed"))

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._stream.task_id.hex()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("only the process that called the task can read an ObjectRefGenerator")
