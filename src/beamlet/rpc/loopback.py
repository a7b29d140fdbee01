"""A conversation between two parts of one process that behaves as if a socket lay between them.

What is sent now is heard in a later call of the loop, in order, never inside ``send``: neither side may count
on the other having acted when ``send`` returns, so either can be moved to another process.  With ``check``
what is sent is also encoded and decoded, as it would be on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from beamlet.protocol.message import Message
from beamlet.rpc.connection import decoder_for


class Loop(Protocol):
    """Of the reactor."""

    def call_soon(self, callback: Callable[[], None]) -> None: ...


class Port(Protocol):
    """One end of a conversation."""

    def send(self, message: Message) -> None: ...


class LoopbackEnd:
    """Fits ``Port``. ``listen`` must come before the other end's first message is heard."""

    def __init__(self, loop: Loop, accepted: Any | None) -> None:
        self._loop = loop
        self._decode = decoder_for(accepted).decode if accepted is not None else None
        self._on_message: Callable[[Any], None] | None = None
        self._other: LoopbackEnd = self

    def listen(self, on_message: Callable[[Any], None]) -> None:
        self._on_message = on_message

    def send(self, message: Message) -> None:
        other = self._other
        if other._decode is not None:
            (message,) = other._decode(msgspec.msgpack.encode([message]))
        self._loop.call_soon(lambda: other._hear(message))

    def _hear(self, message: Message) -> None:
        assert self._on_message is not None, f"nobody listens for {type(message).__name__}"
        self._on_message(message)


def loopback(loop: Loop, left: Any = None, right: Any = None) -> tuple[LoopbackEnd, LoopbackEnd]:
    """Two ends. ``left``, ``right``: what each accepts, if messages are to be encoded on their way."""
    ends = LoopbackEnd(loop, left), LoopbackEnd(loop, right)
    ends[0]._other, ends[1]._other = ends[1], ends[0]
    return ends
