"""A copy of a stored value, for a process that cannot map it; and why it cannot even have that."""

from __future__ import annotations

import os

from beamlet.base.memory_limits import why_no_memory
from beamlet.exceptions import ProcessMemoryError


def own_copy(fd: int, offset: int, size: int) -> memoryview:
    """``size`` bytes at ``offset`` of the arena behind ``fd``. Raises ProcessMemoryError."""
    try:
        copy = memoryview(bytearray(size))
    except MemoryError:
        text = (
            f"This process (pid {os.getpid()}) can neither map the object store nor copy {size} bytes of it."
        )
        raise ProcessMemoryError(f"{text} {why_no_memory()}") from None
    done = 0
    while done < size:
        done += os.preadv(fd, [copy[done:]], offset + done)
    return copy
