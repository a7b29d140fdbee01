"""What every worker of a node is born knowing; the rest (its job) comes by message."""

from __future__ import annotations

from msgspec import Struct

from beamlet.base.ids import NodeId


class NodeFacts(Struct, frozen=True):
    node_id: NodeId
    session_dir: str
    node_ip: str
    #: Open in the factory and so in every fork of it.
    arena_fd: int
    arena_bytes: int
