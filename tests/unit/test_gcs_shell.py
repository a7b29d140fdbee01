from __future__ import annotations

import pytest

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import UNIQUE_ID_BYTES, Address, NodeId, WorkerId, make_address
from beamlet.gcs.gcs import Gcs, UnexpectedMessage
from beamlet.protocol.cluster import CoreWorkerGone, EndJob, JobStarted, NodeJoined, NodeReport
from beamlet.protocol.gcs import ClusterState, KvDone, KvGet, KvPut, KvValue, NodeInfo, QueryCluster
from beamlet.protocol.message import Message

NODE = NodeId(b"n" * UNIQUE_ID_BYTES)
DRIVER = make_address(NODE, WorkerId(b"d" * UNIQUE_ID_BYTES))


class Head:
    """Both ends of the GCS's links."""

    def __init__(self) -> None:
        self.answers: list[Message] = []
        self.orders: list[Message] = []
        self.gcs = Gcs(
            self.answer,
            lambda node, m: self.orders.append(m),
            lambda: 1.0,
            wall_clock=lambda: 2.0,
            validate=True,
        )
        self.gcs.on_raylet_message(NODE, NodeJoined(self.info({"CPU": 2})))

    def answer(self, address: Address, message: Message) -> None:
        self.answers.append(message)
        if (
            isinstance(message, KvDone) and message.req == 1
        ):  # a raylet in this process may call straight back
            self.gcs.on_core_worker_message(DRIVER, KvPut(3, "n", b"other", b""))

    def info(self, free: dict[str, int]) -> NodeInfo:
        return NodeInfo(NODE, True, "127.0.0.1", "host", "node.sock", {"CPU": 2}, free, {})


def test_effects_leave_in_order_even_if_a_link_calls_back() -> None:
    head = Head()
    head.gcs.on_core_worker_message(DRIVER, KvGet(2, "n", b"k", wait=True))
    head.gcs.on_core_worker_message(DRIVER, KvPut(1, "n", b"k", b"v"))
    assert head.answers == [KvDone(1, True), KvValue(2, b"v"), KvDone(3, True)]


def test_cluster_state_asks_nodes_freshly() -> None:
    head = Head()
    head.gcs.ask_freshly(NODE, lambda: NodeReport(head.info({"CPU": 1}), [], [("x", 1, "why")], 3, 9))
    head.gcs.on_core_worker_message(DRIVER, QueryCluster(5))
    (state,) = head.answers
    assert isinstance(state, ClusterState)
    assert (state.req, state.nodes[0].available, state.pending) == (5, {"CPU": 1}, [("x", 1, "why")])
    assert (state.store_used, state.store_capacity) == (3, 9)


def test_a_job_ends_with_its_driver_once() -> None:
    head = Head()
    job = head.gcs.new_job_id()
    head.gcs.on_raylet_message(NODE, JobStarted(job, DRIVER, 1, "space", "app.py"))
    gone = CoreWorkerGone(DRIVER, DeathCertificate(b"", NODE, 1), False)
    head.gcs.core_worker_gone(gone)
    head.gcs.on_raylet_message(NODE, gone)
    assert head.orders == [EndJob(job)]


def test_a_dead_node_is_sent_nothing() -> None:
    head = Head()
    job = head.gcs.new_job_id()
    head.gcs.on_raylet_message(NODE, JobStarted(job, DRIVER, 1, "space", "app.py"))
    head.gcs.node_gone(NODE, "unplugged")
    head.gcs.core_worker_gone(CoreWorkerGone(DRIVER, DeathCertificate(b"", NODE, 1), False))
    assert head.orders == []
    assert head.gcs.cluster_state(1).nodes[0].death_reason == "unplugged"


def test_a_message_that_is_not_for_the_gcs_is_named() -> None:
    with pytest.raises(UnexpectedMessage, match="sent KvDone to the GCS"):
        Head().gcs.on_core_worker_message(DRIVER, KvDone(1, True))
