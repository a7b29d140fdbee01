"""Arrays that forked children may still read, though this process does not any more.

A child's arrays show the arena, like ours, and it has no pins: those are ours, and would go with our own last
view.  (``Process(target=f, args=(ray.get(ref),)).start()`` deletes the parent's.)  So we hold what lives at a
fork until the child has ended, which a pipe says whose write end only the child has, and its own children.
When we leave, or end, before it, our pins stay for as long as it has such a view, and so our lifeline.
What is only lent to us cannot be held: parent and child share a copy of it (``Arena.keep_lent``).
"""

from __future__ import annotations

import os

from beamlet.object_store.arena import Arena
from beamlet.rpc.reactor import Reactor


class ForkedViews:
    """Called under the lock."""

    def __init__(self, reactor: Reactor, arena: Arena) -> None:
        self._reactor = reactor
        self._arena = arena
        #: By the read end of a child's pipe; of those for which there was no descriptor left, until we leave.
        self._held: dict[int, list[object]] = {}
        self._for_good: list[object] = []
        #: Of the fork that is under way.
        self._begun: tuple[int, int, list[object]] | None = None

    def before(self) -> None:
        """Raises OSError if the child's arrays cannot be made sure of, for want of memory or descriptors."""
        holders = self._arena.held()
        try:
            if holders:
                self._begun = (-1, -1, holders)
                self._begun = (*os.pipe2(os.O_CLOEXEC), holders)
        finally:
            self._arena.keep_lent()

    def after_in_parent(self) -> None:
        begun, self._begun = self._begun, None
        if begun is None:
            return
        ended, lives, holders = begun
        # Other threads may have read something while we were on our way to the fork.
        holders += self._arena.held()
        if ended < 0:
            self._for_good += holders
            return
        os.close(lives)
        self._held[ended] = holders
        self._reactor.add_reader(ended, lambda: self._let_go(ended))

    def after_in_child(self) -> None:
        """The write end stays open, until the child ends or becomes another program."""
        begun, self._begun = self._begun, None
        if begun is not None and begun[0] >= 0:
            os.close(begun[0])
        self._close()

    def close(self) -> None:
        """We leave the cluster."""
        for ended in self._held:
            self._reactor.remove_reader(ended)
        self._close()

    def _close(self) -> None:
        held, self._held, self._for_good = self._held, {}, []
        for ended in held:
            os.close(ended)

    def _let_go(self, ended: int) -> None:
        self._reactor.remove_reader(ended)
        os.close(ended)
        del self._held[ended]
