"""Colours where a person looks, plain text where a program reads, nothing where nobody does."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TextIO

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Paint:
    """Wraps text in ANSI codes, or leaves it alone.

    >>> Paint(False)("cyan", "text")
    'text'
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    @classmethod
    def on(cls, stream: TextIO, env: Mapping[str, str] | None = None) -> Paint:
        """Colours if ``stream`` is a terminal, unless NO_COLOR is set (no-color.org) or it is a dumb one."""
        env = os.environ if env is None else env
        return cls(stream.isatty() and not env.get("NO_COLOR") and env.get("TERM") != "dumb")

    def __call__(self, colour: str, text: str) -> str:
        return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if self.enabled else text


def nobody_reads() -> None:
    """Standard output is a broken pipe: keep the exit from flushing into it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
