"""The GCS behind its ports: two raylets that only hear and say messages."""

from __future__ import annotations

from typing import Any

import pytest

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import (
    UNIQUE_ID_BYTES,
    ActorId,
    Address,
    FunctionKey,
    JobId,
    NodeId,
    WorkerId,
    job_id_of_int,
    make_address,
)
from beamlet.gcs.gcs import MOST_QUESTIONS, REPORT_S, Gcs, UnexpectedMessage
from beamlet.gcs.kv import FUNCTIONS
from beamlet.gcs.restart_pauses import AT_ONCE, FIRST_PAUSE_S
from beamlet.protocol import cluster, gcs
from beamlet.protocol.message import Message
from beamlet.rpc.loopback import loopback
from support.hand_loop import HandLoop
from support.jobs import a_job

NODES = [NodeId(bytes([n]) * UNIQUE_ID_BYTES) for n in (1, 2)]
DRIVER = make_address(NODES[0], WorkerId(b"d" * UNIQUE_ID_BYTES))
OTHER = make_address(NODES[1], WorkerId(b"o" * UNIQUE_ID_BYTES))
JOB = job_id_of_int(1)


class Raylet:
    """One node's end of the conversation. Answers AskReport and AskEvents unless it is ``mute``."""

    def __init__(self, node: NodeId, gcs_part: Gcs, loop: HandLoop) -> None:
        self.node = node
        self.heard: list[Message] = []
        self.mute = False
        self.port, other = loopback(loop, cluster.FromGcs, cluster.ToGcs)
        self.port.listen(self.hear)
        gcs_part.attach(other)
        self.port.send(cluster.NodeJoined(self.info(2)))

    def info(self, free: int) -> gcs.NodeInfo:
        return gcs.NodeInfo(self.node, True, "127.0.0.1", "h", "node.sock", {"CPU": 2}, {"CPU": free}, {})

    def hear(self, message: Message) -> None:
        if isinstance(message, cluster.AskReport) and not self.mute:
            report = cluster.NodeReport(self.info(1), [], [("x", 1, "why")], 3, 9, message.round)
            self.port.send(report)
        elif isinstance(message, cluster.AskEvents) and not self.mute:
            self.port.send(cluster.EventsTold(message.round, 1))
        elif not isinstance(message, cluster.AskReport | cluster.AskEvents):
            self.heard.append(message)

    def say(self, sender: Address, message: gcs.Request, job: JobId = JOB) -> None:
        self.port.send(cluster.Forwarded(sender, job, message))

    def delivered(self) -> list[Message]:
        found = [each.message for each in self.heard if isinstance(each, cluster.Deliver)]
        self.heard.clear()
        return found


class Cluster:
    def __init__(self) -> None:
        self.loop = HandLoop()
        self.contained: list[str] = []
        self.gcs = Gcs(
            self.loop,
            lambda error, where, peer: self.contained.append(where),
            wall_clock=lambda: 2.0,
            validate=True,
        )
        self.raylets = [Raylet(node, self.gcs, self.loop) for node in NODES]
        self.loop.settle()

    def begin_job(self, driver: Address = DRIVER) -> JobId:
        self.raylets[0].port.send(cluster.StartJob(driver, 1, "space", "app.py"))
        self.loop.settle()
        (started,) = self.raylets[0].heard
        assert isinstance(started, cluster.JobStarted)
        self.raylets[0].heard.clear()
        return started.job_id

    def end(self, address: Address, raylet: int = 0) -> None:
        certificate = DeathCertificate(b"", NODES[raylet], 1)
        self.raylets[raylet].port.send(cluster.CoreWorkerGone(address, certificate, False))
        self.loop.settle()


def test_a_job_id_is_asked_for_by_message_and_repeating_the_question_gives_the_same() -> None:
    cluster_ = Cluster()
    assert [cluster_.begin_job(), cluster_.begin_job(), cluster_.begin_job(OTHER)] == [
        job_id_of_int(1),
        job_id_of_int(1),
        job_id_of_int(2),
    ]


def test_a_job_ends_with_its_driver_once_and_on_all_nodes() -> None:
    cluster_ = Cluster()
    job = cluster_.begin_job()
    cluster_.end(DRIVER)
    cluster_.end(DRIVER)
    for raylet in cluster_.raylets:
        assert raylet.heard == [cluster.EndJob(job)]


