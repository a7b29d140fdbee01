"""Names Ray has in ``ray.util``: tools made of the public API."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from beamlet.util import accelerators
from beamlet.util.actor_pool import ActorPool
from beamlet.util.check_serialize import inspect_serializability
from beamlet.util.completion import as_completed, map_unordered
from beamlet.util.debug import disable_log_once_globally, enable_periodic_logging, log_once
from beamlet.util.discovery import get_node_ip_address, list_named_actors
from beamlet.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from beamlet.util.serialization import deregister_serializer, register_serializer

if TYPE_CHECKING:
    from beamlet.util import annotations as annotations
    from beamlet.util import queue as queue
    from beamlet.util import scheduling_strategies as scheduling_strategies
else:

    def __getattr__(name: str) -> Any:
        """Programs write ``ray.util.scheduling_strategies.…`` after ``import ray`` alone."""
        if name in ("annotations", "queue", "scheduling_strategies"):
            return import_module(f"beamlet.util.{name}")
        from beamlet.api.not_here import refuse_attribute

        raise refuse_attribute("beamlet.util", name)


__all__ = [
    "ActorPool",
    "accelerators",
    "as_completed",
    "deregister_serializer",
    "disable_log_once_globally",
    "enable_periodic_logging",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
]
