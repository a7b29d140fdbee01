"""Placement groups come with clusters of several nodes, in a later release; until then every call says so."""

from __future__ import annotations

from typing import Any, NoReturn

from beamlet.base.own_code import for_users

_WHY = (
    "{what} is not in this release: placement groups come with clusters of several nodes. On one node, "
    "reserve with resources instead: num_cpus=…, num_gpus=… or custom resources={{…}} on tasks and actors."
)


class PlacementGroup:
    """Resources reserved together. Cannot be made yet; here so that annotations and isinstance() work."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _not_yet("PlacementGroup")

    @staticmethod
    def empty() -> PlacementGroup:
        _not_yet("PlacementGroup.empty()")


@for_users
def placement_group(
    bundles: list[dict[str, float]],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
    topology_strategy: dict[str, str] | None = None,
) -> PlacementGroup:
    """Raises NotImplementedError."""
    _not_yet("placement_group()")


@for_users
def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Raises NotImplementedError."""
    _not_yet("remove_placement_group()")


@for_users
def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """Raises NotImplementedError."""
    _not_yet("get_placement_group()")


@for_users
def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """All groups there are: none. Of one group: raises NotImplementedError."""
    if placement_group is not None:
        _not_yet("placement_group_table(group)")
    return {}


def get_current_placement_group() -> PlacementGroup | None:
    """The group that the calling task belongs to: none can."""
    return None


def _not_yet(what: str) -> NoReturn:
    raise NotImplementedError(_WHY.format(what=what))