def test_an_actor_killed_by_another_jobs_driver_says_by_which() -> None:
    cluster_ = Cluster()
    cluster_.begin_job()
    cluster_.begin_job(OTHER)
    near, far = cluster_.raylets
    actor = ActorId(b"a" * 12 + JOB)
    spec = gcs.ActorSpec(actor, a_job(1, DRIVER), DRIVER, FunctionKey(b"k"), "Counter", b"", [], [], {}, {})
    near.say(DRIVER, gcs.CreateActor(1, spec))
    near.say(DRIVER, gcs.SubscribeActor(actor))
    far.say(OTHER, gcs.KillActor(2, actor, True))
    cluster_.loop.settle()
    update = near.delivered()[-1]
    assert isinstance(update, gcs.ActorUpdate)
    assert f"kill() was called by the driver of job {job_id_of_int(2).hex()} (pid 1)" in update.cause


def test_an_answer_goes_to_the_node_of_whoever_asked() -> None:
    cluster_ = Cluster()
    near, far = cluster_.raylets
    far.say(OTHER, gcs.KvGet(2, "n", b"k", wait=True))
    near.say(DRIVER, gcs.KvPut(1, "n", b"k", b"v"))
    cluster_.loop.settle()
    assert near.delivered() == [gcs.KvDone(1, True)]
    assert far.delivered() == [gcs.KvValue(2, b"v")]


def test_the_cluster_is_described_when_all_nodes_have_reported() -> None:
    cluster_ = Cluster()
    near, _ = cluster_.raylets
    near.say(DRIVER, gcs.QueryCluster(5))
    cluster_.loop.settle()
    (state,) = near.delivered()
    assert isinstance(state, gcs.ClusterState)
    assert [node.available for node in state.nodes] == [{"CPU": 1}, {"CPU": 1}]
    assert (state.req, state.pending, state.store_used) == (5, [("x", 1, "why")] * 2, 6)


def test_a_node_that_does_not_report_delays_the_answer_only_so_long() -> None:
    cluster_ = Cluster()
    near, far = cluster_.raylets
    far.mute = True
    near.say(DRIVER, gcs.QueryCluster(5))
    cluster_.loop.pass_time(REPORT_S - 0.1)
    assert near.delivered() == []
    cluster_.loop.pass_time(0.2)
    assert len(near.delivered()) == 1


def test_a_node_that_dies_is_not_waited_for() -> None:
    cluster_ = Cluster()
    near, far = cluster_.raylets
    far.mute = True
    near.say(DRIVER, gcs.QueryCluster(5))
    near.say(DRIVER, gcs.QueryTimeline(6))
    cluster_.loop.settle()
    cluster_.gcs.node_gone(NODES[1], "unplugged")
    cluster_.loop.settle()
    state, timeline = near.delivered()
    assert isinstance(state, gcs.ClusterState)
    assert state.nodes[1].death_reason == "unplugged"
    assert timeline == gcs.Timeline(6, [], 0, 1)


def test_a_flood_of_questions_asks_the_nodes_once_a_round_and_costs_its_sender_the_connection() -> None:
    cluster_ = Cluster()
    near, far = cluster_.raylets
    far.mute = True
    for req in range(MOST_QUESTIONS + 1):
        near.say(DRIVER, gcs.QueryCluster(req))
    cluster_.loop.settle()
    (closed,) = near.heard
    assert isinstance(closed, cluster.Misbehaved)
    assert closed.address == DRIVER


def test_the_timeline_waits_for_what_workers_have_not_told_yet() -> None:
    cluster_ = Cluster()
    cluster_.begin_job()
    near, far = cluster_.raylets
    near.mute = far.mute = True
    near.say(DRIVER, gcs.QueryTimeline(5))
    cluster_.loop.settle()
    batch = gcs.TaskEvents(b"w", 1, 1, b"", dropped=2)
    near.say(DRIVER, batch)
    near.port.send(cluster.EventsTold(1, 0))
    far.port.send(cluster.EventsTold(1, 3))
    cluster_.loop.settle()
    assert near.delivered() == [gcs.Timeline(5, [batch], 2, 3)]


