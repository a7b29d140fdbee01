"""A gate that tasks wait at, so that tests order processes without guessing how long things take.

In a module of its own because workers import it, and should not have to import pytest.
"""

from __future__ import annotations

import os
import time
from pathlib import Path


class Gate:
    """Something tasks can wait at: a file that is there or not. Picklable, needs no process and no CPU."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def open(self) -> None:
        Path(self.path).touch()

    def is_open(self) -> bool:
        return os.path.exists(self.path)

    def wait(self, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not os.path.exists(self.path):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody opened {self.path}")
            time.sleep(0.005)
