"""Connections to other core workers: one per pair, made by the raylet's introduction.

What is sent before the introduction is queued; what cannot be delivered any more is dropped, and the peer's
death reported once.  A pair is introduced once in its lifetime, so messages between two processes keep their
order whatever they are about.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from beamlet.base.ids import Address
from beamlet.core_worker.node_link import NodeLink
from beamlet.protocol.message import Message
from beamlet.protocol.node import ConnectPeer, PeerConnected, PeerUnreachable
from beamlet.protocol.peer import PeerMessage
from beamlet.rpc.connection import Connection, decoder_for
from beamlet.rpc.descriptors import Wire
from beamlet.rpc.turns import SharedReactor, Waiter

if TYPE_CHECKING:
    from beamlet.base.death import DeathCertificate
    from beamlet.core_worker.submitting.actor_submitter import ActorLink, Link
    from beamlet.core_worker.submitting.task_submitter import LeasedWorker

# As in node_link: before workers are forked, not in each of them.
decoder_for(PeerMessage)


class Peer:
    """Another core worker, as seen from here. Usable as a ``Link`` at once."""

    __slots__ = ("actor", "address", "certificate", "connection", "gone", "leased", "queue", "reason", "room")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.connection: Connection | None = None
        #: Messages for a connection that is being made.
        self.queue: list[Message] = []
        #: The lease under which we push tasks to it.
        self.leased: LeasedWorker[Peer] | None = None
        #: The actor living there that we call.
        self.actor: ActorLink[Peer] | None = None
        self.gone = False
        self.reason = ""
        self.certificate: DeathCertificate | None = None
        #: Threads that wait until it has read some of what we sent.
        self.room: list[Waiter] = []

    def send(self, message: Message) -> None:
        if self.connection is not None:
            self.connection.send(message)
        elif not self.gone:
            self.queue.append(message)


class PeerTable:
    """All peers of a core worker. Guarded by its lock."""

    def __init__(
        self,
        link: NodeLink,
        reactor: SharedReactor,
        on_batch: Callable[[Connection, list[Any]], None],
        on_gone: Callable[[Peer], None],
    ) -> None:
        self._link = link
        self._reactor = reactor
        self._on_batch = on_batch
        self._on_gone = on_gone
        self.by_address: dict[Address, Peer] = {}
        #: Those who have much to read; who queues more for them should ``wait_for_room``.
        self.full: set[Link] = set()

    def get(self, address: Address) -> Peer:
        """The peer, asking for an introduction if there is no connection yet."""
        peer = self.by_address.get(address)
        if peer is None:
            peer = self.by_address[address] = Peer(address)
            self._link.request(ConnectPeer(0, address), lambda answer: self._introduced(peer, answer))
        return peer

    def adopt(self, address: Address, sock: Wire) -> Peer:
        """A connection the raylet made for us, or on the peer's behalf."""
        peer = self.by_address.get(address)
        if peer is None:
            peer = self.by_address[address] = Peer(address)
        self._attach(peer, sock)
        return peer

    def _introduced(self, peer: Peer, answer: PeerConnected | PeerUnreachable | None) -> None:
        if isinstance(answer, PeerConnected):
            if answer.fresh:
                self._attach(peer, self._link.take_socket())
        elif peer.connection is None:
            peer.reason = answer.reason if answer is not None else "the cluster is shutting down"
            peer.certificate = answer.certificate if answer is not None else None
            self._lose(peer)

    def _attach(self, peer: Peer, sock: Wire) -> None:
        connection = Connection(
            sock,
            self._reactor,
            messages=PeerMessage,
            on_batch=self._on_batch,
            on_close=self._closed,
            label=peer.address.hex()[:8],
            context=peer,
        )
        connection.on_full = lambda full: self._set_full(peer, full)
        if peer.connection is None or peer.connection.closed:
            peer.connection = connection
        queue, peer.queue = peer.queue, []
        for message in queue:
            connection.send(message)

    def _closed(self, connection: Connection, reason: str) -> None:
        peer: Peer = connection.context
        if peer.connection is connection:
            peer.reason = peer.reason or reason
            self._lose(peer)

    def _set_full(self, peer: Peer, full: bool) -> None:
        if full:
            self.full.add(peer)
            return
        self.full.discard(peer)
        waiting, peer.room = peer.room, []
        for waiter in waiting:
            waiter.complete()

    def wait_for_room(self, peer: Link) -> None:
        """Let a slow reader catch up, if it is one. For a thread of the user's that just queued something.

        Without the lock; a thread that holds it all the same (user code run by a handler) does not wait.
        """
        if peer not in self.full or self._reactor.lock.is_held_here:
            return
        with self._reactor.lock:
            if peer not in self.full:
                return
            assert isinstance(peer, Peer)
            waiter = Waiter()
            peer.room.append(waiter)
        self._reactor.wait(waiter)

    def _lose(self, peer: Peer) -> None:
        if not peer.gone:
            peer.gone = True
            peer.connection = None
            peer.queue.clear()
            if self.by_address.get(peer.address) is peer:
                del self.by_address[peer.address]
            self._on_gone(peer)

    def connections(self) -> list[Connection]:
        return [peer.connection for peer in self.by_address.values() if peer.connection is not None]

    def close(self) -> None:
        for peer in list(self.by_address.values()):
            if peer.connection is not None:
                peer.connection.close()
        self.by_address.clear()