def test_functions_and_events_of_a_job_go_when_it_is_over() -> None:
    cluster_ = Cluster()
    near, far = cluster_.raylets
    first, second = cluster_.begin_job(), cluster_.begin_job(OTHER)
    for sender, job in ((DRIVER, first), (OTHER, second)):
        near.say(sender, gcs.KvPut(1, FUNCTIONS, b"shared", b"code"), job)
        near.say(sender, gcs.KvPut(1, FUNCTIONS, job, bytes(1000)), job)
        near.say(sender, gcs.TaskEvents(b"w", 1, 1, b""), job)
    cluster_.end(DRIVER)
    near.say(DRIVER, gcs.KvPut(1, FUNCTIONS, b"late", b"code"), first)
    far.say(OTHER, gcs.KvKeys(2, FUNCTIONS, b""), second)
    cluster_.loop.settle()
    assert gcs.KvKeyList(2, [second, b"shared"]) in far.delivered()
    assert len(cluster_.gcs.task_events.batches()) == 1
    cluster_.end(OTHER)
    assert cluster_.gcs.kv.handle_keys(OTHER, gcs.KvKeys(3, FUNCTIONS, b""))[0].message.keys == []  # type: ignore[union-attr]
    assert cluster_.gcs.task_events.batches() == []


def test_a_detached_actor_keeps_what_its_job_exported() -> None:
    cluster_ = Cluster()
    near, _ = cluster_.raylets
    job = cluster_.begin_job()
    actor = ActorId(b"a" * 12 + job)
    key = FunctionKey(b"class")
    job_of_actor = a_job(1, DRIVER)
    spec = gcs.ActorSpec(actor, job_of_actor, DRIVER, key, "A", b"", [], [], {}, {}, "n", detached=True)
    near.say(DRIVER, gcs.KvPut(1, FUNCTIONS, b"class", b"code"))
    near.say(DRIVER, gcs.CreateActor(2, spec))
    cluster_.end(DRIVER)
    assert cluster_.gcs.kv.handle_get(OTHER, gcs.KvGet(1, FUNCTIONS, b"class"))[0].message.value == b"code"  # type: ignore[union-attr]
    near.say(OTHER, gcs.KillActor(3, actor, True), job_id_of_int(2))
    cluster_.loop.settle()
    assert cluster_.gcs.kv.handle_get(OTHER, gcs.KvGet(1, FUNCTIONS, b"class"))[0].message.value is None  # type: ignore[union-attr]


def test_of_a_job_that_is_outlived_the_nodes_hear_twice_and_only_what_outlives_it_creates_actors() -> None:
    cluster_ = Cluster()
    near, _ = cluster_.raylets
    job = cluster_.begin_job()
    workers = [make_address(NODES[0], WorkerId(bytes([n]) * UNIQUE_ID_BYTES)) for n in (1, 2)]

    def spec(number: int, owner: Address, **options: Any) -> gcs.ActorSpec:
        actor = ActorId(b"%012d" % number + job)
        key = FunctionKey(b"class")
        return gcs.ActorSpec(actor, a_job(1, DRIVER), owner, key, "A", b"", [], [], {}, {}, **options)

    def create(number: int, owner: Address, lasting: bool, **options: Any) -> str:
        near.heard.clear()
        message = gcs.CreateActor(number, spec(number, owner, **options))
        near.port.send(cluster.Forwarded(owner, job, message, lasting))
        cluster_.loop.settle()
        (answer,) = (each for each in near.heard if isinstance(each, cluster.Deliver))
        return type(answer.message).__name__

    assert create(1, DRIVER, False, detached=True) == "ActorAccepted"
    near.heard.clear()
    cluster_.end(DRIVER)
    assert [each for each in near.heard if isinstance(each, cluster.EndJob)] == [cluster.EndJob(job, True)]
    assert create(2, workers[0], True) == "ActorAccepted"
    assert create(3, workers[1], False) == "ActorRefused"
    near.heard.clear()
    near.say(OTHER, gcs.KillActor(3, ActorId(b"%012d" % 1 + job), True), job_id_of_int(2))
    cluster_.loop.settle()
    assert [each for each in near.heard if isinstance(each, cluster.EndJob)] == [cluster.EndJob(job)]
    assert not [info for info in cluster_.gcs.actors.infos() if info.state != "DEAD"]
    assert create(4, workers[0], True) == "ActorRefused"


