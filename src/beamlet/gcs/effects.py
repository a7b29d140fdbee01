"""● What the GCS's tables want done: messages to a core worker or a raylet, in order; the shell does it."""

from __future__ import annotations

from typing import NamedTuple

from beamlet.base.ids import Address, NodeId
from beamlet.protocol.gcs import Answer
from beamlet.protocol.message import Message


class ToCoreWorker(NamedTuple):
    """An answer to a request of ``address``, or an update it has subscribed to."""

    address: Address
    message: Answer


class Misuse(NamedTuple):
    """``address`` said what it must not: its raylet closes its connection."""

    address: Address
    reason: str


class ToRaylet(NamedTuple):
    """An order to the raylet of ``node``."""

    node: NodeId
    message: Message


Effect = ToCoreWorker | ToRaylet | Misuse
