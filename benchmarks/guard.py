"""The regression guard: ratios to floors of the same run, and memory, against generous bounds.

Absolute times are never compared, so a slower or busier machine does not fail the guard by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.catalog import BEAMLET
from benchmarks.launcher import Run
from benchmarks.summary import Row, limit_sign, worse


def broken(runs: Sequence[Run]) -> list[str]:
    """What no second measurement may excuse: workloads of Beamlet that failed or left processes behind."""
    ours = [run for run in runs if run.implementation == BEAMLET]
    failed = [f"{run.workload} failed: {run.failure}" for run in ours if run.failure]
    return failed + [
        f"{run.workload} left {len(run.left_behind)} processes behind: {'; '.join(run.left_behind)}"
        for run in ours
        if run.left_behind
    ]


def violations(rows: Sequence[Row]) -> dict[str, str]:
    """Metric name → what is wrong with it, for every guarded row that is out of bounds or not measured."""
    return {row.metric.name: problem for row in rows if row.target.guarded and (problem := _problem(row))}


def _problem(row: Row) -> str:
    target, unit = row.target, row.metric.unit
    if row.beamlet is None:
        reasons = [why for kind, why in row.failures if kind == BEAMLET]
        return f"Beamlet yielded no figure: {reasons[0] if reasons else 'the workload was not run'}"
    if target.floor_guard is not None and row.multiple is None:
        return f"its floor, {target.floor}, was not measured"
    if target.floor_guard is not None and row.multiple is not None and row.multiple > target.floor_guard:
        return f"costs {row.multiple:.2f}× {target.floor}; the guard allows {target.floor_guard:g}×"
    if target.limit_guard is not None and worse(unit, row.beamlet.median, target.limit_guard):
        bound = f"{limit_sign(unit)}{target.limit_guard:g} {unit.symbol}"
        return f"is {row.beamlet.median:.3g} {unit.symbol}; the guard allows {bound}"
    return ""
