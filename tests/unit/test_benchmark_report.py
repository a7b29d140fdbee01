"""The benchmarks' pure parts: timing, order of runs, medians, ratios, goals, tables, the guard's verdict."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import guard, run, table, targets  # noqa: E402
from benchmarks.catalog import (  # noqa: E402
    BEAMLET,
    CATALOG,
    FLOOR,
    RAY,
    Catalog,
    Metric,
    Unit,
    Workload,
)
from benchmarks.launcher import Run  # noqa: E402
from benchmarks.meter import BLOCK_S, Meter  # noqa: E402
from benchmarks.summary import Figure, Row, better_by, figure_of, rows  # noqa: E402
from benchmarks.targets import Target  # noqa: E402

CALLS = Metric("calls", Unit.PER_SECOND)
MEMORY = Metric("memory", Unit.MEGABYTES)
START = Metric("start", Unit.SECONDS)
PING = Metric("ping", Unit.PER_SECOND)


class Clock:
    """A clock that moves only when a body says that it has taken some time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls = 0

    def __call__(self) -> float:
        return self.now

    def body(self, seconds: float) -> Callable[[], None]:
        def take_time() -> None:
            self.now += seconds
            self.calls += 1

        return take_time


def measured(kind: str, name: str, *samples: float, failure: str = "") -> Run:
    return Run(name, kind, {name: samples} if samples else {}, failure)


def row_of(metric: Metric, runs: list[Run], target: Target) -> Row:
    """The one measured row that comes of `runs`, with `ping` as the only floor."""
    metrics = {metric.name: metric, PING.name: PING}
    found, _ = rows(metrics, runs, {metric.name: target}, {name: name for name in metrics})
    (row,) = found
    return row


# --- the meter


