"""Who waits for room in the store, in what order, and when waiting ends.

Requests are tried in the order they came. What fits goes ahead of one that does not, for the first half of
that one's time; in the other half everything that becomes free is kept for it, so that small ones without
end do not starve a large one. A request for an id whose former bearer is still being written, or deleted and
still read, waits for that one to go and keeps nothing from others.

    bigger than the store           refused at once
    no room                         waits until there is or ``timeout_s`` is over, then refused
    the id is here, sealed          answered AlreadyStored

Knows neither objects nor memory: ``attempt`` (the store's) tries to place a request and names the obstacle;
``describe`` writes the refusal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum

import msgspec

from beamlet.base.ids import Address, ObjectId
from beamlet.object_store.outcomes import AlreadyStored, Answer, Created, CreateRequest, Refused, StoreMisuse


class Obstacle(Enum):
    """Why a request cannot be granted yet."""

    NO_ROOM = "no room"
    SAME_ID = "an object of this id is still being written or read"


class Waiting(msgspec.Struct):
    request: CreateRequest
    since: float
    deadline: float
    obstacle: Obstacle = Obstacle.NO_ROOM


#: ``attempt(request, now, too_much)``: requests of ``too_much`` bytes and more are not to be placed.
Attempt = Callable[[CreateRequest, float, int], Created | AlreadyStored | Obstacle]
Describe = Callable[[Waiting, float], str]


class Admission:
    """The queue of creations."""

    def __init__(self, attempt: Attempt, describe: Describe, timeout_s: float) -> None:
        self._attempt = attempt
        self._describe = describe
        self._timeout_s = timeout_s
        #: From then on nobody goes ahead of one that waits.
        self._patience_s = timeout_s / 2
        #: (client, request id) → request, oldest first; one timeout for all, so deadlines are in order too.
        self._waiting: dict[tuple[int, int], Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def request(self, request: CreateRequest, now: float) -> list[Answer]:
        """Ask for room. The answer is in the result, or comes from a later call."""
        key = (request.client, request.request_id)
        if key in self._waiting:
            raise StoreMisuse(f"client {request.client} asks twice under request id {request.request_id}")
        self._waiting[key] = Waiting(request, now, now + self._timeout_s)
        return self.admit(now)

    def admit(self, now: float) -> list[Answer]:
        """Grant whoever can be granted; to be called after anything was freed, sealed or withdrawn."""
        answers = []
        too_much = sys.maxsize
        for waiting in self._waiting.values():
            request = waiting.request
            found = self._attempt(request, now, too_much)
            if not isinstance(found, Obstacle):
                answers.append(Answer(request.client, request.request_id, found))
                continue
            waiting.obstacle = found
            if found is Obstacle.NO_ROOM:
                has_waited_long = now - waiting.since >= self._patience_s
                too_much = 0 if has_waited_long else min(too_much, request.size)
        for answer in answers:
            del self._waiting[answer.client, answer.request_id]
        return answers

    def expire(self, now: float) -> list[Answer]:
        """Refuse whoever has waited long enough; then there may be room for those behind."""
        answers: list[Answer] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            oldest = next(iter(self._waiting.values()))
            answers += [self._refuse(oldest, self._describe(oldest, now)), *self.admit(now)]
        return answers

    def next_deadline(self) -> float | None:
        """When ``expire`` will next have something to do."""
        for waiting in self._waiting.values():
            return waiting.deadline
        return None

    def withdraw_client(self, client: int) -> None:
        """The client is gone: its requests are forgotten, unanswered."""
        for key in [key for key in self._waiting if key[0] == client]:
            del self._waiting[key]

    def withdraw_object(self, object_id: ObjectId, reason: str) -> list[Answer]:
        """Nobody wants the object any more: refuse whoever waits to write it."""
        doomed = [waiting for waiting in self._waiting.values() if waiting.request.object_id == object_id]
        return [self._refuse(waiting, reason) for waiting in doomed]

    def owner_of(self, object_id: ObjectId) -> Address | None:
        """Whose object somebody waits to write under this id."""
        requests = (waiting.request for waiting in self._waiting.values())
        return next((request.owner for request in requests if request.object_id == object_id), None)

    def _refuse(self, waiting: Waiting, reason: str) -> Answer:
        request = waiting.request
        del self._waiting[request.client, request.request_id]
        return Answer(request.client, request.request_id, Refused(reason))
