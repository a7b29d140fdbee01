"""``wait``: which of many references have values, in a program that asks again and again.

    while refs:
        ready, refs = wait(refs)         thousands of times, over thousands of references

If each call looked at every reference, the loop would be quadratic.  So the references still pending stay
registered from one call to the next, in a ``Group`` that is recognised by the list that ``wait`` returned; a
call then looks only as far as the first ready ones.  A list that was changed behind our back is trusted for
TRUSTED_S and then looked at in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any, TypeVar

from beamlet.base.stack_room import FOR_A_CALL
from beamlet.core_worker.owning.object_record import PENDING, ObjectRecord, stop_waiting
from beamlet.core_worker.owning.objects import ObjectAccess, stale_reference
from beamlet.core_worker.owning.ports import Ref
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.rpc.turns import IN_THE_MIDDLE, SharedReactor, Waiter
from beamlet.serialization.refs import released

#: How long a wait relies on what a group knows of its list.
TRUSTED_S = 0.02
#: Shorter lists are looked at faster than remembered.
KEPT_FROM = 32

R = TypeVar("R", bound=Ref)
Mark = tuple[int, int, int, int]


def mark_of(refs: Sequence[Any]) -> Mark:
    """What a list, which must not be empty, is recognised by without keeping it alive."""
    return id(refs), len(refs), id(refs[0]), id(refs[-1])


class Group:
    """References that a program waits for, a few at a time. Guarded by the core worker's lock."""

    __slots__ = ("mark", "pending", "ready_count", "waiter")

    def __init__(self) -> None:
        #: Of the list that holds exactly these.
        self.mark: Mark | None = None
        #: Those that will tell us.
        self.pending: set[ObjectRecord] = set()
        #: The others, while they are in the list.
        self.ready_count = 0
        #: The thread that waits now.
        self.waiter: Waiter | None = None

    def on_ready(self, record: ObjectRecord) -> None:
        self.pending.discard(record)
        self.ready_count += 1
        if self.waiter is not None:
            self.waiter.complete()

    def watch(self, pending: list[ObjectRecord], ready_count: int, needed: int) -> Waiter:
        """For ``needed`` of a list that was looked at from end to end."""
        on_ready = self.on_ready
        for record in self.pending.difference(pending):
            stop_waiting(record, on_ready)
        for record in pending:
            if record.waiters is None:
                record.waiters = {on_ready: None}
            else:
                record.waiters[on_ready] = None
        self.pending = set(pending)
        self.ready_count = ready_count
        return self.wait_for(needed)

    def wait_for(self, needed: int) -> Waiter:
        self.waiter = Waiter(needed - self.ready_count)
        return self.waiter

    def dissolve(self) -> None:
        """Nobody will be told any more."""
        on_ready = self.on_ready
        for record in self.pending:
            stop_waiting(record, on_ready)
        self.pending.clear()


class Selecting:
    """``wait`` of one process."""

    def __init__(
        self, refs: ReferenceCounter, releases: Releases, objects: ObjectAccess, reactor: SharedReactor
    ) -> None:
        self._objects = objects
        self._table = refs.objects
        self._releases = releases
        self._lock = reactor.lock
        #: Of the list returned last. Who uses it takes it out, so threads do not meet in one.
        self._kept: Group | None = None

    def wait(
        self, refs: list[R], num_returns: int, timeout_s: float | None, fetch_local: bool = True
    ) -> tuple[list[R], list[R]]:
        """(at most ``num_returns`` ready ones, the others), each in the order of ``refs``."""
        if FOR_A_CALL.may_lack():
            FOR_A_CALL.demand()
        if self._lock.is_held_here:
            raise RuntimeError(IN_THE_MIDDLE)
        with self._lock:
            if len(released) > 256:
                self._releases.drain()
            group = self._known(refs) if self._kept is not None else None
            waiter: Waiter | None = None
            ready: list[int] = []
            if group is not None and group.ready_count < num_returns and timeout_s != 0:
                waiter = group.wait_for(num_returns)
            else:
                ready, pending = self._look(refs, num_returns)
                if len(ready) < num_returns and timeout_s != 0:
                    group = group or Group()
                    group.watch(pending, len(ready), num_returns)
        if group is not None and group.waiter is not None:
            try:
                ready = self._block(group, refs, num_returns, timeout_s, is_trusted=waiter is not None)
            except BaseException:
                with self._lock:
                    group.dissolve()
                raise
        if len(ready) == 1:
            position = ready[0]
            rest = refs[position + 1 :] if position == 0 else refs[:position] + refs[position + 1 :]
            found = [refs[position]]
        else:
            chosen = set(ready)
            rest = [ref for i, ref in enumerate(refs) if i not in chosen]
            found = [refs[i] for i in ready]
        if group is not None:
            with self._lock:
                self._keep(group, rest, len(ready))
        return found, rest

    def _block(
        self, group: Group, refs: list[R], num_returns: int, timeout_s: float | None, is_trusted: bool
    ) -> list[int]:
        """Wait for enough of them, or until the time is over; where the ready ones stand."""
        blocking = self._objects.blocking
        deadline = None if timeout_s is None else monotonic() + timeout_s
        until = deadline
        if is_trusted:
            trusted_until = monotonic() + TRUSTED_S
            until = trusted_until if deadline is None else min(deadline, trusted_until)
        while True:
            waiter = group.waiter
            assert waiter is not None
            done = blocking.block_until(waiter, until, refs, num_returns == len(refs))
            blocking.raise_if_shut()
            with self._lock:
                ready, pending = self._look(refs, num_returns)
                if len(ready) >= num_returns or (not done and until == deadline):
                    group.waiter = None
                    return ready
                # Not enough after all: what became ready does not stand in this list any more.
                group.watch(pending, len(ready), num_returns)
            until = deadline

    def _known(self, refs: list[R]) -> Group | None:
        """The group of this list."""
        group = self._kept
        if group is None or group.mark != mark_of(refs):
            return None
        self._kept = None
        return group

    def _keep(self, group: Group, rest: list[R], returned: int) -> None:
        if self._kept is not None:
            self._kept.dissolve()
            self._kept = None
        if len(rest) < KEPT_FROM:
            group.dissolve()
            return
        group.ready_count -= returned
        group.mark = mark_of(rest)
        self._kept = group

    def _look(self, refs: list[R], most: int) -> tuple[list[int], list[ObjectRecord]]:
        """Where the first ``most`` ready ones stand, and those that were seen not to be ready on the way."""
        table = self._table
        ready: list[int] = []
        pending: list[ObjectRecord] = []
        for position, ref in enumerate(refs):
            record = table.get(ref._id)
            if record is None:
                raise stale_reference(ref._id)
            if record.state == PENDING:
                pending.append(record)
                if record.owner:
                    self._objects.ask_owner(ref._id, record)
            else:
                ready.append(position)
                if len(ready) == most:
                    break
        return ready, pending
