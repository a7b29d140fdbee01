"""A copy of a stored value, for a process that cannot map it; and why it cannot even have that."""

from __future__ import annotations

import os
import resource

from beamlet.exceptions import ProcessMemoryError


def own_copy(fd: int, offset: int, size: int) -> memoryview:
    """``size`` bytes at ``offset`` of the arena behind ``fd``. Raises ProcessMemoryError."""
    try:
        copy = memoryview(bytearray(size))
    except MemoryError:
        raise ProcessMemoryError(_explained(size)) from None
    done = 0
    while done < size:
        done += os.preadv(fd, [copy[done:]], offset + done)
    return copy


def _explained(size: int) -> str:
    text = (
        f"This process (pid {os.getpid()}) can neither map the object store nor copy {size} bytes out of it."
    )
    limits = [
        f"{name} is {soft >> 10} KiB ({option})"
        for name, option, which in (
            ("its address space", "ulimit -v, RLIMIT_AS", resource.RLIMIT_AS),
            ("its data", "ulimit -d, RLIMIT_DATA", resource.RLIMIT_DATA),
        )
        if (soft := resource.getrlimit(which)[0]) != resource.RLIM_INFINITY
    ]
    if not limits:
        return f"{text} It has no limit of its own, so the machine or its container has no memory left."
    return (
        f"{text} The limit of {' and of '.join(limits)}. Raise it where the program is started, let go of "
        "what it has in memory, or get less at a time."
    )
