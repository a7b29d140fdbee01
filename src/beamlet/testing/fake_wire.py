"""A network without sockets ●: messages wait on links until the test says which link moves next.

What TCP and Unix sockets promise and no more: order within a link (from → to), none across links.  A crash
loses everything on its way *to* the dead process and any tail of what it had sent; each other process hears
``PeerGone`` after whatever still arrives.  Deterministic: the test draws all choices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

M = TypeVar("M")
Link = tuple[bytes, bytes]


class PeerGone(NamedTuple):
    """The last thing to arrive on a link whose sender crashed."""

    peer: bytes


class FakeWire(Generic[M]):
    def __init__(self, addresses: list[bytes]) -> None:
        #: Who can still send and receive, in the order given.
        self.alive = list(addresses)
        self._links: dict[Link, deque[M | PeerGone]] = {}

    def send(self, sender: bytes, receiver: bytes, message: M) -> None:
        """Queue it. To a dead receiver: the sender hears PeerGone (again), as a failed connect would tell."""
        if receiver in self.alive:
            self._links.setdefault((sender, receiver), deque()).append(message)
        else:
            self._links.setdefault((receiver, sender), deque()).append(PeerGone(receiver))

    def ready(self) -> list[Link]:
        """Links on which something waits, oldest link first."""
        return [link for link, queue in self._links.items() if queue]

    def take(self, link: Link) -> M | PeerGone:
        """The next arrival on ``link``, which must be ready."""
        return self._links[link].popleft()

    def in_flight(self) -> Iterator[M]:
        for queue in self._links.values():
            for message in queue:
                if not isinstance(message, PeerGone):
                    yield message

    def crash(self, victim: bytes, keep: int) -> None:
        """``victim`` is no more. The first ``keep`` messages on each of its outgoing links still arrive."""
        self.alive.remove(victim)
        for link in [link for link in self._links if link[1] == victim]:
            del self._links[link]
        for other in self.alive:
            queue = self._links.setdefault((victim, other), deque())
            while len(queue) > keep:
                queue.pop()
            queue.append(PeerGone(victim))
