"""What submitting needs of the rest of a core worker: interfaces, all narrow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from beamlet.base.ids import Address
from beamlet.core_worker.owning.ports import Ref
from beamlet.core_worker.owning.streams import Stream, Streams
from beamlet.core_worker.peers import Peer
from beamlet.protocol.message import Message
from beamlet.rpc.descriptors import Wire

#: Builds the public ObjectRefGenerator of a stream; the Ref is of the object that says that it is over.
MakeGenerator = Callable[[Streams, Stream, Ref], Any]


class Raylet(Protocol):
    """Our raylet. Under the lock, but for ``call``."""

    def send(self, message: Message) -> None: ...

    def send_first(self, message: Message) -> None:
        """It leaves before anything that is queued for others, or will be."""

    def request(self, message: Any, on_answer: Callable[[Any], None]) -> int:
        """Send ``message`` under a new ``req``. The answer is None when the raylet is gone, or ``Unsent``."""

    def call(self, message: Any) -> Any:
        """Send a request and wait for its answer, without the lock. Raises ClusterGoneError."""

    def take_socket(self) -> Wire:
        """The socket that came with the message being handled."""

    def gone(self) -> Exception:
        """Why there is no raylet any more."""


class PeerBook(Protocol):
    """All other core workers that we know. Under the lock."""

    @property
    def by_address(self) -> dict[Address, Peer]: ...

    def get(self, address: Address) -> Peer: ...

    def adopt(self, address: Address, take_socket: Callable[[], Wire], generation: int = 1) -> Peer: ...
