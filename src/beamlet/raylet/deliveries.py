"""What the GCS answers to core workers here: large answers leave one after the other, as they are read.

An answer of 95 MiB costs nothing while it waits as a message, for it is the table's own value; written, it is
as much memory that the reader has not taken yet. Threads of one process that ask for several at once would
have it cut off for leaving them unread (``Limits.most_bytes``), though it reads as fast as it can.
"""

from __future__ import annotations

from collections.abc import Callable

from beamlet.protocol import cluster, gcs
from beamlet.protocol.message import Message
from beamlet.raylet.members import Member, Members
from beamlet.rpc.loopback import Loop

#: Answers from this size on are large.
_LARGE_BYTES = 64 << 10
#: What an actor, a worker or a demand takes in the state of the cluster, roughly.
_ENTRY_BYTES = 256
#: A core worker that leaves so much waiting does not read: it is cut off. What it asked for was made for it,
#: perhaps, or has gone from the table meanwhile.
MOST_HELD_BYTES = 1 << 30


class Deliveries:
    """``expel(member, reason)`` ends one that does not read."""

    def __init__(self, members: Members, loop: Loop, expel: Callable[[Member, str], None]) -> None:
        self._members = members
        self._loop = loop
        self._expel = expel

    def deliver(self, order: cluster.Deliver) -> None:
        member = self._members.get(order.address)
        if member is None:
            return
        message, size = order.message, _size_of(order.message)
        if size < _LARGE_BYTES:
            member.send(message)
        elif not (member.held or member.connection.is_full):
            _send_alone(member, message)
        else:
            self._hold(member, message, size)

    def _hold(self, member: Member, message: Message, size: int) -> None:
        if member.connection.closed:
            return
        member.held_bytes += size
        if member.held_bytes > MOST_HELD_BYTES:
            member.held.clear()
            self._expel(member, f"it left {member.held_bytes >> 20} MiB of large answers unread")
            return
        member.held.append((size, message))
        member.connection.on_full = lambda full: self._is_full(member, full)

    def _is_full(self, member: Member, full: bool) -> None:
        if member.held and not full:  # later, for its connection is in the middle of writing
            self._loop.call_soon(lambda: self._release(member))

    def _release(self, member: Member) -> None:
        while member.held and not member.connection.is_full:
            size, message = member.held.popleft()
            member.held_bytes -= size
            _send_alone(member, message)


def _send_alone(member: Member, message: Message) -> None:
    """It is written now, so that whoever sends the next one sees what is unread."""
    member.send(message)
    member.connection.flush()


def _size_of(message: Message) -> int:
    """Roughly, of what may be large."""
    if isinstance(message, gcs.KvValue):
        return len(message.value or b"")
    if isinstance(message, gcs.ClusterState):
        return _ENTRY_BYTES * (len(message.actors) + len(message.workers) + len(message.pending))
    if isinstance(message, gcs.Timeline):
        return sum(len(batch.spans) for batch in message.batches)
    if isinstance(message, gcs.KvKeyList):
        return sum(map(len, message.keys))
    return 0
