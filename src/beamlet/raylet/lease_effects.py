"""What the lease manager wants done: each outcome its own type, carried out by the shell in order. ●"""

from __future__ import annotations

from dataclasses import dataclass

from beamlet.base.ids import Address, NodeId, WorkerId
from beamlet.raylet.lease_queue import Request


@dataclass(frozen=True, slots=True)
class WantWorker:
    lease_id: int
    request: Request


@dataclass(frozen=True, slots=True)
class UnwantWorker:
    lease_id: int


@dataclass(frozen=True, slots=True)
class Granted:
    request: Request
    lease_id: int
    worker: WorkerId
    accelerators: dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Refused:
    """It can never run (``infeasible``), or no process can be made for it."""

    request: Request
    reason: str
    infeasible: bool


@dataclass(frozen=True, slots=True)
class Spilled:
    request: Request
    node: NodeId
    address: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    request: Request
    reason: str


@dataclass(frozen=True, slots=True)
class Pending:
    """Not an answer."""

    request: Request
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerFree:
    worker: WorkerId


@dataclass(frozen=True, slots=True)
class EndWorker:
    """Nobody may use it again. ``at_once``: nobody is left to whom its work matters."""

    worker: WorkerId
    reason: str
    at_once: bool


@dataclass(frozen=True, slots=True)
class AskBack:
    """Others wait for what ``holder``'s idle leases hold."""

    holder: Address


Effect = (
    WantWorker | UnwantWorker | Granted | Refused | Spilled | Cancelled | Pending
    | WorkerFree | EndWorker | AskBack
)  # fmt: skip
