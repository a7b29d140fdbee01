"""One workload in one process: start the cluster, run the body, write its samples to a file.

Run by `launcher` as `python -m benchmarks.child`, with Beamlet's interpreter or with Ray's; so only the
standard library is imported here.
"""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks import workloads as _registered  # noqa: F401  (importing registers them)
from benchmarks.api import RayApi, load
from benchmarks.catalog import CATALOG, CLUSTER_CPUS, FLOOR, Samples, Workload
from benchmarks.meter import Meter


def run_workload(workload: Workload, ray: RayApi, meter: Meter) -> Samples:
    """Run a workload's body, inside a cluster of its own unless it starts one itself."""
    if workload.init_options is None:
        return workload.body(ray, meter)
    ray.init(num_cpus=CLUSTER_CPUS, **workload.init_options)
    try:
        return workload.body(ray, meter)
    finally:
        ray.shutdown()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write {"version", "samples"} or {"failure", "detail"} to the file named by --out; 0 with samples."""
    options = _parse(arguments)
    try:
        # A floor uses neither implementation; the module it is handed is never touched.
        ray = load("time" if options.implementation == FLOOR else options.implementation)
        samples = run_workload(CATALOG.workload(options.workload), ray, Meter(options.seconds))
        found = {name: list(values) for name, values in samples.items()}
        answer = {"version": getattr(ray, "__version__", ""), "samples": found}
    except Exception as error:
        last_line = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
        answer = {"failure": last_line, "detail": traceback.format_exc()}
    options.out.write_text(json.dumps(answer))
    return 1 if "failure" in answer else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.child", description=__doc__)
    parser.add_argument("--implementation", required=True)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
