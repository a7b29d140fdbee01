"""The door of a node on a clock of the test's own: who proves nothing in time is shown out."""

from __future__ import annotations

import socket
from pathlib import Path

from beamlet.rpc.listener import HANDSHAKE_TIMEOUT_S, Listener
from beamlet.rpc.reactor import Reactor


def test_the_silent_are_shown_out_when_their_time_is_over(tmp_path: Path) -> None:
    now = [100.0]
    reactor = Reactor(clock=lambda: now[0])
    proven: list[object] = []
    path = str(tmp_path / "node.sock")
    listener = Listener(path, b"s" * 32, reactor, proven.append)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
        visitor.setblocking(False)
        visitor.connect(path)
        reactor.run_once(5.0)
        now[0] += HANDSHAKE_TIMEOUT_S - 0.1
        reactor.run_once(0.0)
        try:
            assert visitor.recv(64), "shown out before its time was over"
        except BlockingIOError:
            pass  # it is still welcome to prove itself
        now[0] += 0.2
        reactor.run_once(0.0)
        visitor.setblocking(True)
        assert visitor.recv(64) == b"", "still there"
    assert not proven
    listener.close()
    reactor.close()
