"""Connects two core workers: a socketpair, one end to each, over the links that are trusted already.

A pair is introduced once in its lifetime, so what two processes say to each other keeps its order.  The set
of introductions is also the list of who must be told when one of them dies.
"""

from __future__ import annotations

import contextlib

from beamlet.base.ids import Address, short, worker_of
from beamlet.protocol.message import Message
from beamlet.protocol.node import ConnectPeer, PeerConnected, PeerIntroduced, PeerUnreachable
from beamlet.raylet.members import Member, Members
from beamlet.rpc.descriptors import KERNEL, Descriptors


class Introductions:
    def __init__(self, members: Members, descriptors: Descriptors = KERNEL) -> None:
        self._members = members
        self._descriptors = descriptors
        self._known: dict[Address, set[Address]] = {}

    def connect(self, asker: Member, message: ConnectPeer) -> None:
        """Answer a ConnectPeer."""
        peer = self._members.get(message.peer)
        if peer is None:
            asker.send(self._unreachable(message))
        elif self.is_new(asker, peer):
            try:
                self.introduce(asker, peer, PeerConnected(message.req))
            except OSError as error:
                reason = f"the node has no descriptors left for a connection to it: {error.strerror}"
                asker.send(PeerUnreachable(message.req, reason))
        else:
            asker.send(PeerConnected(message.req, fresh=False))

    def is_new(self, one: Member, other: Member) -> bool:
        return other.address not in self._known.get(one.address, ())

    def introduce(self, asker: Member, peer: Member, answer: Message) -> None:
        """Send ``answer`` with one end to ``asker``, and PeerIntroduced with the other to ``peer``.

        Raises OSError when descriptors have run out; nobody was told anything then.
        """
        ours, theirs = self._descriptors.pair()
        with contextlib.closing(ours), contextlib.closing(theirs):
            for spare in [self._descriptors.dup(ours.fileno()) for _ in range(2)]:
                self._descriptors.close(spare)  # there is room for the copies that travel
            self._known.setdefault(asker.address, set()).add(peer.address)
            self._known.setdefault(peer.address, set()).add(asker.address)
            peer.send_with_fd(PeerIntroduced(asker.address), theirs.fileno())
            asker.send_with_fd(answer, ours.fileno())

    def forget(self, address: Address) -> list[Member]:
        """It is dead: those who know it, to be told."""
        known = self._known.pop(address, set())
        for other in known:
            self._known.get(other, set()).discard(address)
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
