"""From runs to rows: medians over rounds, ratios against Ray, multiples of a floor's cost, missed goals.

Pure: it neither measures nor prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.catalog import BEAMLET, FLOOR, RAY, Metric, Unit
from benchmarks.launcher import Run
from benchmarks.targets import Target

#: For metrics that are only reported.
NO_TARGET = Target()


@dataclass(frozen=True, slots=True)
class Figure:
    """One implementation's result for one metric: each round's median, and the median of these."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def spread(self) -> float:
        """How far apart the rounds lie, as a share of the median: 0 when they agree."""
        return (max(self.rounds) - min(self.rounds)) / self.median if self.median else 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One metric, with everything there is to say about it."""

    metric: Metric
    beamlet: Figure | None = None
    ray: Figure | None = None
    floor: Figure | None = None
    #: How many times the floor's cost Beamlet's is: 1 is as good as the machine allows.
    multiple: float | None = None
    #: How many times better than Ray Beamlet is.
    ratio: float | None = None
    target: Target = NO_TARGET
    #: Implementation and why it yielded nothing.
    failures: tuple[tuple[str, str], ...] = ()

    @property
    def missed(self) -> tuple[str, ...]:
        """The goals that were measured and not reached, in words."""
        found = []
        target, unit = self.target, self.metric.unit
        if self.ratio is not None and target.against_ray is not None and self.ratio < target.against_ray:
            found.append(f"{self.ratio:.1f}× Ray, goal ≥{target.against_ray:g}×")
        if self.multiple is not None and target.floor_goal is not None and self.multiple > target.floor_goal:
            found.append(f"{self.multiple:.2f}× the cost of {target.floor}, goal ≤{target.floor_goal:g}×")
        limit = target.limit_goal
        if self.beamlet and limit is not None and worse(unit, self.beamlet.median, limit):
            goal = f"{limit_sign(unit)}{limit:g} {unit.symbol}"
            found.append(f"{self.beamlet.median:.3g} {unit.symbol}, goal {goal}")
        return tuple(found)


def rows(
    metrics: Mapping[str, Metric],
    runs: Sequence[Run],
    targets: Mapping[str, Target],
    workload_of: Mapping[str, str],
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """The measured metrics' rows and the floors' rows, both in the catalogue's order.

    workload_of: metric name → name of the workload that yields it.
    """
    floors = {name: figure for name in metrics if (figure := figure_of(runs, name, FLOOR))}
    asked = {(run.workload, run.implementation) for run in runs}
    measured, bare = [], []
    for name, metric in metrics.items():
        implementations = [kind for kind in (BEAMLET, RAY, FLOOR) if (workload_of[name], kind) in asked]
        failures = _failures(runs, workload_of[name])
        if FLOOR in implementations:
            bare.append(Row(metric, floor=floors.get(name), failures=failures))
        elif implementations:
            measured.append(_row(metric, metrics, runs, targets.get(name, NO_TARGET), floors, failures))
    return tuple(measured), tuple(bare)


def figure_of(runs: Iterable[Run], metric: str, implementation: str) -> Figure | None:
    """The figure of one metric; None when no run of that implementation yielded it."""
    samples = [run.samples.get(metric) for run in runs if run.implementation == implementation]
    medians = tuple(median(one) for one in samples if one)
    return Figure(medians) if medians else None


def better_by(unit: Unit, ours: float, theirs: float) -> float | None:
    """How many times better `ours` is than `theirs`; None where a figure of zero or less allows no ratio."""
    return cost(unit, theirs) / cost(unit, ours) if ours > 0 and theirs > 0 else None


def cost(unit: Unit, value: float) -> float:
    """A figure as something to keep small: seconds per operation, bytes, seconds."""
    return 1.0 / value if unit.higher_is_better else value


def worse(unit: Unit, value: float, limit: float) -> bool:
    """Whether `value` lies on the wrong side of `limit`."""
    return value < limit if unit.higher_is_better else value > limit


def limit_sign(unit: Unit) -> str:
    return "≥" if unit.higher_is_better else "≤"


def _row(
    metric: Metric,
    metrics: Mapping[str, Metric],
    runs: Sequence[Run],
    target: Target,
    floors: Mapping[str, Figure],
    failures: tuple[tuple[str, str], ...],
) -> Row:
    beamlet, ray = figure_of(runs, metric.name, BEAMLET), figure_of(runs, metric.name, RAY)
    ratio = better_by(metric.unit, beamlet.median, ray.median) if beamlet and ray else None
    floor = floors.get(target.floor) if target.floor else None
    multiple = None
    if beamlet and floor and target.floor:
        floor_cost = cost(metrics[target.floor].unit, floor.median) * target.floor_operations
        multiple = cost(metric.unit, beamlet.median) / floor_cost
    return Row(metric, beamlet, ray, floor, multiple, ratio, target, failures)


def _failures(runs: Iterable[Run], workload: str) -> tuple[tuple[str, str], ...]:
    """Each implementation's latest failure on that workload, in at most 160 characters."""
    found = {run.implementation: run.failure for run in runs if run.workload == workload and run.failure}
    return tuple((kind, failure[:160]) for kind, failure in found.items())
