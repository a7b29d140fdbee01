"""● Where tables put what must outlive the GCS process: rows of bytes in named tables.

Detached actors, jobs and keys are written through it; nodes, workers and task events are not, because a
GCS that starts again learns them from those who report.  Implementations that keep rows in sqlite or Redis
fit the same four calls; values are opaque here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Storage(Protocol):
    """A put or delete has taken effect when the call returns; ``scan`` goes by ascending key."""

    def put(self, table: str, key: bytes, value: bytes) -> None: ...

    def get(self, table: str, key: bytes) -> bytes | None: ...

    def delete(self, table: str, key: bytes) -> bool:
        """Whether there was such a row."""
        ...

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]: ...


class MemoryStorage:
    """Forgets with the process: right for a cluster that lives no longer than its driver."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[bytes, bytes]] = {}

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._tables.setdefault(table, {})[key] = value

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._tables.get(table, {}).get(key)

    def delete(self, table: str, key: bytes) -> bool:
        return self._tables.get(table, {}).pop(key, None) is not None

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        rows = self._tables.get(table, {})
        return iter([(key, rows[key]) for key in sorted(rows) if key.startswith(prefix)])
