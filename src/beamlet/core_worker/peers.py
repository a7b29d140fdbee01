"""Other core workers: one conversation with each, over a socket that the raylet's introduction made.

    CONNECTED ──the socket breaks──▶ DISCONNECTED ──introduced again──▶ CONNECTED      (nobody above notices)
        └────────────────── the raylet says that it died ──────────────────┴──▶ DEAD   (``on_gone``, once)

What is sent while there is no socket waits; what a broken socket lost is sent again (rpc/conversation.py).
So between two living processes every message arrives once and in order, whatever happens to their sockets.
A broken socket is no death: only the raylet knows of deaths.  (Nor does a process live for us that does not
speak our protocol, or breaks every new connection at once.)
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from beamlet.base.ids import Address, short, worker_of
from beamlet.core_worker.node_link import NodeLink
from beamlet.protocol.message import Message
from beamlet.protocol.node import ConnectPeer, PeerConnected, PeerUnreachable
from beamlet.protocol.peer import PeerMessage
from beamlet.rpc.batches import FEW_MESSAGES, encode_what_can
from beamlet.rpc.connection import ANYTHING, Connection, DescriptorMissing, decoder_for
from beamlet.rpc.conversation import Conversation
from beamlet.rpc.descriptors import Wire
from beamlet.rpc.self_talk import SelfTalk
from beamlet.rpc.turns import SharedReactor, Waiter

if TYPE_CHECKING:
    from beamlet.base.death import DeathCertificate
    from beamlet.core_worker.submitting.actor_submitter import ActorLink, Link
    from beamlet.core_worker.submitting.key_state import LeasedWorker

#: How long to wait before asking for an introduction again: mostly the peer died, and we shall hear of it.
_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 2.0
#: New sockets that broke one after the other with nothing said over them.
_BREAKS_MAX = 12
#: Peers given up although nobody says they are dead; the table of them is bounded.
_GIVEN_UP_MAX = 256
_REST_BYTES = 1 << 18

# As in node_link: before workers are forked, not in each of them.
decoder_for(PeerMessage)


class PeerState(enum.Enum):
    CONNECTED = "connected"
    DISCONNECTED = "waiting for a connection"
    DEAD = "dead"


class Peer:
    """Another core worker, as seen from here. Usable as a ``Link`` at once."""

    __slots__ = (
        "_table",
        "actor",
        "address",
        "asking",
        "breaks",
        "certificate",
        "connection",
        "conversation",
        "given_up",
        "gone",
        "heard",
        "leased",
        "newcomer",
        "own_line",
        "queue",
        "reason",
        "room",
        "tries",
    )

    def __init__(self, address: Address, table: PeerTable | None = None) -> None:
        self._table = table
        self.address = address
        self.conversation = Conversation()
        self.connection: Connection | None = None
        #: In place of a connection, if this is ourselves.
        self.own_line: SelfTalk | None = None
        #: A new socket over which the other side has not said yet what it has.
        self.newcomer: Connection | None = None
        #: Messages for a connection that is being made, behind the frames that the conversation keeps.
        self.queue: list[Message] = []
        #: The lease under which we push tasks to it.
        self.leased: LeasedWorker[Peer] | None = None
        #: The actor living there that we call.
        self.actor: ActorLink[Peer] | None = None
        self.gone = False
        #: Gone for us only: it may live.
        self.given_up = False
        self.reason = ""
        self.certificate: DeathCertificate | None = None
        #: Threads that wait until it has read some of what we sent.
        self.room: list[Waiter] = []
        #: An introduction was asked for, or will be in a moment.
        self.asking = False
        self.tries = 0
        #: Sockets that broke since the conversation last got on, and how far it was then.
        self.breaks = 0
        self.heard = 0

    def send(self, message: Message) -> None:
        if self.connection is not None:
            self.connection.send(message)
        elif self.own_line is not None:
            self.own_line.send(message)
        elif not self.gone:
            self.queue.append(message)
            if len(self.queue) >= FEW_MESSAGES and self._table is not None:
                self._table.pack(self)

    @property
    def state(self) -> PeerState:
        if self.gone:
            return PeerState.DEAD
        is_connected = self.connection is not None or self.own_line is not None
        return PeerState.CONNECTED if is_connected else PeerState.DISCONNECTED

    @property
    def name(self) -> str:
        return f"core worker {short(worker_of(self.address))}"


class PeerTable:
    """All peers of a core worker. Guarded by its lock, but for ``wait_for_room``."""

    def __init__(
        self,
        link: NodeLink,
        reactor: SharedReactor,
        on_batch: Callable[[Connection | SelfTalk, list[Any]], None],
        on_gone: Callable[[Peer], None],
        own_address: Address,
        on_unsent: Callable[[Peer, Message], None] = lambda peer, message: None,
    ) -> None:
        """on_unsent: told, from the loop, of a message that could not be encoded and was dropped."""
        self.own_address = own_address
        self._link = link
        self._reactor = reactor
        self._on_batch = on_batch
        self._on_gone = on_gone
        self._on_unsent = on_unsent
        self.by_address: dict[Address, Peer] = {}
        #: Those who have much to read; who queues more for them should ``wait_for_room``.
        self.full: set[Link] = set()
        #: Why we do not speak with them any more.
        self._given_up: dict[Address, str] = {}

    def get(self, address: Address) -> Peer:
        """The peer, asking for an introduction if there is no connection yet."""
        peer = self.by_address.get(address)
        if peer is None:
            peer = self.by_address[address] = Peer(address, self)
            if address == self.own_address:
                own = peer
                peer.own_line = SelfTalk(
                    self._reactor,
                    messages=PeerMessage,
                    on_batch=self._on_batch,
                    label=peer.name,
                    context=peer,
                    on_unsent=lambda message, _: self._unsent(own, message),
                )
            elif address in self._given_up:
                peer.reason = self._given_up[address]
                peer.given_up = True
                lost = peer
                self._reactor.call_soon(lambda: self._lose(lost))
            else:
                self._ask(peer)
        return peer

    # -- introductions ---------------------------------------------------------------------------

    def introduced(self, address: Address, generation: int) -> None:
        """The peer asked for us; the socket came with the raylet's message."""
        if address in self._given_up:
            self._refuse_socket()
        else:
            self.adopt(address, self._link.take_socket, generation)

    def _refuse_socket(self) -> None:
        try:
            self._link.take_socket().close()
        except DescriptorMissing:
            return  # it did not arrive: all the better

    def adopt(self, address: Address, take_socket: Callable[[], Wire], generation: int = 1) -> Peer:
        """A raylet introduced us to a worker that we leased; the socket came with its message."""
        if address in self._given_up:
            peer = self.get(address)
        else:
            peer = self.by_address.setdefault(address, Peer(address, self))
        self._connect(peer, take_socket, generation)
        return peer

    def _ask(self, peer: Peer) -> None:
        peer.asking = True
        message = ConnectPeer(0, peer.address, peer.conversation.generation)
        self._link.request(message, lambda answer: self._introduced(peer, answer))

    def _ask_later(self, peer: Peer) -> None:
        if peer.asking:
            return
        peer.asking = True
        delay_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**peer.tries)
        peer.tries = min(peer.tries + 1, 10)

        def ask_now() -> None:
            peer.asking = False
            if not peer.gone and peer.connection is None and peer.newcomer is None:
                self._ask(peer)

        self._reactor.call_later(delay_s, ask_now)

    def _introduced(self, peer: Peer, answer: PeerConnected | PeerUnreachable | None) -> None:
        peer.asking = False
        if isinstance(answer, PeerConnected):
            if answer.fresh:
                self._connect(peer, self._link.take_socket, answer.generation)
            elif peer.connection is None and peer.newcomer is None:
                self._ask_later(peer)  # the socket was on its way to us, and did not arrive
        elif answer is not None and answer.alive:
            if peer.connection is None and peer.newcomer is None:
                self._ask_later(peer)
        elif peer.connection is None and peer.newcomer is None:
            peer.reason = answer.reason if answer is not None else "the cluster is shutting down"
            peer.certificate = answer.certificate if answer is not None else None
            self._lose(peer)

    def _connect(self, peer: Peer, take_socket: Callable[[], Wire], generation: int) -> None:
        conversation = peer.conversation
        try:
            sock = take_socket()
        except DescriptorMissing as error:
            self._reactor.containment.contain(error, f"connecting to {peer.name}")
            conversation.generation = max(conversation.generation, generation)
            self._drop_socket(peer)
            self._ask_later(peer)
            return
        if peer.gone or peer.address in self._given_up or generation <= conversation.generation:
            sock.close()
            return
        is_first = conversation.generation == 0 and generation == 1
        conversation.generation = generation
        self._drop_socket(peer)
        try:
            connection = Connection(
                sock,
                self._reactor,
                messages=PeerMessage,
                on_batch=self._on_batch,
                on_close=self._closed,
                on_unsent=lambda message, _: self._unsent(peer, message),
                label=peer.name,
                context=peer,
                conversation=conversation,
            )
        except OSError as error:  # the kernel watches no more descriptors for us, for now
            self._reactor.containment.contain(error, f"connecting to {peer.name}")
            sock.close()
            self._ask_later(peer)
            return
        connection.on_full = lambda full: self._set_full(peer, full)
        if is_first:
            self._speak(peer, connection)
        else:
            peer.newcomer = connection
            connection.on_word = lambda: self._speak(peer, connection)
            connection.acknowledge()

    def _speak(self, peer: Peer, connection: Connection) -> None:
        """Both sides know what the other has: go on where the last socket broke."""
        peer.newcomer = None
        peer.connection = connection
        peer.tries = 0
        self._set_full(peer, False)
        connection.resend(peer.conversation.unanswered())
        queue, peer.queue = peer.queue, []
        for message in queue:
            connection.send(message)

    # -- breaks ----------------------------------------------------------------------------------

    def _drop_socket(self, peer: Peer) -> None:
        """What was queued for it and not encoded waits for the next one, before what came since."""
        if peer.newcomer is not None:
            peer.newcomer.withdraw()
        if peer.connection is not None:
            peer.queue[:0] = peer.connection.withdraw()
        peer.newcomer = peer.connection = None

    def _closed(self, connection: Connection, reason: str) -> None:
        peer: Peer = connection.context
        if connection is not peer.connection and connection is not peer.newcomer:
            return
        self._drop_socket(peer)
        peer.reason = reason
        if connection.is_violated:
            self._give_up(peer, reason)
            return
        if peer.conversation.received > peer.heard:
            peer.breaks = 0
        peer.heard = peer.conversation.received
        peer.breaks += 1
        if peer.breaks > _BREAKS_MAX:
            self._give_up(peer, f"{peer.breaks} connections to it broke one after the other; {reason}")
        else:
            self._ask_later(peer)

    def pack(self, peer: Peer) -> None:
        """Much is queued for a connection that is being made: as frames it takes less, and is counted."""
        messages, peer.queue = peer.queue, []
        conversation = peer.conversation
        frames, failures = encode_what_can(messages, conversation.received)
        for message, error in failures:
            what = f"encoding {type(message).__name__} for {peer.name}"
            self._reactor.containment.contain(error, what)
            self._unsent(peer, message)
        for frame in frames:
            conversation.sent(frame)
        if conversation.kept_bytes > ANYTHING.full_bytes:
            self._set_full(peer, True)

    def _unsent(self, peer: Peer, message: Message) -> None:
        """Whoever waits for it is told later: the caller may be in the middle of something."""
        self._reactor.call_soon(lambda: self._on_unsent(peer, message))

    # -- room ------------------------------------------------------------------------------------

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

    # -- ends ------------------------------------------------------------------------------------

    def died(self, address: Address, certificate: DeathCertificate) -> None:
        """The raylet's word. What the dead had sent is read first: it may hold the answers we wait for."""
        peer = self.by_address.get(address)
        if peer is None:
            return
        peer.certificate = certificate
        peer.reason = certificate.describe()
        rest = bytearray(_REST_BYTES)
        for connection in (peer.connection, peer.newcomer):
            while connection is not None and not connection.closed and connection.read(rest):
                pass
        self._lose(peer)

    def _give_up(self, peer: Peer, reason: str) -> None:
        peer.given_up = True
        peer.reason = self._given_up[peer.address] = reason
        while len(self._given_up) > _GIVEN_UP_MAX:
            del self._given_up[next(iter(self._given_up))]
        self._lose(peer)

    def _lose(self, peer: Peer) -> None:
        if not peer.gone:
            self._drop_socket(peer)
            peer.gone = True
            peer.queue.clear()
            self._set_full(peer, False)
            if self.by_address.get(peer.address) is peer:
                del self.by_address[peer.address]
            self._on_gone(peer)

    @property
    def is_all_out(self) -> bool:
        """The kernel, or the other side, has all that was said to the living: the rest dies with us."""
        for peer in self.by_address.values():
            connection = peer.connection
            if connection is not None:
                if connection.closed or connection.backlog_bytes:
                    return False
            elif peer.own_line is None and (peer.queue or peer.conversation.kept_bytes):
                return False
        return True

    def connections(self) -> list[Connection]:
        every = [each for peer in self.by_address.values() for each in (peer.connection, peer.newcomer)]
        return [each for each in every if each is not None]

    def close(self) -> None:
        for connection in self.connections():
            connection.close()
        ourselves = self.by_address.get(self.own_address)
        if ourselves is not None and ourselves.own_line is not None:
            ourselves.own_line.close()
        self.by_address.clear()
