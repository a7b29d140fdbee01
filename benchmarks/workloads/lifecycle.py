"""How long a program waits before its first result, and for `shutdown`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.api import RayApi
from benchmarks.catalog import CLUSTER_CPUS, Metric, Samples, Unit, workload
from benchmarks.meter import Meter

START = Metric("import + init + first task", Unit.SECONDS)
STOP = Metric("shutdown", Unit.SECONDS)
PROGRAM = Path(__file__).with_name("fresh_start.py")
RUNS = 3


@workload(START, STOP, own_cluster=True)
def start_and_stop(ray: RayApi, _meter: Meter) -> Samples:
    """Run a small program in a fresh interpreter, three times; it times itself."""
    runs = [_run_program(ray.__name__) for _ in range(RUNS)]
    return {START.name: [first for first, _ in runs], STOP.name: [stop for _, stop in runs]}


def _run_program(name: str) -> tuple[float, float]:
    command = [sys.executable, str(PROGRAM), name, str(CLUSTER_CPUS)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    first, stop = json.loads(finished.stdout.splitlines()[-1])
    return float(first), float(stop)
