"""`beamlet status`: the page that a cluster's state becomes."""

from __future__ import annotations

import doctest
from datetime import datetime

from beamlet.base.ids import ActorId, JobId, NodeId
from beamlet.cli import status_text as module
from beamlet.cli.status_text import status_text
from beamlet.cli.terminal import Paint
from beamlet.protocol.gcs import ActorInfo, ClusterState, NodeInfo, WorkerInfo

GIB = 2**30
NOW = datetime(2026, 11, 21, 7, 30)


def node(number: int, total: dict[str, float], used: dict[str, float], death: str = "") -> NodeInfo:
    units = {name: round(value * 10_000) for name, value in total.items()}
    free = {name: units[name] - round(used.get(name, 0) * 10_000) for name in units}
    return NodeInfo(NodeId(bytes([number]) * 28), not death, "10.0.0.1", "h", "", units, free, {}, death)


def state(*nodes: NodeInfo, pending: list[tuple[str, int, str]] | None = None) -> ClusterState:
    actors = [
        ActorInfo(ActorId(b"a" * 16), "Counter", "c", "ns", "ALIVE", 42, 1, JobId(b"\1\0\0\0"), False),
        ActorInfo(ActorId(b"b" * 16), "Dead", "", "ns", "DEAD", 0, 0, JobId(b"\1\0\0\0"), False, "killed"),
    ]
    workers = [WorkerInfo(b"w", 7, "idle", "", 90.0), WorkerInfo(b"v", 8, "leased", "f", 0.2)]
    return ClusterState(1, list(nodes), actors, workers, pending or [], GIB // 2, GIB, "/tmp/session")


def page(cluster: ClusterState, colours: bool = False, verbose: bool = False) -> str:
    return status_text(cluster, NOW, Paint(colours), verbose=verbose)


def test_an_idle_cluster() -> None:
    text = page(state(node(1, {"CPU": 2, "memory": GIB, "object_store_memory": GIB, "node:x": 1}, {})))
    assert text.startswith("======== Cluster status: 2026-11-21 07:30:00 ========\nNode status\n---")
    assert "Active:\n (no active nodes)\nIdle:\n 1 node_0101" in text
    assert (
        "Total Usage:\n 0.0/2.0 CPU\n 0B/1.00GiB memory\n 512.00MiB/1.00GiB object_store_memory\n\n" in text
    )
    assert text.endswith("Pending Demands:\n (no resource demands)")


def test_memory_that_is_kept_for_somebody_is_named_under_its_sum() -> None:
    cluster = state(node(1, {"object_store_memory": GIB}, {}))
    cluster.kept = ["7.0 MiB are kept for process 4711"]
    assert "object_store_memory\n   of which 7.0 MiB are kept for process 4711\n" in page(cluster)


def test_usage_adds_up_over_living_nodes() -> None:
    text = page(
        state(
            node(1, {"CPU": 2, "gizmo": 1}, {"CPU": 1.5}),
            node(2, {"CPU": 2}, {}),
            node(3, {"CPU": 64}, {}, death="its connection closed"),
        )
    )
    assert " 1.5/4.0 CPU\n 0.0/1.0 gizmo\n" in text
    assert "Active:\n 1 node_0101" in text
    assert "Idle:\n 1 node_0202" in text
    assert "Recent failures:\n node_0303" in text
    assert "its connection closed" in text


def test_what_waits_says_why() -> None:
    text = page(state(pending=[("{'CPU': 1}", 3, "all 2 CPUs are held"), ("{'GPU': 1}", 1, "")]))
    assert text.endswith(
        "Pending Demands:\n {'CPU': 1}: 3+ pending tasks/actors\n   because all 2 CPUs are held\n"
        " {'GPU': 1}: 1+ pending tasks/actors"
    )


def test_verbose_lists_workers_and_actors() -> None:
    text = page(state(), verbose=True)
    assert text.index("       8  leased       0 s  f") < text.index("       7  idle       2 min")
    assert " Counter 'c' 61616161 ALIVE pid=42 restarts=1\n Dead 62626262 DEAD: killed" in text
    assert "/tmp/session" in text
    assert "Workers" not in page(state())


def test_colours_change_nothing_but_colours() -> None:
    import re

    cluster = state(node(1, {"CPU": 2}, {}), node(2, {}, {}, "gone"), pending=[("{}", 1, "x")])
    coloured = page(cluster, colours=True, verbose=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == page(cluster, verbose=True)


def test_the_examples_in_the_docs() -> None:
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed
