"""Threads of this worker that wait: the raylet lends their CPU meanwhile, and nothing queues behind them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from beamlet.core_worker.executing.work import Work
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.peers import Peer
from beamlet.protocol.node import Blocked, Unblocked
from beamlet.protocol.peer import HandedBack, PushTask
from beamlet.rpc.turns import SharedReactor


class BlockedThreads:
    """Guarded by the core worker's lock, but for ``one_more``."""

    def __init__(self, reactor: SharedReactor, link: NodeLink, work: Work) -> None:
        self._lock = reactor.lock
        self._link = link
        self._work = work
        self.count = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """The calling thread waits: tell the raylet, and give back what is queued behind."""
        with self._lock:
            self.count += 1
            if self.count == 1:
                self._link.send(Blocked())
                self._hand_back_queued()
        try:
            yield
        finally:
            with self._lock:
                self.count -= 1
                if not self.count:
                    self._link.send(Unblocked())

    def _hand_back_queued(self) -> None:
        if self._work.spec is not None:
            return  # calls of an actor stay with it, whoever waits
        handed: dict[int, tuple[Peer, list[int]]] = {}
        for context in list(self._work.running.values()):  # other threads begin and end what they run
            if context.asker is not None:
                handed[id(context.asker)] = context.asker, []
        for sender, message in self._work.queue.take_out(lambda item: type(item[1]) is PushTask):
            assert sender is not None, "tasks have an owner"
            assert isinstance(message, PushTask)
            handed.setdefault(id(sender), (sender, []))[1].append(message.seq)
        for peer, seqs in handed.values():
            peer.send(HandedBack(seqs, True))
