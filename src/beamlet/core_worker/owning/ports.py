"""What owning objects needs of the rest of a core worker: interfaces, all narrow.

Messages go out through ``Peers`` and ``Sends``.  ``Blocking`` is how a thread of this process waits; the room
on the right (waiting) implements it and composition hands it in, for owners are built before waits are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from beamlet.base.ids import Address, ObjectId
from beamlet.protocol.message import Message
from beamlet.rpc.turns import Waiter


class Ref(Protocol):
    """An ObjectRef, as far as this layer looks into one."""

    @property
    def _id(self) -> ObjectId: ...

    @property
    def _owner(self) -> Address: ...


#: Builds the public ObjectRef; the instance stands for one local count.
MakeRef = Callable[[ObjectId, Address], Ref]


class Sends(Protocol):
    """Whoever takes a message for one receiver. Under the lock."""

    def send(self, message: Message) -> None: ...


class Sender(Sends, Protocol):
    """The process that a message came from; answers go back the same way."""

    @property
    def address(self) -> Address: ...


class Stoppable(Protocol):
    """Work of ours, as far as its generator is concerned."""

    #: No further attempt.
    unwanted: bool


class Peers(Protocol):
    """Other core workers, by address."""

    def get(self, address: Address) -> Sends: ...


class Blocking(Protocol):
    """How a thread of this process waits. Called without the lock."""

    def block_until(
        self, waiter: Waiter, deadline: float | None, refs: Sequence[Ref] = (), needs_all: bool = True
    ) -> bool:
        """False when ``deadline`` (monotonic) came first.

        refs: what is waited for, needs_all: all of them. Raises DeadlockError when that can never be.
        """

    def timeout_text(self, waiter: Waiter, object_ids: Sequence[ObjectId], timeout_s: float) -> str:
        """What a GetTimeoutError says of these, after ``block_until`` with that waiter. At once."""

    def raise_if_shut(self) -> None:
        """Raises ClusterGoneError when there is no cluster to wait for."""


class WaitAdvice(Protocol):
    """Notices waits that are slow habits."""

    def waited(self, refs: Sequence[Ref], seconds: float) -> None: ...
