"""What the lease manager wants done: each outcome its own type, carried out by the shell in order. ●"""

from __future__ import annotations

from msgspec import Struct

from beamlet.base.ids import Address, NodeId, TaskId, WorkerId
from beamlet.raylet.lease_queue import Request

NO_TASK = TaskId(b"")


class WantWorker(Struct, frozen=True):
    lease_id: int
    request: Request


class UnwantWorker(Struct, frozen=True):
    lease_id: int


class Granted(Struct, frozen=True):
    request: Request
    lease_id: int
    worker: WorkerId
    accelerators: dict[str, list[int]]


class Refused(Struct, frozen=True):
    """It can never run (``infeasible``), or no process can be made for it, which may change (``for_now``)."""

    request: Request
    reason: str
    infeasible: bool
    for_now: bool = False


class Spilled(Struct, frozen=True):
    request: Request
    node: NodeId
    address: str


class Cancelled(Struct, frozen=True):
    request: Request
    reason: str


class Pending(Struct, frozen=True):
    """Not an answer."""

    request: Request
    reason: str


class WorkerFree(Struct, frozen=True):
    worker: WorkerId


class EndWorker(Struct, frozen=True):
    """Nobody may use it again. ``at_once``: nobody is left to whom its work matters."""

    worker: WorkerId
    reason: str
    at_once: bool
    #: The task whose forced cancellation this is.
    cancelled: TaskId = NO_TASK


class AskBack(Struct, frozen=True):
    """Others wait for what ``holder``'s idle leases hold."""

    holder: Address


Effect = (
    WantWorker | UnwantWorker | Granted | Refused | Spilled | Cancelled | Pending
    | WorkerFree | EndWorker | AskBack
)  # fmt: skip
