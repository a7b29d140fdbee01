"""What a process of ours has to say to whoever reads its log, from a place that must not fail for it."""

from __future__ import annotations

import contextlib
import sys


def say(text: str, who: str = "beamlet head") -> None:
    """One line (or a block of them) on stderr. Never raises: a full disk is no reason to end anything.

    In the head ``sys.stderr`` is a queue to the thread that writes its log: nobody waits for a disk either.
    """
    say_block(f"{who}: {text}\n")


def say_block(text: str) -> None:
    """As it is."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