def test_quick_bodies_are_timed_in_blocks() -> None:
    clock = Clock()
    call_s = 1 / 128
    samples = Meter(1.0, clock).rate(clock.body(call_s), operations=5)
    calls_per_block = int(BLOCK_S / call_s)
    assert calls_per_block == 2
    assert samples == [128.0 * 5] * (128 // calls_per_block)


def test_a_body_slower_than_the_time_is_still_measured_once_after_a_warm_up() -> None:
    clock = Clock()
    assert Meter(1.0, clock).rate(clock.body(4.0)) == [0.25]
    assert clock.calls == 2


def test_removing_what_a_body_made_is_not_timed() -> None:
    clock = Clock()
    samples = Meter(1.0, clock).rate_making(clock.body(0.5), lambda _: clock.body(3.0)(), operations=40)
    assert samples == [80.0]


def test_once_is_the_duration_of_one_call() -> None:
    clock = Clock()
    assert Meter(1.0, clock).once(clock.body(2.5)) == 2.5
    assert clock.calls == 1


def test_each_call_is_timed_by_itself_after_the_warm_up() -> None:
    clock = Clock()
    assert Meter(1.0, clock).each(clock.body(0.25), warm_up=2, calls=3) == [0.25] * 3
    assert clock.calls == 5


# --- the catalogue and the order of runs


def test_a_pattern_selects_by_any_metric_and_in_the_catalogue_order() -> None:
    catalog = Catalog()
    first, second = Workload((CALLS, MEMORY), lambda *_: {}), Workload((START,), lambda *_: {})
    catalog.add(first)
    catalog.add(second)
    assert catalog.select(["START", "mem"]) == (first, second)
    assert catalog.select([]) == (first, second)
    with pytest.raises(ValueError, match="no workload matches 'gpu'"):
        catalog.select(["mem", "gpu"])


def test_a_metric_is_measured_by_one_workload_only() -> None:
    catalog = Catalog()
    catalog.add(Workload((CALLS,), lambda *_: {}))
    with pytest.raises(ValueError, match="two workloads measure 'calls'"):
        catalog.add(Workload((START, CALLS), lambda *_: {}))


def test_implementations_take_turns_and_change_who_is_first() -> None:
    both = Workload((CALLS,), lambda *_: {})
    ours = Workload((MEMORY,), lambda *_: {}, implementations=(BEAMLET,))
    pythons = {BEAMLET: Path("b"), RAY: Path("r"), FLOOR: Path("b")}
    order = [(w.name, kind) for w, kind in run.steps([both, ours], pythons, rounds=2)]
    assert order[:3] == [("calls", BEAMLET), ("calls", RAY), ("memory", BEAMLET)]
    assert order[3:] == [("calls", RAY), ("calls", BEAMLET), ("memory", BEAMLET)]


def test_an_implementation_without_an_interpreter_is_left_out() -> None:
    both = Workload((CALLS,), lambda *_: {})
    assert list(run.steps([both], {RAY: Path("r")}, rounds=1)) == [(both, RAY)]


def test_choosing_a_workload_brings_the_floors_of_its_goals_and_no_others() -> None:
    chosen = run.with_floors(CATALOG.select(["1:1 actor calls sync"]))
    assert [w.name for w in chosen] == ["1:1 actor calls sync", "pickle ping-pong over a Unix socket"]


# --- figures and ratios


def test_a_figure_is_the_median_of_the_rounds_medians() -> None:
    runs = [
        measured(BEAMLET, "calls", 1, 100, 101),
        measured(BEAMLET, "calls", 50),
        measured(RAY, "calls", 7),
    ]
    figure = figure_of([*runs, measured(BEAMLET, "calls", failure="lost")], "calls", BEAMLET)
    assert figure is not None
    assert list(figure.rounds) == [100.0, 50.0]
    assert figure.median == 75
    assert figure.spread == pytest.approx(50 / 75)
    assert figure_of(runs, "calls", FLOOR) is None


@pytest.mark.parametrize(
    ("unit", "ours", "theirs", "ratio"),
    [
        (Unit.PER_SECOND, 300.0, 100.0, 3.0),
        (Unit.SECONDS, 0.5, 4.0, 8.0),
        (Unit.MEGABYTES, 100.0, 50.0, 0.5),
        (Unit.MEGABYTES, 0.0, 50.0, None),
        (Unit.BYTES, 10.0, -5.0, None),
    ],
)
def test_a_ratio_above_one_means_beamlet_is_better(
    unit: Unit, ours: float, theirs: float, ratio: float | None
) -> None:
    assert better_by(unit, ours, theirs) == ratio


def test_the_multiple_of_a_floor_compares_costs_whatever_the_units() -> None:
    floor = measured(FLOOR, "ping", 1000.0)
    calls = row_of(CALLS, [measured(BEAMLET, "calls", 400.0), floor], Target(floor="ping"))
    start = row_of(START, [measured(BEAMLET, "start", 0.004), floor], Target(floor="ping"))
    chain = row_of(
        CALLS, [measured(BEAMLET, "calls", 5.0), floor], Target(floor="ping", floor_operations=100)
    )
    assert calls.multiple == pytest.approx(2.5)
    assert start.multiple == pytest.approx(4.0)
    assert chain.multiple == pytest.approx(2.0)


def test_workloads_that_were_not_run_have_no_row() -> None:
    metrics = {m.name: m for m in (CALLS, MEMORY, PING)}
    found, floors = rows(metrics, [measured(FLOOR, "ping", 9.0)], {}, {name: name for name in metrics})
    assert found == ()
    assert [row.metric for row in floors] == [PING]


def test_a_failure_is_kept_and_so_is_the_other_sides_figure() -> None:
    runs = [
        measured(BEAMLET, "calls", failure="ValueError: no"),
        measured(RAY, "calls", 5.0),
    ]
    row = row_of(CALLS, runs, Target(against_ray=10))
    assert row.failures == ((BEAMLET, "ValueError: no"),)
    assert row.ray == Figure((5.0,))
    assert (row.beamlet, row.ratio, row.missed) == (None, None, ())


# --- goals and the guard


def test_missed_goals_say_what_was_found_and_what_was_wanted() -> None:
    runs = [measured(BEAMLET, "calls", 90.0), measured(RAY, "calls", 10.0), measured(FLOOR, "ping", 900.0)]
    target = Target(against_ray=10, floor="ping", floor_goal=2.5)
    assert row_of(CALLS, runs, target).missed == (
        "9.0× Ray, goal ≥10×",
        "10.00× the cost of ping, goal ≤2.5×",
    )
    assert row_of(MEMORY, [measured(BEAMLET, "memory", 61.0)], Target(limit_goal=60)).missed == (
        "61 MB, goal ≤60 MB",
    )
    assert row_of(CALLS, runs, Target(against_ray=9, floor="ping", floor_goal=10)).missed == ()


@pytest.mark.parametrize(("rate", "passes"), [(126.0, True), (124.0, False)])
def test_the_guard_holds_a_rate_against_its_floor(rate: float, passes: bool) -> None:
    runs = [measured(BEAMLET, "calls", rate), measured(FLOOR, "ping", 1000.0)]
    found = guard.violations([row_of(CALLS, runs, Target(floor="ping", floor_guard=8))])
    assert (found == {}) is passes


def test_the_guard_does_not_mind_a_machine_ten_times_slower() -> None:
    target = Target(floor="ping", floor_guard=3)
    for speed in (1.0, 0.1):
        runs = [measured(BEAMLET, "calls", 500.0 * speed), measured(FLOOR, "ping", 1000.0 * speed)]
        assert guard.violations([row_of(CALLS, runs, target)]) == {}


def test_the_guard_holds_memory_against_its_limit() -> None:
    row = row_of(MEMORY, [measured(BEAMLET, "memory", 90.0)], Target(limit_guard=80))
    assert guard.violations([row]) == {"memory": "is 90 MB; the guard allows ≤80 MB"}


def test_the_guard_fails_what_could_not_be_measured() -> None:
    broken = row_of(CALLS, [measured(BEAMLET, "calls", failure="OSError: gone")], Target(limit_guard=1))
    floorless = row_of(CALLS, [measured(BEAMLET, "calls", 5.0)], Target(floor="ping", floor_guard=8))
    assert "OSError: gone" in guard.violations([broken])["calls"]
    assert guard.violations([floorless]) == {"calls": "its floor, ping, was not measured"}


def test_a_failure_or_a_process_left_behind_is_final_for_beamlet_alone() -> None:
    leaky = Run("calls", BEAMLET, {"calls": [1.0]}, left_behind=["beamlet::IDLE"])
    failed = [measured(BEAMLET, "memory", failure="gone"), measured(RAY, "memory", failure="too")]
    assert guard.broken([leaky, *failed]) == [
        "memory failed: gone",
        "calls left 1 processes behind: beamlet::IDLE",
    ]
    assert guard.broken([measured(BEAMLET, "calls", 1.0)]) == []


def test_rows_without_a_guard_never_fail_it() -> None:
    assert guard.violations([row_of(CALLS, [measured(BEAMLET, "calls", failure="x")], Target())]) == {}


def test_the_real_targets_fit_the_real_catalogue() -> None:
    wanted = targets.load(CATALOG.metrics())
    floors = {w.name for w in CATALOG.workloads() if w.implementations == (FLOOR,)}
    assert {target.floor for target in wanted.values() if target.floor} <= floors
    assert any(target.guarded for target in wanted.values())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('["cals"]\nagainst_ray = 2', "no workload measures that"),
        ('["calls"]\nfaster = 2', "unknown 'faster'"),
        ('["calls"]\nfloor = "pong"', "no floor is called 'pong'"),
        ('["calls"]\nfloor_guard = 2', "needs the floor's name"),
        ('["calls"]\nlimit_guard = 2', "would hold on one machine only"),
    ],
)
def test_a_target_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "targets.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=complaint):
        targets.load({"calls": CALLS, "ping": PING}, file)


