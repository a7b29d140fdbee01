"""● Calls that wait for one another in a circle: found by following who waits for whom.

A call that has waited in ``get`` for a while sends a probe to where its result is made.  There the probe is
passed on for what *that* call waits for, and so on; a probe that comes back to the wait that sent it has
walked a circle.  Source: Chandy, Misra and Haas, "Distributed deadlock detection" (1983), the AND model.

Why there are no false alarms: only waits that nothing but their objects can end take part (no timeout, all
objects needed), and each process passes a probe on only while it sees the awaited call unfinished.  Walk the
circle backwards from the moment the probe comes home: the last wait still stands because the first one does,
so the one before it does, and so on.

All who are in a circle find it; the youngest wait acts on it, so one call fails and the others can finish.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import msgspec

from beamlet.base.ids import Address, ObjectId, TaskId
from beamlet.protocol.peer import BlockedOn, WaitStep

#: Objects of one wait that are followed.
_FOLLOWED_MAX = 256


class Wait(msgspec.Struct, eq=False):
    """A thread that runs a call and waits for all of ``objects``, however long it takes."""

    number: int
    task_id: TaskId
    #: "A.outer", "app.py:6"
    name: str
    site: str
    since: float
    objects: tuple[ObjectId, ...]
    #: How often it has sent probes.
    round: int = 0
    #: Whose probes it has passed on, (process, wait) → round: once each is enough.
    passed_on: dict[tuple[Address, int], int] = {}
    #: The circle it is to fail for, as text; "" while there is none.
    verdict: str = ""


class Lead(msgspec.Struct, frozen=True):
    """Where to ask on: the executor of ``task_id``, or the owner of ``object_id``."""

    address: Address
    task_id: TaskId = TaskId(b"")
    #: The call that is awaited, as users know it.
    name: str = ""
    object_id: ObjectId = ObjectId(b"")


class Blocker(msgspec.Struct, frozen=True):
    """The wait that keeps a call from finishing, and how; "" when the call itself waits."""

    wait_number: int
    via: str = ""


class Surroundings(Protocol):
    """What a process knows of its own work."""

    def leads(self, objects: Sequence[ObjectId]) -> list[Lead]:
        """Where those of ``objects`` are made that have no value yet."""

    def blocker(self, task_id: TaskId) -> Blocker | None:
        """What keeps an unfinished call here from finishing; None if nothing certain does."""


class DeadlockDetector:
    """One process's part. Guarded by the core worker's lock; the shell sends ``outbox``, reads ``doomed``."""

    def __init__(self, address: Address, around: Surroundings) -> None:
        self.address = address
        self._around = around
        self.waits: dict[int, Wait] = {}
        self._last_number = 0
        self.outbox: list[tuple[Address, BlockedOn]] = []
        #: Waits that were found to be the youngest of a circle.
        self.doomed: list[Wait] = []
        #: Probes that stay in this process, while one is followed: chains of waits here may be long.
        self._inward: deque[BlockedOn] = deque()

    def began(self, task_id: TaskId, name: str, site: str, now: float, objects: tuple[ObjectId, ...]) -> Wait:
        """A wait that only its objects can end has begun."""
        self._last_number += 1
        wait = Wait(self._last_number, task_id, name, site, now, objects)
        self.waits[wait.number] = wait
        return wait

    def ended(self, wait: Wait) -> None:
        self.waits.pop(wait.number, None)

    def probe(self, wait: Wait) -> None:
        """Ask along the chain that begins with ``wait``; repeat now and then, the chain may grow later."""
        if wait.number in self.waits:
            wait.round += 1
            self._follow(wait.objects, [self._step(wait)], wait.round)
            self._follow_inward()

    def received(self, message: BlockedOn) -> None:
        """A probe has come from another process."""
        self._take(message)
        self._follow_inward()

    def _follow_inward(self) -> None:
        while self._inward:
            self._take(self._inward.popleft())

    def _take(self, message: BlockedOn) -> None:
        if message.object_id:
            self._follow((message.object_id,), message.path, message.round)
            return
        blocker = self._around.blocker(message.task_id)
        wait = self.waits.get(blocker.wait_number) if blocker is not None else None
        if blocker is None or wait is None:
            return
        path = [*message.path[:-1], msgspec.structs.replace(message.path[-1], via=blocker.via)]
        if self._is_at(path[0], wait):
            self._closed(wait, path)
            return
        walked = any(self._is_at(step, wait) for step in path)
        if not walked and self._is_news(wait, path[0], message.round):
            self._follow(wait.objects, [*path, self._step(wait)], message.round)

    def _is_at(self, step: WaitStep, wait: Wait) -> bool:
        return step.worker == self.address and step.number == wait.number

    def _is_news(self, wait: Wait, first: WaitStep, round: int) -> bool:
        key = (first.worker, first.number)
        if wait.passed_on.get(key, 0) >= round:
            return False
        wait.passed_on[key] = round
        return True

    def _step(self, wait: Wait) -> WaitStep:
        return WaitStep(self.address, wait.number, wait.since, wait.name, wait.site)

    def _follow(self, objects: Sequence[ObjectId], path: list[WaitStep], round: int) -> None:
        for lead in self._around.leads(objects[:_FOLLOWED_MAX]):
            last = msgspec.structs.replace(path[-1], awaits=lead.name or path[-1].awaits)
            message = BlockedOn(lead.task_id, round, [*path[:-1], last], lead.object_id)
            if lead.address == self.address:
                self._inward.append(message)
            else:
                self.outbox.append((lead.address, message))

    def _closed(self, wait: Wait, path: list[WaitStep]) -> None:
        """``path`` is a circle that begins and ends with ``wait``."""
        youngest = max(path, key=lambda step: (step.since, step.worker, step.number))
        if self._is_at(youngest, wait) and not wait.verdict:
            wait.verdict = describe(path)
            self.doomed.append(wait)


def describe(path: list[WaitStep]) -> str:
    """The circle, for a person."""
    remedy = (
        "To break the circle: call the method directly (self.m()), return the reference instead of "
        "getting it "
        "here, make the methods async and await, or raise max_concurrency."
    )
    if len(path) == 1:
        return f"{_line(path[0], 'it')}. {remedy}"
    lines = [f"  {_line(step)}" for step in path]
    return "\n".join([f"{len(path)} calls wait for one another, so none can ever finish:", *lines, remedy])


def _line(step: WaitStep, next_name: str = "") -> str:
    via = step.via.replace(step.name, next_name) if next_name else step.via
    return f"{step.name} ({step.site}) waits for {step.awaits}" + (f", which {via}" if via else "")
