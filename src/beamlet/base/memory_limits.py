"""Why a process may have no more memory, and what to do: the words of an error."""

from __future__ import annotations

import errno
import resource


def is_want_of_memory(error: BaseException) -> bool:
    """Whether it says that there is none, as Python says it or as the kernel does."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def why_no_memory() -> str:
    """The limits of this process, and what to do about them."""
    limits = [
        f"{name} is {soft >> 10} KiB ({option})"
        for name, option, which in (
            ("its address space", "ulimit -v, RLIMIT_AS", resource.RLIMIT_AS),
            ("its data", "ulimit -d, RLIMIT_DATA", resource.RLIMIT_DATA),
        )
        if (soft := resource.getrlimit(which)[0]) != resource.RLIM_INFINITY
    ]
    if not limits:
        return "It has no limit of its own, so the machine or its container has no memory left."
    return (
        f"The limit of {' and of '.join(limits)}. Raise it where the program is started, let go of what it "
        "has in memory, or get less at a time."
    )
