"""● Which nodes there are, what they last said of themselves, and which are gone and why.

Dead nodes stay listed: "what happened to node 3" is asked after it died, never before.
"""

from __future__ import annotations

import msgspec

from beamlet.base.ids import Address, NodeId, node_of, short
from beamlet.protocol.cluster import NodeJoined, NodeReport
from beamlet.protocol.gcs import NodeInfo

MOST_DEAD_NODES = 1_000


class NodeTable:
    def __init__(self, most_dead: int = MOST_DEAD_NODES) -> None:
        self._most_dead = most_dead
        #: In order of joining.
        self._alive: dict[NodeId, NodeInfo] = {}
        #: In order of death; the oldest are forgotten.
        self._dead: dict[NodeId, NodeInfo] = {}
        #: Of nodes that live.
        self._reports: dict[NodeId, NodeReport] = {}

    def handle_joined(self, message: NodeJoined) -> None:
        """A node id is for one life: one that has died does not come back under it."""
        if message.node.node_id not in self._dead:
            self._alive[message.node.node_id] = message.node

    def handle_report(self, message: NodeReport) -> None:
        """The newest counts. One from a node that is dead or never joined is late, and dropped."""
        node_id = message.node.node_id
        if node_id in self._alive:
            self._alive[node_id] = message.node
            self._reports[node_id] = message

    def handle_gone(self, node_id: NodeId, reason: str) -> bool:
        """Whether it was alive until now."""
        info = self._alive.pop(node_id, None)
        if info is None:
            return False
        self._reports.pop(node_id, None)
        self._dead[node_id] = msgspec.structs.replace(info, alive=False, available={}, death_reason=reason)
        while len(self._dead) > self._most_dead:
            del self._dead[next(iter(self._dead))]
        return True

    def node_for(self, owner: Address) -> NodeId | None:
        """Where to look for room first for what ``owner`` creates: at its own node, else at the oldest."""
        home = node_of(owner)
        return home if home in self._alive else next(iter(self._alive), None)

    def is_alive(self, node_id: NodeId) -> bool:
        return node_id in self._alive

    def alive_ids(self) -> list[NodeId]:
        return list(self._alive)

    def infos(self) -> list[NodeInfo]:
        """The living in order of joining, then the dead, last death last."""
        return [*self._alive.values(), *self._dead.values()]

    def reports(self) -> list[NodeReport]:
        return [self._reports[node_id] for node_id in self._alive if node_id in self._reports]

    def check_invariants(self) -> None:
        for node_id, info in self._alive.items():
            assert info.alive, f"node {short(node_id)} is listed as alive and says it is not"
            assert node_id not in self._dead, f"node {short(node_id)} is both alive and dead"
        assert not any(info.alive for info in self._dead.values())
        assert self._reports.keys() <= self._alive.keys()
        assert len(self._dead) <= self._most_dead
