"""Who is told of habits that cost time: a driver's advisor (api/advising.py), or nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from beamlet.exceptions import CallSite
from beamlet.serialization.values import Serialized


class Advisor(Protocol):
    """Listens to what a program does, and may say something to its user."""

    def waited(self, refs: Sequence[Any], seconds: float) -> None:
        """A ``get`` has waited. Without the lock."""

    def reviewed(
        self, name: str, site: CallSite | None, calls: int, average_us: float, cost_us: float
    ) -> None:
        """A worker has answered ``calls`` more tasks. Under the lock."""

    def large_argument(self, value: Any, data: bytes | Serialized, function: str) -> None:
        """An argument is about to be stored for one call. Without the lock."""


class NoAdvisor:
    """Workers have one of these, and drivers that want no advice."""

    def waited(self, refs: Sequence[Any], seconds: float) -> None:
        pass

    def reviewed(
        self, name: str, site: CallSite | None, calls: int, average_us: float, cost_us: float
    ) -> None:
        pass

    def large_argument(self, value: Any, data: bytes | Serialized, function: str) -> None:
        pass
