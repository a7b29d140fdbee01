"""What the cluster is and did: nodes(), cluster_resources(), available_resources(), timeline().

The GCS answers; here its answers become the dictionaries that Ray's users know.  These functions never start
a cluster: asking about one that is not there is a mistake, and is called one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Any

from beamlet.api import backend
from beamlet.api.argument_table import checked
from beamlet.base.own_code import for_users
from beamlet.base.resources import UNIT, to_floats
from beamlet.exceptions import RaySystemError
from beamlet.protocol.gcs import ClusterState, NodeInfo, QueryCluster, QueryTimeline, TaskEvent, Timeline

#: The GCS is in the head's own loop: an answer that takes longer is none.
_ANSWER_S = 30.0
#: Colours of Chrome's trace viewer, as Ray chooses them.
_COLOURS = {
    "task:execute": "rail_animation",
    "task:deserialize_arguments": "rail_load",
    "task:store_outputs": "rail_idle",
    "ray.get": "good",
    "ray.put": "terrible",
    "ray.wait": "vsync_highlight_color",
}


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

    filename: write JSON there and return None. Only the newest 100 000 events are kept.
    Raises RuntimeError before ``init()``.
    """
    filename = checked("timeline", "filename", filename)
    core = backend.current_or_none()
    if core is None:
        raise RuntimeError(
            "timeline() is about a running cluster, and there is none: call beamlet.init() first."
        )
    answer: Timeline = core.link.call(QueryTimeline(0), monotonic() + _ANSWER_S)
    rows = [event_row(event, core.identity.node_ip) for event in answer.events]
    if filename is None:
        return rows
    Path(filename).write_text(json.dumps(rows))
    return None


def event_row(event: TaskEvent, node_ip: str) -> dict[str, Any]:
    """One span as a Chrome trace event of phase X (complete)."""
    return {
        "cat": event.category,
        "name": event.name,
        "pid": node_ip,
        "tid": f"worker:{event.worker_id.hex()}",
        "ts": event.start_us,
        "dur": event.end_us - event.start_us,
        "ph": "X",
        "cname": "terrible" if event.failed else _COLOURS.get(event.category, "generic_work"),
        "args": {"task_id": event.task_id.hex(), "worker_pid": event.pid, "failed": event.failed},
    }


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
    answer: ClusterState = core.link.call(QueryCluster(0), monotonic() + _ANSWER_S)
    return answer
