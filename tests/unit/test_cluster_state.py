"""nodes(), *_resources(), timeline(): what the GCS answers, as Ray's users know it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from beamlet.api import backend, cluster_state
from beamlet.base.ids import NodeId, TaskId
from beamlet.exceptions import RaySystemError
from beamlet.protocol import gcs
from beamlet.protocol.spans import pack

KEYS = {
    *("NodeID", "Alive", "alive", "NodeManagerAddress", "NodeManagerHostname", "NodeManagerPort", "NodeName"),
    *("ObjectManagerPort", "ObjectStoreSocketName", "RayletSocketName", "MetricsExportPort", "Labels"),
    *("RuntimeEnvAgentPort", "DeathReason", "DeathReasonMessage", "Resources"),
}


def node(number: int, total: dict[str, int], available: dict[str, int], alive: bool = True) -> gcs.NodeInfo:
    return gcs.NodeInfo(
        NodeId(bytes([number]) * 28),
        alive,
        f"10.0.0.{number}",
        f"host{number}",
        f"/tmp/{number}.sock",
        total,
        available,
        {"zone": "a"},
        "" if alive else "its connection closed",
    )


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[type, Any]:
    """A backend whose GCS says what the test puts here, by the question's type."""
    said: dict[type, Any] = {}
    link = SimpleNamespace(ask=lambda message, deadline=None: said[type(message)])
    monkeypatch.setattr(
        backend, "_current", SimpleNamespace(link=link, identity=SimpleNamespace(node_ip="10.0.0.1"))
    )
    return said


def cluster(*nodes: gcs.NodeInfo) -> gcs.ClusterState:
    return gcs.ClusterState(1, list(nodes), [], [], [], 0, 0, "")


def test_resources_of_the_living_add_up_exactly(answers: dict[type, Any]) -> None:
    answers[gcs.QueryCluster] = cluster(
        node(1, {"CPU": 20_000, "x": 1_000}, {"CPU": 0, "x": 1_000}),
        node(2, {"CPU": 10_000, "x": 2_000}, {"CPU": 5_000, "x": 2_000}),
        node(3, {"CPU": 990_000}, {}, alive=False),
    )
    assert cluster_state.cluster_resources() == {"CPU": 3.0, "x": 0.3}
    assert cluster_state.available_resources() == {"CPU": 0.5, "x": 0.3}


def test_what_is_used_up_is_not_listed_as_available(answers: dict[type, Any]) -> None:
    answers[gcs.QueryCluster] = cluster(node(1, {"CPU": 20_000}, {"CPU": 0}))
    assert cluster_state.available_resources() == {}


def test_nodes_have_rays_keys_and_the_dead_say_why(answers: dict[type, Any]) -> None:
    answers[gcs.QueryCluster] = cluster(
        node(1, {"CPU": 20_000}, {}), node(2, {"CPU": 10_000}, {}, alive=False)
    )
    living, dead = cluster_state.nodes()
    assert set(living) == set(dead) == KEYS
    assert living["NodeID"] == "01" * 28
    assert living["Resources"] == {"CPU": 2.0}
    assert living["Labels"] == {"zone": "a"}
    assert (dead["Alive"], dead["Resources"]) == (False, {})
    assert dead["DeathReasonMessage"] == "its connection closed"


SPANS = pack([(TaskId(b"t" * 24), "f", 1_000_000, 1_500_000, False)])
EVENTS = gcs.TaskEvents(b"w" * 28, 42, 1, SPANS)


def test_a_span_becomes_a_chrome_trace_event(answers: dict[type, Any]) -> None:
    answers[gcs.QueryTimeline] = gcs.Timeline(1, [EVENTS], 0)
    (row,) = cluster_state.timeline() or []
    assert (row["ph"], row["ts"], row["dur"], row["name"]) == ("X", 1_000, 500, "f")
    assert (row["pid"], row["tid"]) == ("10.0.0.1", "worker:" + "77" * 28)
    assert row["cname"] == "rail_animation"


def test_timeline_says_what_it_does_not_show(
    answers: dict[type, Any], caplog: pytest.LogCaptureFixture
) -> None:
    answers[gcs.QueryTimeline] = gcs.Timeline(1, [EVENTS], 28_000, 2)
    cluster_state.timeline()
    assert "28000 tasks and calls that ran are not shown" in caplog.text
    assert "2 busy workers did not say in time" in caplog.text


def test_timeline_to_a_file(answers: dict[type, Any], tmp_path: Path) -> None:
    answers[gcs.QueryTimeline] = gcs.Timeline(1, [EVENTS], 0)
    rows = cluster_state.timeline()
    assert cluster_state.timeline(filename=str(tmp_path / "t.json")) is None
    assert json.loads((tmp_path / "t.json").read_text()) == rows


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (cluster_state.nodes, RaySystemError),
        (cluster_state.cluster_resources, RaySystemError),
        (cluster_state.available_resources, RaySystemError),
        (cluster_state.timeline, RuntimeError),
    ],
)
def test_asking_before_init_is_an_error_and_starts_nothing(
    ask: Callable[[], Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_current", None)
    with pytest.raises(error, match=r"beamlet\.init\(\) first"):
        ask()
    assert not backend.is_connected()
