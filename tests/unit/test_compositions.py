"""Driver and executor: two compositions of the same rooms, each with the messages that it takes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import pytest

from beamlet.base.ids import (
    ActorId,
    FunctionKey,
    NodeId,
    ObjectId,
    TaskId,
    WorkerId,
    job_id_of_int,
    make_address,
)
from beamlet.base.invariants import InvariantBroken
from beamlet.core_worker import core_worker
from beamlet.core_worker.core_worker import Identity, Misdirected
from beamlet.core_worker.driver import DriverCore
from beamlet.core_worker.executor import ExecutorCore
from beamlet.core_worker.owning.streams import Stream
from beamlet.core_worker.peers import Peer
from beamlet.protocol import node
from beamlet.protocol.gcs import ActorReady, ActorSpec, ActorStarted
from beamlet.protocol.node import JobDescription
from beamlet.protocol.peer import (
    CallActor,
    Consumed,
    InlineDep,
    ObjectGone,
    ObjectValue,
    PeerMessage,
    PushTask,
    Result,
    Results,
    StealTasks,
    StreamDropped,
    Yielded,
)
from beamlet.rpc.limits import FROM_CORE_WORKER_BYTES
from beamlet.serialization.remote_error import peek

#: What only those take who run work for others.
WORK = {PushTask, CallActor, StealTasks, Consumed, StreamDropped}
#: Dispatched before the table is asked.
COMMON = {Result, Results}


def identity() -> Identity:
    return Identity(
        node_id=NodeId(b"n" * 28),
        worker_id=WorkerId(b"w" * 28),
        job_id=job_id_of_int(1),
        namespace="tests",
        session_dir="/nowhere",
        node_ip="127.0.0.1",
        arena_bytes=1 << 20,
    )


@contextmanager
def ends() -> Iterator[tuple[socket.socket, int]]:
    """A line to a raylet that says nothing, and an empty arena."""
    ours, theirs = socket.socketpair()
    arena = os.memfd_create("arena")
    os.ftruncate(arena, 1 << 20)
    with theirs:
        yield ours, arena


def nothing(*_: Any) -> None:
    pass


MAKE: Any = nothing


@pytest.fixture
def driver() -> Iterator[DriverCore]:
    with ends() as (wire, arena):
        core = DriverCore(
            *(identity(), wire, arena, MAKE, MAKE),
            on_raylet_lost=nothing,
            on_output=nothing,
            on_notice=nothing,
        )
        yield core
        core.shut()


@pytest.fixture
def executor() -> Iterator[ExecutorCore]:
    with ends() as (wire, arena):
        core = ExecutorCore(
            *(identity(), wire, arena, MAKE, MAKE),
            on_raylet_lost=nothing,
            run=nothing,
            on_job=nothing,
            speaker=str,
        )
        yield core
        core.shut()


def test_together_they_take_every_message_of_peers(driver: DriverCore, executor: ExecutorCore) -> None:
    every = set(get_args(PeerMessage))
    assert set(executor.on_peer_message) | COMMON == every
    assert set(driver.on_peer_message) | COMMON == every - WORK


def test_a_driver_that_is_sent_a_task_refuses_it_and_takes_what_comes_behind(driver: DriverCore) -> None:
    sender = Peer(make_address(NodeId(b"n" * 28), WorkerId(b"o" * 28)))
    connection: Any = type("Line", (), {"context": sender})()
    task_id = TaskId(b"t" * 24)
    task = PushTask(7, task_id, FunctionKey(b"f"), "f", 1, b"")
    driver._from_peer(connection, [task, StealTasks(1)])
    (answer,) = sender.queue
    assert isinstance(answer, Results)
    assert (answer.seq, answer.failed) == (7, True)
    assert driver.reactor.containment.count == 2


@pytest.mark.parametrize("end", ["the raylet is lost", "the driver shuts down"])
def test_who_waits_for_an_item_of_a_generator_hears_of_the_end(driver: DriverCore, end: str) -> None:
    task_id = TaskId(b"g" * 24)
    stream = driver.outcomes.streams[task_id] = Stream(task_id, -1)
    heard: list[Any] = []
    stream.waiters[heard.append] = None
    if end == "the raylet is lost":
        with driver.lock:
            driver._raylet_lost("killed")
    else:
        driver.shut()
    assert heard == [stream]
    assert stream.finished
    assert len(stream.ready) == 1, "the error"


def test_an_order_of_the_raylet_for_the_other_kind_is_misuse(
    driver: DriverCore, executor: ExecutorCore
) -> None:
    with pytest.raises(Misdirected, match="ExitWorker from the raylet is not for a driver"):
        driver._from_raylet(node.ExitWorker("enough", graceful=True))
    with pytest.raises(Misdirected, match="Notice from the raylet is not for a worker"):
        executor._from_raylet(node.Notice(20, "x"))


@pytest.mark.parametrize(
    "lost",
    [Result(7, b""), Results(7, [b"", b""], contained=[[], []], hold=3), Yielded(7, 1, b"", hold=3)],
    ids=["result", "results", "item"],
)
def test_an_answer_that_cannot_be_sent_is_answered_with_an_error(executor: ExecutorCore, lost: Any) -> None:
    asker = Peer(make_address(NodeId(b"n" * 28), WorkerId(b"v" * 28)))
    executor._unsent(asker, lost)
    (answer,) = asker.queue
    assert isinstance(answer, Results)
    assert (answer.seq, answer.failed, answer.hold) == (7, True, getattr(lost, "hold", 0))
    assert len(answer.items) == 1, "all values are that error"
    executor._unsent(asker, answer)
    assert len(asker.queue) == 1, "and if that cannot either, nothing is"


def test_who_asked_for_a_value_that_cannot_be_sent_is_told(driver: DriverCore) -> None:
    asker, object_id = Peer(make_address(NodeId(b"n" * 28), WorkerId(b"v" * 28))), ObjectId(b"o" * 28)
    driver._unsent(asker, ObjectValue(object_id, b""))
    (answer,) = asker.queue
    assert isinstance(answer, ObjectGone)
    assert answer.object_id == object_id
    assert "could not be sent" in answer.reason


def test_an_actor_of_which_nobody_can_be_told_that_it_is_ready_ends(executor: ExecutorCore) -> None:
    broken: list[InvariantBroken] = []
    executor.reactor.containment.on_broken = broken.append
    with executor.lock:
        executor.link.send(ActorStarted(ActorId(b"a" * 16), 0, "no bytes \ud800"))  # type: ignore[arg-type]
        executor.reactor.flush()
    executor.reactor.lead_once(0.0)
    (error,) = broken
    assert "nobody can be told that this actor is ready" in str(error)


def test_an_actor_whose_arguments_cannot_be_sent_is_never_born(driver: DriverCore) -> None:
    job = JobDescription(job_id_of_int(1), "", [], b"", b"", {}, False, driver.address)
    deps: list[Any] = [InlineDep(bytes(FROM_CORE_WORKER_BYTES // 100))] * 101
    spec = ActorSpec(ActorId(b"a" * 16), job, driver.address, FunctionKey(b"A"), "A", b"x", deps, [], {}, {})
    sent: list[Any] = []
    with driver.lock:
        driver.link.connection.send(ActorReady(spec))
        driver.link.send = sent.append  # type: ignore[method-assign]
        driver.reactor.flush()
    driver.reactor.lead_once(0.0)
    (ready,) = sent
    assert isinstance(ready, ActorReady)
    assert "its arguments could not be sent to the cluster: ValueError" in str(peek(ready.error))
    assert (ready.spec.actor_id, ready.spec.deps) == (spec.actor_id, [])


def test_memory_is_given_back_when_few_objects_are_left(
    driver: DriverCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(core_worker, "give_back_memory", lambda: given.append(len(driver.refs.objects)))
    ids = [ObjectId(number.to_bytes(28, "big")) for number in range(100_000)]
    tasks: dict[Any, Any] = driver.submission.tasks
    for object_id in ids:
        driver.refs.new_owned(object_id)
        tasks[object_id] = None
    for object_id in ids:
        del tasks[object_id]
    full = tasks.__sizeof__()
    driver._on_idle()
    assert tasks.__sizeof__() < full
    assert given == [], "all objects live"
    driver.refs.release_many(ids[10:])
    driver._on_idle()
    driver._on_idle()
    assert given == [10]
