"""● What references travel under: guards, and what the reference counter asks its shell to send.

A *guard* stands for whatever keeps a travelling reference alive elsewhere until this process has registered
with the reference's owner.  There is one kind per carrier:

    carrier                        kept alive meanwhile by              when registered
    arguments of a task            the submitter, until our reply       the reply may go      ReplyMayGo
    value of an outer object       our own count on the outer           that count is dropped
    results of a task of ours      the executor's hold                  we end the hold       SendReleaseHold

Data only; ``reference_counter`` decides when which of them is opened and done.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from beamlet.base.ids import Address, NodeId, ObjectId
from beamlet.core_worker.owning.own_slab import Place


class Guard:
    """Collects newly met references (``fresh``), then waits for ``open`` acknowledgements."""

    __slots__ = ("fresh", "open")

    def __init__(self) -> None:
        #: owner → ids met under this guard and not yet registered for.
        self.fresh: dict[Address, list[ObjectId]] = {}
        #: AddBorrower messages sent for them and not yet answered.
        self.open = 0


class ValueGuard(Guard):
    """References found while decoding the value of ``outer``, which we count until they are registered."""

    __slots__ = ("outer",)

    def __init__(self, outer: ObjectId | None) -> None:
        super().__init__()
        #: None when there is no outer object to count (a ref that came by a way of the user's own).
        self.outer = outer


class ResultsGuard(Guard):
    """References inside results that ``executor`` keeps alive until it reads ReleaseHold(``hold``)."""

    __slots__ = ("executor", "hold")

    def __init__(self, executor: Address, hold: int) -> None:
        super().__init__()
        self.executor = executor
        self.hold = hold


class ArgumentsGuard(Guard):
    """References in the arguments of a task that runs here; their submitter keeps them until our reply.

    ``reply``: the shell's name for the task's answer, given back in ReplyMayGo.
    ``nested``: ids the submitter itself passed, and therefore has records of until the answer.
    """

    __slots__ = ("nested", "reply", "sighted")

    def __init__(self, reply: int, nested: Iterable[ObjectId] = ()) -> None:
        super().__init__()
        self.reply = reply
        self.nested = frozenset(nested)
        #: Foreign ids first met in these arguments: to be registered at the end if still kept then.
        self.sighted: list[ObjectId] = []


class SendAddBorrower(msgspec.Struct, frozen=True):
    """→ AddBorrower to the owner. If it cannot be reached: ``peer_gone(owner)``."""

    owner: Address
    token: int
    object_ids: list[ObjectId]


class SendRemoveBorrower(msgspec.Struct, frozen=True):
    """→ RemoveBorrower to the owner, on the connection that carries the AddBorrowers."""

    owner: Address
    object_ids: list[ObjectId]


class SendReleaseHold(msgspec.Struct, frozen=True):
    executor: Address
    hold: int


class DeleteStored(msgspec.Struct, frozen=True):
    """Objects of ours that nobody can reach any more lie in the arena of ``node``."""

    node: NodeId
    object_ids: list[ObjectId]


class LetPlaceGo(msgspec.Struct, frozen=True):
    """An object of ours that nobody can reach any more was the value at this place of our slab."""

    place: Place


class ReplyMayGo(msgspec.Struct, frozen=True):
    """Everything the task kept of its arguments is registered now (after task_finished said False)."""

    reply: int


class Freed(msgspec.Struct, frozen=True):
    """A watched object died: no handle of this actor is left anywhere (if we own it) or here (if not)."""

    object_id: ObjectId
    owner: bytes


Effect = (
    SendAddBorrower | SendRemoveBorrower | SendReleaseHold | DeleteStored | LetPlaceGo | ReplyMayGo | Freed
)
