"""What a process says to itself: an actor that calls its own methods, an owner that borrows from itself.

It takes the way of a Connection, but for the socket: it needs no descriptor, and nothing of it can break.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beamlet.protocol.message import Message
from beamlet.rpc.batches import decoder_for, encode_what_can
from beamlet.rpc.framing import PREFIX_BYTES
from beamlet.rpc.reactor import Reactor


class SelfTalk:
    """``on_batch(self_talk, messages)`` is called in the reactor's next pass, with copies."""

    __slots__ = ("_decode", "_on_batch", "_on_unsent", "_outbox", "_reactor", "closed", "context", "label")

    def __init__(
        self,
        reactor: Reactor,
        *,
        messages: Any,
        on_batch: Callable[[SelfTalk, list[Any]], None],
        label: str,
        context: Any,
        on_unsent: Callable[[Message, Exception], None] | None = None,
    ) -> None:
        self._reactor = reactor
        self._on_batch = on_batch
        self._on_unsent = on_unsent
        self._decode = decoder_for(messages).decode
        self._outbox: list[Message] = []
        self.label = label
        self.context = context
        self.closed = False

    def send(self, message: Message) -> None:
        if self.closed:
            return
        if not self._outbox:
            self._reactor.call_soon(self._deliver)
        self._outbox.append(message)

    def _deliver(self) -> None:
        messages, self._outbox = self._outbox, []
        # Through the encoder: what both sides may change must not be one thing.
        frames, failures = encode_what_can(messages)
        for message, error in failures:
            self._reactor.containment.contain(error, f"encoding {type(message).__name__} for {self.label}")
            if self._on_unsent is not None:
                self._on_unsent(message, error)
        for frame in frames:
            if self.closed:
                return
            try:
                self._on_batch(self, self._decode(memoryview(frame)[PREFIX_BYTES:]))
            except Exception as error:  # there is no connection that it could cost
                self._reactor.containment.contain(error, "handling what it said", self.label)

    def close(self) -> None:
        self.closed = True
        self._outbox.clear()
