"""What of ``beamlet.util`` is there after ``import beamlet`` alone."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "name", ["queue.Queue", "scheduling_strategies.NodeAffinitySchedulingStrategy", "ActorPool"]
)
def test_it_needs_no_import_of_its_own(name: str) -> None:
    """In a process where no other test has imported it."""
    subprocess.run([sys.executable, "-c", f"import beamlet as ray; ray.util.{name}"], check=True, timeout=60)
