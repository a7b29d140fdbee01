"""The core worker of a driver: the user's program, which submits and waits and runs nothing for others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beamlet.base.ids import own_task_id
from beamlet.base.invariants import InvariantBroken
from beamlet.core_worker.context import TaskContext
from beamlet.core_worker.core_worker import CoreWorker, Identity
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.waiting.blocking import DriverBlocking
from beamlet.core_worker.waiting.explaining import Explaining
from beamlet.core_worker.waiting.waits import Waits
from beamlet.protocol import node
from beamlet.protocol.peer import CancelTask
from beamlet.rpc.descriptors import Wire
from beamlet.rpc.turns import SharedReactor


class DriverCore(CoreWorker):
    """``on_output`` and ``on_notice`` show the user what workers print and what the node has to say.

    lifeline: what of the store is ours stays so while anybody has it (``raylet/lifelines.py``).
    """

    is_driver = True

    def __init__(
        self,
        identity: Identity,
        sock: Wire,
        arena_fd: int,
        make_ref: Any,
        make_generator: Any,
        *,
        on_raylet_lost: Callable[[str], None],
        on_output: Callable[[node.OutputLines], None],
        on_notice: Callable[[node.Notice], None],
        reactor: SharedReactor | None = None,
        lifeline: object | None = None,
    ) -> None:
        context = TaskContext(own_task_id(identity.worker_id, identity.job_id))
        super().__init__(
            *(identity, sock, arena_fd, context, make_ref, make_generator, on_raylet_lost, reactor, lifeline)
        )
        explaining = Explaining(self.reactor, self.link, *self.wait_view)
        blocking = DriverBlocking(self.reactor, self.link, explaining)
        self.compose_waiting(Waits(self.reactor, *self.wait_view), explaining, blocking)
        self.reactor.containment.on_broken = self._broken
        self.on_peer_message[CancelTask] = self._cancel_asked
        self.on_raylet_message[node.OutputLines] = on_output
        self.on_raylet_message[node.Notice] = on_notice

    def say_goodbye(self) -> None:
        """The last word. Before it go back the workers that we have leased and do not use.

        Idle they may stay for what they own, if something outlives us; with our leases they would end.
        """
        with self.lock:
            self.leases.submitter.return_idle(self.reactor.now())
            self.link.send(node.Goodbye())
            self.reactor.flush()

    def _broken(self, error: InvariantBroken) -> None:
        """The user's program lives on, but not with what it asked for."""
        self.link.connection.fail(f"this driver's own books are wrong: {error}")

    def _cancel_asked(self, _: Peer, message: CancelTask) -> None:
        """A borrower of one of our results wants its task stopped."""
        self.cancel_task(message.task_id, message.force, message.recursive)
