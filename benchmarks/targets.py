"""The goals and the regression guard's bounds, read from `targets.toml` and checked against the catalogue."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from benchmarks.catalog import Metric, Unit

FILE = Path(__file__).with_name("targets.toml")

#: Limits in absolute figures are for these only: times differ from machine to machine, memory does not.
LIMITED_UNITS = (Unit.MEGABYTES, Unit.BYTES, Unit.SHARE)


@dataclass(frozen=True, slots=True)
class Target:
    """What is wanted of one metric. Goals are what we aim at; guards are generous bounds that CI holds."""

    #: At least so many times better than Ray.
    against_ray: float | None = None
    #: The floor's name, and the most its cost may be multiplied by.
    floor: str = ""
    #: How many of the floor's operations one operation of the metric stands for.
    floor_operations: int = 1
    floor_goal: float | None = None
    floor_guard: float | None = None
    #: Absolute bounds in the metric's unit; memory and shares only.
    limit_goal: float | None = None
    limit_guard: float | None = None

    @property
    def guarded(self) -> bool:
        return self.floor_guard is not None or self.limit_guard is not None


def load(metrics: Mapping[str, Metric], file: Path = FILE) -> dict[str, Target]:
    """Metric name → target. Raises ValueError, naming the entry, for anything that cannot be meant."""
    targets = {}
    for name, entry in tomllib.loads(file.read_text()).items():
        problem = _problem(name, entry, metrics)
        if problem:
            raise ValueError(f"{file.name}, [{name!r}]: {problem}")
        targets[name] = Target(**entry)
    return targets


def _problem(name: str, entry: Mapping[str, object], metrics: Mapping[str, Metric]) -> str:
    known = [field.name for field in fields(Target)]
    unknown = [key for key in entry if key not in known]
    if name not in metrics:
        return "no workload measures that"
    if unknown:
        return f"unknown {unknown[0]!r}; known are {', '.join(known)}"
    if entry.get("floor", "") not in ("", *metrics):
        return f"no floor is called {entry['floor']!r}"
    if ("floor_goal" in entry or "floor_guard" in entry) and not entry.get("floor"):
        return "a bound on the floor's cost needs the floor's name"
    if ("limit_goal" in entry or "limit_guard" in entry) and metrics[name].unit not in LIMITED_UNITS:
        return f"an absolute limit in {metrics[name].unit.symbol} would hold on one machine only; use a floor"
    return ""
