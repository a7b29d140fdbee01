"""● ``scheduling_strategy`` as users write it → the strategy string of lease requests."""

from __future__ import annotations

from typing import Any


def strategy_of(given: Any) -> str:
    """ "DEFAULT", "SPREAD", "node:<hex>" or "node:<hex>:soft". Raises ValueError on anything else."""
    if given is None:
        return "DEFAULT"
    if isinstance(given, str):
        if given in ("DEFAULT", "SPREAD"):
            return given
        raise ValueError(
            f"Invalid scheduling_strategy value {given!r}: use 'DEFAULT', 'SPREAD', or one of the classes in "
            "beamlet.util.scheduling_strategies."
        )
    node_id = getattr(given, "node_id", None)
    if isinstance(node_id, str):
        return f"node:{node_id}" + (":soft" if getattr(given, "soft", False) else "")
    raise NotImplementedError(
        f"scheduling_strategy {type(given).__name__} is not in this release: placement groups and label "
        "selectors come with clusters of several nodes. Leave it out on a single node."
    )
