"""What is where: named actors, this node's address."""

from __future__ import annotations

from typing import Any

from beamlet.api import backend
from beamlet.api.argument_table import checked
from beamlet.base.own_code import for_users
from beamlet.processes.host import node_ip


@for_users
def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Names of this namespace's living actors; with all_namespaces dictionaries {"name", "namespace"}."""
    all_namespaces = checked("util.list_named_actors", "all_namespaces", all_namespaces)
    core = backend.current()
    found = core.actors.names(all_namespaces, core.identity.namespace)
    if all_namespaces:
        return [{"name": name, "namespace": namespace} for name, namespace in found]
    return [name for name, _ in found]


@for_users
def get_node_ip_address(address: str | None = None) -> str:
    """This node's address as others would see it. ``address`` is taken for Ray's sake: nobody is asked."""
    checked("util.get_node_ip_address", "address", address)
    core = backend.current_or_none()
    return node_ip() if core is None else str(core.identity.node_ip)
