"""What a process says to itself, without a socket."""

from __future__ import annotations

from typing import Any

from beamlet.protocol.peer import PeerMessage, ReleaseHold
from beamlet.rpc.batches import FRAME_MESSAGES
from beamlet.rpc.containment import Containment
from beamlet.rpc.reactor import Reactor
from beamlet.rpc.self_talk import SelfTalk


def test_a_batch_that_cannot_be_handled_does_not_cost_those_behind_it() -> None:
    """There is no connection to close, by which anybody would hear of it."""
    reactor, said = Reactor(spin_s=0.0), []
    reactor.containment = Containment(said.append)
    batches: list[list[Any]] = []

    def handle(_: SelfTalk, messages: list[Any]) -> None:
        batches.append(messages)
        if len(batches) == 1:
            raise RuntimeError("a mistake of ours")

    talk = SelfTalk(reactor, messages=PeerMessage, on_batch=handle, label="ourselves", context=None)
    for number in range(2 * FRAME_MESSAGES):
        talk.send(ReleaseHold(number))
    reactor.run_once(0.0)
    reactor.close()
    assert len(batches) == 2
    assert [message.hold for batch in batches for message in batch] == list(range(2 * FRAME_MESSAGES))
    assert "a mistake of ours" in "".join(said)
