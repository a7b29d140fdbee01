"""What can be measured: units, metrics, workloads, and the register that the workload files fill.

A workload is one function run in one process; it yields samples of one metric or of several that come
out of the same experiment. A floor is a workload that needs neither Ray nor Beamlet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from benchmarks.api import RayApi
from benchmarks.meter import Meter

BEAMLET = "beamlet"
RAY = "ray"
FLOOR = "floor"

Samples = Mapping[str, Sequence[float]]
Body = Callable[[RayApi, Meter], Samples]
SingleBody = Callable[[RayApi, Meter], Sequence[float]]
FloorBody = Callable[[Meter], Sequence[float]]

#: Every workload's cluster has this many CPUs, whatever the machine has: one figure for both sides.
CLUSTER_CPUS = 2


class Unit(Enum):
    """What a metric is counted in, and which way is better."""

    PER_SECOND = ("/s", True)
    GIGABYTES_PER_SECOND = ("GB/s", True)
    SECONDS = ("s", False)
    MEGABYTES = ("MB", False)
    BYTES = ("B", False)
    SHARE = ("×", True)

    def __init__(self, symbol: str, higher_is_better: bool) -> None:
        self.symbol = symbol
        self.higher_is_better = higher_is_better


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table."""

    name: str
    unit: Unit


@dataclass(frozen=True, slots=True)
class Workload:
    """One function to run in its own process, with what the runner must know about it."""

    metrics: tuple[Metric, ...]
    body: Body
    #: Which of `beamlet`, `ray`, `floor` it is run on unless the command line says otherwise.
    implementations: tuple[str, ...] = (BEAMLET, RAY)
    #: Seconds after which the runner gives the process up.
    deadline_s: float = 90.0
    #: Options of `init` beside `num_cpus`; None: the body starts and stops its own cluster.
    init_options: Mapping[str, object] | None = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A workload is called what its first metric is called."""
        return self.metrics[0].name


class Catalog:
    """The workloads in the order in which they were registered; names are unique."""

    def __init__(self) -> None:
        self._workloads: dict[str, Workload] = {}
        self._metrics: dict[str, Metric] = {}

    def add(self, workload: Workload) -> None:
        """Register a workload; a metric name used twice is a mistake in a workload file."""
        for metric in workload.metrics:
            if metric.name in self._metrics:
                raise ValueError(f"two workloads measure {metric.name!r}; give one of them another name")
            self._metrics[metric.name] = metric
        self._workloads[workload.name] = workload

    def workloads(self) -> tuple[Workload, ...]:
        return tuple(self._workloads.values())

    def metrics(self) -> Mapping[str, Metric]:
        return self._metrics

    def workload(self, name: str) -> Workload:
        return self._workloads[name]

    def select(self, patterns: Sequence[str]) -> tuple[Workload, ...]:
        """The workloads with a metric whose name contains one of `patterns` (any case); all without patterns.

        Raises ValueError for a pattern that matches nothing.
        """
        if not patterns:
            return self.workloads()
        chosen = []
        for pattern in patterns:
            found = [w for w in self.workloads() if _matches(w, pattern)]
            if not found:
                raise ValueError(f"no workload matches {pattern!r}; `--list` shows all of them")
            chosen.extend(found)
        return tuple(w for w in self.workloads() if w in chosen)


def _matches(workload: Workload, pattern: str) -> bool:
    return any(pattern.lower() in metric.name.lower() for metric in workload.metrics)


CATALOG = Catalog()


def workload(
    *metrics: Metric,
    implementations: tuple[str, ...] = (BEAMLET, RAY),
    deadline_s: float = 90.0,
    init_options: Mapping[str, object] | None = None,
    own_cluster: bool = False,
) -> Callable[[Body], Body]:
    """Register a function that measures several metrics in one experiment."""

    def register(body: Body) -> Body:
        options = None if own_cluster else dict(init_options or {})
        CATALOG.add(Workload(metrics, body, implementations, deadline_s, options))
        return body

    return register


def measures(
    name: str, unit: Unit = Unit.PER_SECOND, *, deadline_s: float = 90.0, **init_options: object
) -> Callable[[SingleBody], SingleBody]:
    """Register a function that measures one metric and returns its samples."""

    def register(body: SingleBody) -> SingleBody:
        def run(ray: RayApi, meter: Meter) -> Samples:
            return {name: body(ray, meter)}

        CATALOG.add(Workload((Metric(name, unit),), run, deadline_s=deadline_s, init_options=init_options))
        return body

    return register


def floor(name: str, unit: Unit) -> Callable[[FloorBody], FloorBody]:
    """Register what this machine can do at best, without Ray or Beamlet, to hold figures against."""

    def register(body: FloorBody) -> FloorBody:
        def run(_ray: RayApi, meter: Meter) -> Samples:
            return {name: body(meter)}

        CATALOG.add(Workload((Metric(name, unit),), run, implementations=(FLOOR,), init_options=None))
        return body

    return register
