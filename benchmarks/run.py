"""Beamlet against the newest Ray and against this machine's floors, in one run: `python benchmarks/run.py`.

    run.py                       everything, three rounds, alternating; table, and results/latest.json
    run.py --only actor put      the workloads whose names contain one of these
    run.py --impl beamlet        Beamlet and the floors only
    run.py --smoke               the regression guard: Beamlet and floors, under a minute, ratios only
    run.py --list                what there is to measure

This file reads the command line, decides what is run in which order, and prints; it measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import guard, launcher, ray_venv, table, targets  # noqa: E402
from benchmarks import workloads as _registered  # noqa: E402, F401  (importing registers them)
from benchmarks.catalog import BEAMLET, CATALOG, FLOOR, RAY, Workload  # noqa: E402
from benchmarks.cluster_processes import adopt_orphans  # noqa: E402
from benchmarks.launcher import Run  # noqa: E402
from benchmarks.summary import Row, rows  # noqa: E402

RESULTS = Path(__file__).with_name("results") / "latest.json"
SMOKE_SECONDS = 0.3
#: A guard that fails is measured again: only a figure out of bounds each time is a regression, not noise.
#: A workload that fails is never tried again.
SMOKE_ATTEMPTS = 3

Pythons = dict[str, Path]
Step = tuple[Workload, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 0 unless the guard of --smoke fails."""
    options = parse(arguments)
    try:
        chosen = CATALOG.select(options.only)
    except ValueError as problem:
        print(f"run.py: {problem}", file=sys.stderr)
        return 2
    if options.list:
        return show_list(chosen)
    adopt_orphans()
    if options.smoke:
        return smoke(chosen, {BEAMLET: options.beamlet_python, FLOOR: options.beamlet_python})
    return compare(chosen, options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(sys.executable)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only names containing this")
    parser.add_argument("--impl", choices=(BEAMLET, RAY), help="leave the other one out")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is run (default 3)")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a body is repeated (default 1)")
    parser.add_argument("--smoke", action="store_true", help="the regression guard; status 1 if it fails")
    parser.add_argument("--list", action="store_true", help="name the workloads and their goals, run nothing")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, for the README")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="where the results go")
    parser.add_argument("--beamlet-python", type=Path, default=here, metavar="PATH", help="runs Beamlet")
    parser.add_argument("--ray-python", type=Path, metavar="PATH", help="an interpreter that has Ray already")
    parser.add_argument("--upgrade-ray", action="store_true", help="update .bench/ray-venv")
    return parser.parse_args(arguments)


def show_list(chosen: Sequence[Workload]) -> int:
    """Print each metric's name with what it runs on."""
    for workload in chosen:
        for metric in workload.metrics:
            print(f"{metric.name:<55} {metric.unit.symbol:>5}  {', '.join(workload.implementations)}")
    return 0


def compare(chosen: Sequence[Workload], options: argparse.Namespace) -> int:
    """The full comparison: rounds, table, JSON."""
    pythons: Pythons = {BEAMLET: options.beamlet_python, FLOOR: options.beamlet_python}
    if options.impl != BEAMLET:
        pythons[RAY] = options.ray_python or ray_venv.ensure(options.upgrade_ray)
    if options.impl == RAY:
        del pythons[BEAMLET]
        if options.only:  # asked for by name: also what is too slow on Ray to be run as a matter of course
            chosen = [w if FLOOR in w.implementations else replace(w, implementations=(RAY,)) for w in chosen]
    runs = run_steps(list(steps(with_floors(chosen), pythons, options.rounds)), pythons, options.seconds)
    machine = describe_machine(runs)
    measured, floors = report(runs)
    print(table.machine_line(machine), end="\n\n")
    print((table.as_markdown if options.markdown else table.for_terminal)(measured, floors))
    write_json(options.json, machine, runs, measured)
    print(f"\nEvery sample is in {options.json}", file=sys.stderr)
    return 0


