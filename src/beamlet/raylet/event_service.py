"""The timeline's messenger: has this node's workers tell what they ran, when somebody wants to know.

What workers noted reaches the GCS through us, in order; so when all have said EventsTold, the GCS has it all.
A worker that holds its interpreter does not answer; nobody waits for it long.  Before an actor is killed it
may tell, too: else what it ran lately would be missing.
"""

from __future__ import annotations

from collections.abc import Callable

from beamlet.base.ids import Address, WorkerId
from beamlet.base.roll_call import Answered, Ask, RollCall
from beamlet.protocol import cluster, node
from beamlet.raylet.members import Member
from beamlet.raylet.node_services import NodeServices
from beamlet.rpc.alarm import Alarm

#: How long a worker may take.
PATIENCE_S = 0.5
#: How long one that is to be killed may take.
LAST_WORDS_S = 0.02


class EventService:
    def __init__(self, services: NodeServices) -> None:
        self._node = services
        #: Asked by the GCS, by the number of its round.
        self._calls: RollCall[Address, int] = RollCall(PATIENCE_S)
        self._alarm = Alarm(services.clock, self._late)
        #: What follows when one has told or has taken too long, by token; tokens of rounds are positive.
        self._afterwards: dict[int, Callable[[], None]] = {}
        self._last_token = 0

    def ask(self, message: cluster.AskEvents) -> None:
        self._go_on(self._calls.ask(message.round, self._workers(), self._node.now()))

    def last_words(self, worker: WorkerId, afterwards: Callable[[], None]) -> None:
        """Call ``afterwards`` when the worker has told, or has had LAST_WORDS_S for it."""
        member = self._node.members.worker(worker)
        if member is None:
            afterwards()
            return
        self._last_token -= 1
        token = self._last_token
        self._afterwards[token] = afterwards
        member.send(node.TellEvents(token))
        self._node.clock.call_later(LAST_WORDS_S, lambda: self._go_on_after(token))

    def _go_on_after(self, token: int) -> None:
        if (afterwards := self._afterwards.pop(token, None)) is not None:
            afterwards()

    def told(self, sender: Member, message: node.EventsTold) -> None:
        if message.token < 0:
            self._go_on_after(message.token)
            return
        now = self._node.now()
        self._go_on(self._calls.told(sender.address, message.token, self._workers(), now))

    def gone(self, address: Address) -> None:
        self._go_on(self._calls.gone(address, self._workers(), self._node.now()))

    def close(self) -> None:
        self._alarm.cancel()

    def _late(self) -> None:
        self._go_on(self._calls.tick(self._workers(), self._node.now()))

    def _workers(self) -> list[Address]:
        """Those that may have run something."""
        members = self._node.members
        return [m.address for m in members if not m.is_driver and m.job is not None and not m.leaving]

    def _go_on(self, steps: list[Ask[Address] | Answered[Address, int]]) -> None:
        for step in steps:
            if isinstance(step, Ask):
                for address in step.parties:
                    if (member := self._node.members.get(address)) is not None:
                        member.send(node.TellEvents(step.round))
            else:
                for round in step.askers:
                    self._node.gcs.send(cluster.EventsTold(round, len(step.silent)))
        self._alarm.by(self._calls.deadline)
