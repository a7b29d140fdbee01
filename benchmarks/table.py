"""The report as text: an aligned table for the terminal, and the same as Markdown for the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.catalog import Unit
from benchmarks.summary import Figure, Row, limit_sign

HEADINGS = ("what", "Beamlet", "Ray", "better by", "goal", "cost against floor", "goal")
FLOOR_HEADINGS = ("floor: what this machine does without either", "figure")


def for_terminal(measured: Sequence[Row], floors: Sequence[Row]) -> str:
    """Both tables, aligned, then every missed goal and every failure in a sentence."""
    parts = [aligned(HEADINGS, [cells(row) for row in measured])] if measured else []
    if floors:
        parts.append(aligned(FLOOR_HEADINGS, [floor_cells(row) for row in floors]))
    remarks = (missed_lines(measured), failure_lines([*measured, *floors]))
    parts += ["\n".join(lines) for lines in remarks if lines]
    return "\n\n".join(parts)


def as_markdown(measured: Sequence[Row], floors: Sequence[Row]) -> str:
    """Both tables as Markdown."""
    parts = [markdown(HEADINGS, [cells(row) for row in measured])] if measured else []
    if floors:
        parts.append(markdown(FLOOR_HEADINGS, [floor_cells(row) for row in floors]))
    return "\n\n".join(parts)


def cells(row: Row) -> tuple[str, ...]:
    """One metric's line. A goal that was missed is marked with `!`, an implementation that failed says so."""
    unit, target = row.metric.unit, row.target
    failed = dict(row.failures)
    goals = [f"≥{target.against_ray:g}×"] if target.against_ray is not None else []
    if target.limit_goal is not None:
        goals.append(f"{limit_sign(unit)}{figure_text(target.limit_goal, unit)}")
    floor_goal = f"≤{target.floor_goal:g}×" if target.floor_goal is not None else ""
    return (
        row.metric.name + (" !" if row.missed else ""),
        _measured(row.beamlet, unit, "beamlet" in failed),
        _measured(row.ray, unit, "ray" in failed),
        f"{row.ratio:.1f}×" if row.ratio is not None else "",
        ", ".join(goals),
        f"{row.multiple:.2f}× {target.floor}" if row.multiple is not None else "",
        floor_goal,
    )


def floor_cells(row: Row) -> tuple[str, ...]:
    """One floor's line."""
    return row.metric.name, _measured(row.floor, row.metric.unit, bool(row.failures))


def missed_lines(rows: Sequence[Row]) -> list[str]:
    """A sentence for each missed goal, under a heading; nothing when all are met."""
    lines = [f"  {row.metric.name}: {reason}" for row in rows for reason in row.missed]
    return [f"{len(lines)} goals missed (!):", *lines] if lines else []


def failure_lines(rows: Sequence[Row]) -> list[str]:
    """A line for each implementation that yielded nothing, under a heading."""
    lines = [f"  {row.metric.name}, {kind}: {reason}" for row in rows for kind, reason in row.failures]
    return ["Failed:", *lines] if lines else []


def figure_text(value: float, unit: Unit) -> str:
    """A figure with three significant digits and its unit: `12,300 /s`, `0.312 s`, `45.2 MB`."""
    if unit is Unit.SECONDS and value < 0.1:
        return f"{value * 1000:.3g} ms"
    if value == 0 or abs(value) >= 100:
        digits = max(0, len(str(int(abs(value)))) - 3)
        return f"{int(round(value, -digits)):,} {unit.symbol}"
    return f"{value:.3g} {unit.symbol}"


def aligned(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be, two spaces apart; the first flush left, figures flush right."""
    table = [headings, *lines]
    widths = [max(len(line[column]) for line in table) for column in range(len(headings))]
    rule = tuple("─" * width for width in widths)
    return "\n".join(_pad(line, widths) for line in (headings, rule, *lines))


def markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose figures are flush right."""
    rule = ["---", *("---:" for _ in headings[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *lines))


def machine_line(machine: Mapping[str, object]) -> str:
    """The machine and the versions in one line."""
    return ", ".join(f"{name} {value}" for name, value in machine.items() if value not in ("", None))


def _measured(figure: Figure | None, unit: Unit, failed: bool) -> str:
    if figure is not None:
        return figure_text(figure.median, unit)
    return "failed" if failed else "—"


def _pad(line: Sequence[str], widths: Sequence[int]) -> str:
    rest = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
    return "  ".join([line[0].ljust(widths[0]), *rest]).rstrip()
