"""Connects two core workers: a socketpair, one end to each, over the links that are trusted already.

A pair has one connection.  When it broke and both live they are introduced again, as often as it takes: each
introduction has a number, so that two who ask at once get one.  The set of introductions is also the list of
who must be told when one of them dies.
"""

from __future__ import annotations

import contextlib

from beamlet.base.ids import Address, short, worker_of
from beamlet.protocol.message import Message
from beamlet.protocol.node import ConnectPeer, PeerConnected, PeerIntroduced, PeerUnreachable
from beamlet.raylet.members import Member, Members, PeerMisuse
from beamlet.rpc.descriptors import KERNEL, Descriptors


class Introductions:
    def __init__(self, members: Members, descriptors: Descriptors = KERNEL) -> None:
        self._members = members
        self._descriptors = descriptors
        #: For both of a pair, how often the two were introduced.
        self._known: dict[Address, dict[Address, int]] = {}

    def connect(self, asker: Member, message: ConnectPeer) -> None:
        """Answer a ConnectPeer."""
        peer = self._members.get(message.peer)
        if peer is asker:
            raise PeerMisuse("nobody is introduced to itself")
        if peer is None:
            asker.send(self._unreachable(message))
            return
        generation = self._acquaint(asker, peer)
        if peer.connection.closed:
            # Its death is about to be announced, to the asker too.
            asker.send(PeerUnreachable(message.req, "its process is ending", alive=True))
        elif message.generation < generation:
            asker.send(PeerConnected(message.req, fresh=False, generation=generation))
        else:
            try:
                self.introduce(asker, peer, PeerConnected(message.req, generation=generation + 1))
            except OSError as error:
                reason = f"the node has no descriptors left for a connection to it: {error.strerror}"
                asker.send(PeerUnreachable(message.req, reason, alive=True))

    def is_new(self, one: Member, other: Member) -> bool:
        """Whether they need an introduction; a process that leases itself needs none."""
        return one is not other and not self._known.get(one.address, {}).get(other.address, 0)

    def introduce(self, asker: Member, peer: Member, answer: Message) -> None:
        """Send ``answer`` with one end to ``asker``, and PeerIntroduced with the other to ``peer``.

        Raises OSError when descriptors have run out; nobody was told anything then, and each will hear of the
        other's death nevertheless.
        """
        generation = self._acquaint(asker, peer) + 1
        ours, theirs = self._descriptors.pair()
        with contextlib.closing(ours), contextlib.closing(theirs):
            with contextlib.ExitStack() as spares:  # there is room for the copies that travel
                for _ in range(2):
                    spares.callback(self._descriptors.close, self._descriptors.dup(ours.fileno()))
            self._known[asker.address][peer.address] = generation
            self._known[peer.address][asker.address] = generation
            peer.send_with_fd(PeerIntroduced(asker.address, generation), theirs.fileno())
            asker.send_with_fd(answer, ours.fileno())

    def _acquaint(self, one: Member, other: Member) -> int:
        """From now on each hears of the other's death. Returns how often they were introduced."""
        self._known.setdefault(one.address, {}).setdefault(other.address, 0)
        return self._known.setdefault(other.address, {}).setdefault(one.address, 0)

    def forget(self, address: Address) -> list[Member]:
        """It is dead: those who know it, to be told."""
        known = self._known.pop(address, {})
        for other in known:
            self._known.get(other, {}).pop(address, None)
        return [member for other in sorted(known) if (member := self._members.get(other)) is not None]

    def _unreachable(self, message: ConnectPeer) -> PeerUnreachable:
        certificate = self._members.certificate(message.peer)
        if certificate is not None:
            reason = f"the process is gone: {certificate.describe()}"
        else:
            reason = (
                f"no process {short(worker_of(message.peer))} is known on this node: it ended long ago, or "
                "the reference comes from another cluster"
            )
        return PeerUnreachable(message.req, reason, certificate)
