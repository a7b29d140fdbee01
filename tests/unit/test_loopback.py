from __future__ import annotations

import msgspec
import pytest

from beamlet.base.ids import NodeId
from beamlet.protocol import cluster
from beamlet.protocol.message import Message
from beamlet.rpc.loopback import loopback
from support.hand_loop import HandLoop


def test_what_is_sent_is_heard_later_and_in_order() -> None:
    loop = HandLoop()
    left, right = loopback(loop)
    heard: list[Message] = []

    def hear(message: Message) -> None:
        heard.append(message)
        if len(heard) == 1:
            right.send(cluster.AskReport(9))
            assert not answers, "an answer is not heard inside send"

    answers: list[Message] = []
    right.listen(hear)
    left.listen(answers.append)
    left.send(cluster.EventsTold(1, 0))
    left.send(cluster.EventsTold(2, 0))
    assert heard == []
    loop.settle()
    assert heard == [cluster.EventsTold(1, 0), cluster.EventsTold(2, 0)]
    assert answers == [cluster.AskReport(9)]


def test_with_a_check_messages_are_copied_as_a_socket_would() -> None:
    loop = HandLoop()
    left, right = loopback(loop, cluster.FromGcs, cluster.ToGcs)
    heard: list[Message] = []
    right.listen(heard.append)
    said = cluster.StartJob(b"d", 1, "n", "e")  # type: ignore[arg-type]
    left.send(said)
    loop.settle()
    assert heard == [said]
    assert heard[0] is not said
    with pytest.raises(msgspec.ValidationError):
        left.send(cluster.AskReport(1))  # a raylet does not say that
    assert NodeId(b"") == b""
