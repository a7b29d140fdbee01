"""The raylets that leases are asked of and returned to, by node."""

from __future__ import annotations

from beamlet.base.ids import NodeId
from beamlet.core_worker.submitting.ports import Raylet


class Raylets:
    """Guarded by the core worker's lock. A process starts with its own; others are added as they are met.

    Their requests are told apart by ``req`` alone, so links to several draw it from one counter.
    """

    def __init__(self, own_node: NodeId, own: Raylet) -> None:
        self.own_node = own_node
        self._by_node = {own_node: own}

    def get(self, node: NodeId) -> Raylet | None:
        return self._by_node.get(node)

    def add(self, node: NodeId, raylet: Raylet) -> None:
        self._by_node[node] = raylet

    def remove(self, node: NodeId) -> None:
        """It is dead, and what was leased there with it."""
        self._by_node.pop(node, None)