def test_an_actor_whose_restart_was_put_off_is_placed_when_its_time_has_come() -> None:
    cluster_ = Cluster()
    cluster_.begin_job()
    raylet, actor = cluster_.raylets[0], ActorId(b"a" * 12 + JOB)
    at = make_address(NODES[0], WorkerId(b"w" * UNIQUE_ID_BYTES))
    spec = gcs.ActorSpec(
        actor, a_job(1), DRIVER, FunctionKey(b"k"), "C", b"", [], [], {}, {}, max_restarts=-1
    )
    raylet.say(DRIVER, gcs.CreateActor(1, spec, False, True))
    for incarnation in range(AT_ONCE + 1):
        raylet.port.send(cluster.ActorPlaced(actor, incarnation, at, 7))
        certificate = DeathCertificate(b"", NODES[0], 7)
        raylet.port.send(cluster.CoreWorkerGone(at, certificate, False, actor, incarnation))
    cluster_.loop.settle()

    def placed() -> list[int]:
        return [each.incarnation for each in raylet.heard if isinstance(each, cluster.PlaceActor)]

    assert placed() == list(range(AT_ONCE + 1))
    cluster_.loop.pass_time(FIRST_PAUSE_S + 0.01)
    assert placed()[-1] == AT_ONCE + 1


def test_exported_functions_are_neither_overwritten_nor_deleted_by_anybody() -> None:
    cluster_ = Cluster()
    near, _ = cluster_.raylets
    cluster_.begin_job()
    near.say(DRIVER, gcs.KvPut(1, FUNCTIONS, b"f", b"code"))
    near.say(OTHER, gcs.KvPut(2, FUNCTIONS, b"f", b"other code", overwrite=True))
    near.say(DRIVER, gcs.KvGet(3, FUNCTIONS, b"f"))
    near.say(DRIVER, gcs.KvDel(4, FUNCTIONS, b"f"))
    cluster_.loop.settle()
    assert isinstance(near.heard[-1], cluster.Misbehaved)
    assert gcs.KvValue(3, b"code") in near.delivered()


def test_what_a_table_cannot_digest_costs_its_sender_the_connection_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster_ = Cluster()
    near, _ = cluster_.raylets

    def fail(*_: object) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setitem(cluster_.gcs._on_core_worker, gcs.FindActor, fail)
    near.say(DRIVER, gcs.FindActor(1, "n", "s"))
    near.say(OTHER, gcs.KvPut(2, "n", b"k", b"v"))
    near.say(DRIVER, gcs.KvPut(3, "n", b"k", b"v"))
    cluster_.loop.settle()
    closed, done = near.heard
    assert isinstance(closed, cluster.Misbehaved)
    assert "FindActor" in closed.reason
    assert cluster_.contained == ["the GCS handling FindActor"]
    assert done == cluster.Deliver(DRIVER, gcs.KvDone(3, True, True))


def test_a_raylet_says_who_it_is_first() -> None:
    loop = HandLoop()
    port, other = loopback(loop)
    Gcs(loop, lambda *_: None).attach(other)
    port.send(cluster.EventsTold(1, 0))
    with pytest.raises(UnexpectedMessage, match="has not joined"):
        loop.settle()


@pytest.mark.parametrize("size", [0, 1000, 1 << 20])
def test_a_class_goes_with_the_order_to_be_its_instance_if_it_is_here_and_short(size: int) -> None:
    """Else each worker asks for it: a question, an answer and two turns of its threads for each actor."""
    cluster_ = Cluster()
    job, near, key = cluster_.begin_job(), cluster_.raylets[0], FunctionKey(b"k" * 20)
    if size:
        near.say(DRIVER, gcs.KvPut(1, FUNCTIONS, key, b"c" * size), job)
    actor = ActorId(b"a" * 12 + job)
    spec = gcs.ActorSpec(actor, a_job(1, DRIVER), DRIVER, key, "A", b"", [], [], {}, {})
    near.say(DRIVER, gcs.CreateActor(2, spec), job)
    cluster_.loop.settle()
    (order,) = [each for each in near.heard if isinstance(each, cluster.PlaceActor)]
    assert order == cluster.PlaceActor(spec, 0, b"c" * size if size == 1000 else b"")