# --- the tables


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (12345.6, Unit.PER_SECOND, "12,300 /s"),
        (999.6, Unit.PER_SECOND, "1,000 /s"),
        (2.5, Unit.PER_SECOND, "2.5 /s"),
        (0.01234, Unit.SECONDS, "12.3 ms"),
        (0.312, Unit.SECONDS, "0.312 s"),
        (0.0, Unit.BYTES, "0 B"),
    ],
)
def test_figures_have_three_digits_and_a_unit(value: float, unit: Unit, text: str) -> None:
    assert table.figure_text(value, unit) == text


def test_a_line_shows_both_figures_the_ratio_the_floor_and_the_goals() -> None:
    runs = [measured(BEAMLET, "calls", 500.0), measured(RAY, "calls", 100.0), measured(FLOOR, "ping", 1000.0)]
    row = row_of(CALLS, runs, Target(against_ray=10, floor="ping", floor_goal=2.5))
    assert table.cells(row) == ("calls !", "500 /s", "100 /s", "5.0×", "≥10×", "2.00× ping", "≤2.5×")


def test_a_line_tells_failure_from_absence() -> None:
    row = row_of(CALLS, [measured(RAY, "calls", failure="boom")], Target())
    assert table.cells(row)[1:3] == ("—", "failed")
    assert table.failure_lines([row]) == ["Failed:", "  calls, ray: boom"]


def test_columns_line_up() -> None:
    lines = table.aligned(("what", "n"), [("a", "1,000"), ("longer", "2")]).splitlines()
    assert lines == ["what        n", "──────  ─────", "a       1,000", "longer      2"]


def test_markdown_is_a_table_with_flush_right_figures() -> None:
    assert table.markdown(("what", "n"), [("a", "1")]) == "| what | n |\n| --- | ---: |\n| a | 1 |"


def test_the_report_names_every_missed_goal_and_failure() -> None:
    row = row_of(MEMORY, [measured(BEAMLET, "memory", 61.0)], Target(limit_goal=60))
    broken = row_of(CALLS, [measured(RAY, "calls", failure="boom")], Target())
    text = table.for_terminal([row, broken], [])
    assert "1 goals missed (!):\n  memory: 61 MB, goal ≤60 MB" in text
    assert text.endswith("Failed:\n  calls, ray: boom")
