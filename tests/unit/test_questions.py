"""Questions about the cluster: a process has only so many open at once, however many threads ask."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from beamlet.core_worker.node_link import _QUESTIONS, NodeLink
from beamlet.exceptions import ClusterGoneError
from beamlet.gcs.gcs import MOST_QUESTIONS
from beamlet.protocol import gcs
from beamlet.raylet.members import FromCoreWorker
from beamlet.rpc.connection import decoder_for, encode_frame
from beamlet.rpc.framing import Deframer
from beamlet.rpc.turns import SharedReactor
from support.waiting import wait_until


@pytest.fixture
def shared() -> Iterator[SharedReactor]:
    reactor = SharedReactor()
    reactor.start()
    yield reactor
    reactor.shut()
    reactor.close()


def node_link(reactor: SharedReactor) -> tuple[socket.socket, NodeLink]:
    near, far = socket.socketpair()
    return far, NodeLink(near, reactor, lambda _: None, lambda _: None, "/session")


def test_a_head_puts_up_with_what_a_process_asks() -> None:
    assert _QUESTIONS < MOST_QUESTIONS


def test_questions_of_many_threads_wait_for_each_other(shared: SharedReactor) -> None:
    """A head that was slow for a moment found more of them than it puts up with, and expelled the process."""
    far, link = node_link(shared)
    answers: list[Any] = []
    count = 2 * _QUESTIONS + 10

    def ask() -> None:
        answers.append(link.ask(gcs.QueryTimeline(0), time.monotonic() + 20.0))

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    asked = questions_at(far)
    wait_until(lambda: next(asked) == _QUESTIONS, 10.0, "as many as may be open")
    with pytest.raises(TimeoutError):
        link.ask(gcs.QueryTimeline(0), time.monotonic() + 0.05)
    answered = 0
    while answered < count:
        known = next(asked)
        assert known - answered <= _QUESTIONS, "more are open than a head puts up with"
        far.sendall(
            b"".join(encode_frame([gcs.Timeline(req + 1, [], 0, 0)]) for req in range(answered, known))
        )
        answered = known
    for thread in threads:
        thread.join(10.0)
    assert len(answers) == count
    assert link._questions == 0
    assert not link._askers
    link.close()
    far.close()


def questions_at(far: socket.socket) -> Iterator[int]:
    """How many have arrived at the other end; waits a moment for more."""
    far.settimeout(0.05)
    deframer, known = Deframer(), 0
    while True:
        with contextlib.suppress(TimeoutError):
            for frame in deframer.feed(memoryview(bytearray(far.recv(1 << 16)))):
                known += len(decoder_for(FromCoreWorker).decode(frame))
        yield known


@pytest.mark.parametrize("how", ["gone", "late"])
def test_a_question_that_is_given_up_is_open_until_its_answer_comes(shared: SharedReactor, how: str) -> None:
    far, link = node_link(shared)
    for req in range(1, 4):
        with pytest.raises(TimeoutError):
            link.ask(gcs.QueryTimeline(0), time.monotonic() + 0.01)
        assert link._questions == req
    if how == "gone":
        far.close()
    else:
        far.sendall(encode_frame([gcs.Timeline(req, [], 0, 0) for req in range(1, 4)]))
    wait_until(lambda: link._questions == 0, 10.0, "the slots")
    if how == "gone":
        with pytest.raises(ClusterGoneError):
            link.ask(gcs.QueryTimeline(0), time.monotonic() + 1.0)
        assert link._questions == 0
    link.close()
    far.close()