def smoke(chosen: Sequence[Workload], pythons: Pythons) -> int:
    """Measure what is guarded, briefly; 1 when a figure is out of bounds in every attempt."""
    wanted = targets.load(CATALOG.metrics())
    guarded = [w for w in chosen if any(wanted[m.name].guarded for m in w.metrics if m.name in wanted)]
    problems: dict[str, str] = {}
    for attempt in range(SMOKE_ATTEMPTS):
        runs = run_steps(list(steps(with_floors(guarded), pythons, rounds=1)), pythons, SMOKE_SECONDS)
        measured, floors = report(runs)
        print(table.for_terminal(measured, floors), end="\n\n")
        if failures := guard.broken(runs):
            print("guard:", *failures, sep="\n  ")
            return 1
        found = guard.violations(measured)
        # A workload measured again is judged anew, but only on what was wrong with it before.
        problems = found if attempt == 0 else {name: why for name, why in found.items() if name in problems}
        if not problems:
            print("guard: every guarded figure is within its bounds")
            return 0
        print(f"guard, attempt {attempt + 1} of {SMOKE_ATTEMPTS}:")
        print("\n".join(f"  {name} {why}" for name, why in problems.items()), end="\n\n")
        guarded = [w for w in guarded if any(metric.name in problems for metric in w.metrics)]
    print(f"guard: {len(problems)} figures out of bounds every time; the bounds are in {targets.FILE.name}")
    return 1


def with_floors(chosen: Sequence[Workload]) -> list[Workload]:
    """The chosen workloads, then the floors that their goals name."""
    wanted = targets.load(CATALOG.metrics())
    names = {metric.name for w in chosen for metric in w.metrics}
    floors = {wanted[name].floor for name in names if name in wanted} - names
    return [*chosen, *(w for w in CATALOG.workloads() if w.name in floors)]


def steps(chosen: Sequence[Workload], pythons: Pythons, rounds: int) -> Iterator[Step]:
    """What is run in which order: round by round, workload by workload, the implementations in turn.

    The order within a workload changes from round to round, so that neither always runs on a warm machine.
    """
    for number in range(rounds):
        for workload in chosen:
            kinds = [kind for kind in workload.implementations if kind in pythons]
            for kind in kinds if number % 2 == 0 else reversed(kinds):
                yield workload, kind


def run_steps(planned: Sequence[Step], pythons: Pythons, seconds: float) -> list[Run]:
    """Run one step after the other, and say on stderr how each went."""
    runs = []
    for number, (workload, kind) in enumerate(planned, 1):
        run = launcher.run(workload, kind, pythons[kind], seconds)
        outcome = "FAILED" if run.failure else "ok"
        head = f"[{number}/{len(planned)}] {kind:<7} {workload.name}"
        print(f"{head}: {outcome} in {run.took_s:.1f} s", file=sys.stderr)
        remarks = [*run.detail.splitlines(), *(f"left behind: {process}" for process in run.left_behind)]
        print(*(f"    {remark}\n" for remark in remarks), sep="", end="", file=sys.stderr)
        runs.append(run)
    return runs


def report(runs: Sequence[Run]) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """The rows of both tables."""
    workload_of = {metric.name: w.name for w in CATALOG.workloads() for metric in w.metrics}
    return rows(CATALOG.metrics(), runs, targets.load(CATALOG.metrics()), workload_of)


def describe_machine(runs: Sequence[Run]) -> dict[str, object]:
    """What the figures depend on: processors, kernel, versions, commit, day."""
    versions = {run.implementation: run.version for run in runs if run.version}
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "CPUs": os.cpu_count(),
        "processor": processor(),
        "Linux": platform.release(),
        "Python": platform.python_version(),
        "Beamlet": " ".join(part for part in (versions.get(BEAMLET, ""), git.stdout.strip()) if part),
        "Ray": versions.get(RAY, ""),
        "date": datetime.now(UTC).date().isoformat(),
    }


def processor() -> str:
    """The processor's model name, or its architecture where the kernel does not tell the model."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def write_json(file: Path, machine: dict[str, object], runs: Sequence[Run], measured: Sequence[Row]) -> None:
    """Every sample of every run, and the medians and ratios drawn from them."""
    medians = {
        row.metric.name: {
            "unit": row.metric.unit.symbol,
            "beamlet": row.beamlet and row.beamlet.median,
            "ray": row.ray and row.ray.median,
            "spread": {kind: fig.spread for kind, fig in (("beamlet", row.beamlet), ("ray", row.ray)) if fig},
            "ratio": row.ratio,
            "floor": row.target.floor,
            "floor_multiple": row.multiple,
            "missed": row.missed,
        }
        for row in measured
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    answer = {"machine": machine, "metrics": medians, "runs": [asdict(run) for run in runs]}
    file.write_text(json.dumps(answer, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
