"""Tables that were full once and are nearly empty now: Python's dicts grow, and never give room back."""

from __future__ import annotations

from typing import Any

#: Smaller tables are not worth it.
_FROM_BYTES = 256 << 10
#: A table in use has 40–80 bytes an entry.
_BYTES_AN_ENTRY = 400


def shrink(table: dict[Any, Any]) -> bool:
    """Give back room that ``table`` does not need, and say so; it stays the same object, in the same order.

    It is empty for a moment: who misses something there without the lock that guards it looks again with it.
    """
    if table.__sizeof__() <= max(_FROM_BYTES, len(table) * _BYTES_AN_ENTRY):
        return False
    entries = dict(table)
    table.clear()
    table.update(entries)
    return True
