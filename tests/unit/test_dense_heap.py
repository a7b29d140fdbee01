"""Holes in the heap are filled, so that what is allocated next stands together."""

from __future__ import annotations

import subprocess
import sys

FILLED = """
import sys
from beamlet.processes.dense_heap import _free_blocks, fill_holes
import json, logging, decimal  # something with holes
free = lambda: sum(size * count for size, count in _free_blocks())
before = free()
fillers = fill_holes()
after = free()
print(before, after, len(fillers))
"""


def test_free_blocks_of_used_pools_are_taken() -> None:
    done = subprocess.run([sys.executable, "-c", FILLED], capture_output=True, text=True, check=True)
    before, after, count = map(int, done.stdout.split())
    assert before > 50_000
    assert after < before / 2, "a pool or two of each size is begun meanwhile"
    assert count > 100
    assert done.stderr == "", "the statistics are read, not shown"


def test_another_allocator_has_nothing_to_fill() -> None:
    program = "from beamlet.processes.dense_heap import fill_holes; print(fill_holes())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONMALLOC": "malloc", "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout == "[]\n"
