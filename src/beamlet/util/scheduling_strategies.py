"""Where a task or actor may run, as data: values of the option ``scheduling_strategy``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beamlet.api.option_rules import brief
from beamlet.api.public_ids import BaseID, NodeID


class NodeAffinitySchedulingStrategy:
    """On that node; ``soft``: elsewhere if it is gone or has no room.

    node_id: hex, as nodes() and get_runtime_context().get_node_id() give it, or a NodeID.
    Raises ValueError for anything else, and for options that contradict ``soft``.
    """

    def __init__(
        self,
        node_id: str | NodeID,
        soft: bool,
        _spill_on_unavailable: bool = False,
        _fail_on_unavailable: bool = False,
    ) -> None:
        self.node_id = _node_hex(node_id)
        if not isinstance(soft, bool):
            raise TypeError(f"NodeAffinitySchedulingStrategy(soft={brief(soft)}): soft must be a bool")
        if _spill_on_unavailable and not soft:
            raise ValueError("_spill_on_unavailable=True requires soft=True")
        if _fail_on_unavailable and soft:
            raise ValueError("_fail_on_unavailable=True requires soft=False")
        self.soft = soft
        self._spill_on_unavailable = _spill_on_unavailable
        self._fail_on_unavailable = _fail_on_unavailable


class PlacementGroupSchedulingStrategy:
    """In a bundle of a placement group. Groups are not in this release: using this raises at ``remote()``."""

    def __init__(
        self,
        placement_group: Any,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks


class NodeLabelSchedulingStrategy:
    """On nodes with such labels. Not in this release: using this raises at ``remote()``.

    Raises ValueError if neither hard nor soft conditions are given, or one is no operator.
    """

    def __init__(self, hard: dict[str, Any] | None, *, soft: dict[str, Any] | None = None) -> None:
        for conditions in (hard, soft):
            if conditions is not None and not isinstance(conditions, Mapping):
                raise TypeError(f"conditions must be a dict {{label: In(…)}}, not {brief(conditions)}")
        for label, operator in {**(hard or {}), **(soft or {})}.items():
            if not isinstance(operator, In | NotIn | Exists | DoesNotExist):
                raise ValueError(
                    f"the condition for label {brief(label)} must be In, NotIn, Exists or DoesNotExist, "
                    f"not {brief(operator)}"
                )
        if not hard and not soft:
            raise ValueError("NodeLabelSchedulingStrategy needs a condition, hard or soft: both are empty")
        self.hard = hard or {}
        self.soft = soft or {}


class In:
    """The label has one of the values. Raises ValueError unless there are some, all of them text."""

    def __init__(self, *values: str) -> None:
        if not values:
            raise ValueError(
                f'{type(self).__name__} needs at least one value: {type(self).__name__}("a", "b")'
            )
        for value in values:
            if not isinstance(value, str):
                raise ValueError(f"values of {type(self).__name__} must be str, got {brief(value)}")
        self.values = list(values)


class NotIn(In):
    """The label has none of the values."""


class Exists:
    """The node has the label."""


class DoesNotExist:
    """The node does not have the label."""


def _node_hex(node_id: str | BaseID) -> str:
    try:
        found = NodeID.from_hex(node_id) if isinstance(node_id, str) else NodeID(node_id.binary())
    except (ValueError, AttributeError):
        found = NodeID.nil()
    if found.is_nil():
        raise ValueError(
            f"{brief(node_id)} is not a node id, which has {2 * NodeID.size()} hex digits. beamlet.nodes() "
            "lists the nodes with their ids."
        )
    return found.hex()
