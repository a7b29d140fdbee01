from __future__ import annotations

import pytest

from beamlet.base.ids import UNIQUE_ID_BYTES, NodeId, WorkerId, make_address
from beamlet.gcs.nodes import NodeTable
from beamlet.protocol.cluster import NodeJoined, NodeReport
from beamlet.protocol.gcs import NodeInfo

ONE = NodeId(b"1" * UNIQUE_ID_BYTES)
TWO = NodeId(b"2" * UNIQUE_ID_BYTES)


def info(node: NodeId, free: int = 20_000) -> NodeInfo:
    return NodeInfo(node, True, "127.0.0.1", "host", "node.sock", {"CPU": 20_000}, {"CPU": free}, {})


def report(node: NodeId, free: int) -> NodeReport:
    return NodeReport(info(node, free), [], [("{'CPU': 1}", 3, "all CPUs are in use")], 10, 100)


@pytest.fixture
def nodes() -> NodeTable:
    table = NodeTable(most_dead=1)
    table.handle_joined(NodeJoined(info(ONE)))
    table.handle_joined(NodeJoined(info(TWO)))
    return table


def test_the_newest_report_counts(nodes: NodeTable) -> None:
    nodes.handle_report(report(ONE, 10_000))
    nodes.handle_report(report(ONE, 5_000))
    assert [each.available for each in nodes.infos()] == [{"CPU": 5_000}, {"CPU": 20_000}]
    assert [each.node.available for each in nodes.reports()] == [{"CPU": 5_000}]


def test_the_dead_stay_listed_with_their_reason(nodes: NodeTable) -> None:
    nodes.handle_report(report(ONE, 0))
    assert nodes.handle_gone(ONE, "connection closed")
    assert not nodes.handle_gone(ONE, "again")
    last = nodes.infos()[-1]
    assert (last.node_id, last.alive, last.available, last.death_reason) == (
        ONE,
        False,
        {},
        "connection closed",
    )
    assert nodes.reports() == []
    assert nodes.alive_ids() == [TWO]
    nodes.check_invariants()


def test_a_late_word_from_the_dead_revives_nothing(nodes: NodeTable) -> None:
    nodes.handle_gone(ONE, "gone")
    nodes.handle_report(report(ONE, 20_000))
    nodes.handle_joined(NodeJoined(info(ONE)))
    assert not nodes.is_alive(ONE)
    nodes.check_invariants()


def test_the_list_of_the_dead_is_bounded(nodes: NodeTable) -> None:
    nodes.handle_gone(ONE, "first")
    nodes.handle_gone(TWO, "second")
    assert [each.death_reason for each in nodes.infos()] == ["second"]


def test_actors_go_to_their_owners_node_first(nodes: NodeTable) -> None:
    owner = make_address(TWO, WorkerId(b"w" * UNIQUE_ID_BYTES))
    assert nodes.node_for(owner) == TWO
    nodes.handle_gone(TWO, "gone")
    assert nodes.node_for(owner) == ONE
    nodes.handle_gone(ONE, "gone")
    assert nodes.node_for(owner) is None
