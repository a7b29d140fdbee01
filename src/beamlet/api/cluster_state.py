"""What the cluster is and did: nodes(), cluster_resources(), available_resources(), timeline().

The GCS answers; here its answers become the dictionaries that Ray's users know.  These functions never start
a cluster: asking about one that is not there is a mistake, and is called one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Any

from beamlet.api import backend
from beamlet.api.argument_table import checked
from beamlet.base.own_code import for_users
from beamlet.base.resources import UNIT, to_floats
from beamlet.exceptions import RaySystemError
from beamlet.protocol.gcs import ClusterState, NodeInfo, QueryCluster, QueryTimeline, Timeline
from beamlet.protocol.spans import unpack

#: The GCS is in the head's own loop: an answer that takes longer is none.
_ANSWER_S = 30.0
_CATEGORY = "task:execute"
#: Of Chrome's trace viewer, as Ray chooses them.
_COLOUR, _FAILED_COLOUR = "rail_animation", "terrible"
log = logging.getLogger(__name__)


@for_users
def nodes() -> list[dict[str, Any]]:
    """All nodes, one dictionary each; dead ones stay listed with ``Alive`` False.

    Raises RaySystemError before ``init()``.
    """
    return [_node_row(node) for node in _query().nodes]


@for_users
def cluster_resources() -> dict[str, float]:
    """What the living nodes have in all: {"CPU": 8.0, …}. Raises RaySystemError before ``init()``."""
    return _sum(node.total for node in _query().nodes if node.alive)


@for_users
def available_resources() -> dict[str, float]:
    """What of it is free; what is used up is left out. Raises RaySystemError before ``init()``."""
    return _sum(node.available for node in _query().nodes if node.alive)


@for_users
def timeline(filename: str | None = None) -> list[dict[str, Any]] | None:
    """What the workers did when, for chrome://tracing or ui.perfetto.dev.

    filename: write JSON there and return None. The newest 100 000 tasks and calls of each job are kept; a
    warning says how many are missing, and of which workers nobody knows. Raises RuntimeError before
    ``init()``.
    """
    filename = checked("timeline", "filename", filename)
    core = backend.current_or_none()
    if core is None:
        raise RuntimeError("timeline() needs a running cluster: call beamlet.init() first.")
    answer: Timeline = core.link.ask(QueryTimeline(0), monotonic() + _ANSWER_S)
    if missing := what_is_missing(answer):
        log.warning("timeline(): %s", missing)
    rows = event_rows(answer, core.identity.node_ip)
    if filename is None:
        return rows
    Path(filename).write_text(json.dumps(rows))
    return None


def what_is_missing(answer: Timeline) -> str:
    """ "" if nothing is, as far as anybody knows."""
    parts = []
    if answer.dropped:
        parts.append(f"{answer.dropped} tasks and calls that ran are not shown, for only the newest are kept")
    if answer.silent:
        parts.append(f"{answer.silent} busy workers did not say in time what they ran last")
    return "; ".join(parts)


def event_rows(answer: Timeline, node_ip: str) -> list[dict[str, Any]]:
    """Every span as a Chrome trace event of phase X (complete)."""
    rows = []
    for batch in answer.batches:
        shown = f"worker:{batch.worker_id.hex()}"
        for task_id, name, start_us, duration_us, failed in unpack(batch.spans):
            rows.append(
                {
                    "cat": _CATEGORY,
                    "name": name,
                    "pid": node_ip,
                    "tid": shown,
                    "ts": start_us,
                    "dur": duration_us,
                    "ph": "X",
                    "cname": _FAILED_COLOUR if failed else _COLOUR,
                    "args": {"task_id": task_id.hex(), "worker_pid": batch.pid, "failed": failed},
                }
            )
    return rows


def _node_row(node: NodeInfo) -> dict[str, Any]:
    """Ray's keys. There are no ports: everything of a node listens at one Unix socket."""
    return {
        "NodeID": node.node_id.hex(),
        "Alive": node.alive,
        "alive": node.alive,
        "NodeManagerAddress": node.ip,
        "NodeManagerHostname": node.hostname,
        "NodeManagerPort": 0,
        "ObjectManagerPort": 0,
        "ObjectStoreSocketName": node.socket_path,
        "RayletSocketName": node.socket_path,
        "MetricsExportPort": 0,
        "NodeName": node.ip,
        "RuntimeEnvAgentPort": 0,
        "DeathReason": 0 if node.alive else 1,
        "DeathReasonMessage": node.death_reason,
        "Resources": to_floats(node.total) if node.alive else {},
        "Labels": dict(node.labels),
    }


def _sum(amounts: Iterable[dict[str, int]]) -> dict[str, float]:
    """Added up exactly, before anything becomes a float."""
    units: dict[str, int] = {}
    for each in amounts:
        for name, value in each.items():
            units[name] = units.get(name, 0) + value
    return {name: value / UNIT for name, value in units.items() if value > 0}


def _query() -> ClusterState:
    core = backend.current_or_none()
    if core is None:
        raise RaySystemError(
            "Beamlet has not been started yet: nodes(), cluster_resources() and available_resources() ask a "
            "running cluster and start none. Call beamlet.init() first."
        )
    answer: ClusterState = core.link.ask(QueryCluster(0), monotonic() + _ANSWER_S)
    return answer
