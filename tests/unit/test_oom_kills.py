"""Which SIGKILL was the kernel's for lack of memory, told by counters in both versions of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamlet.processes.oom_kills import OomKills

V1, V2 = "4:memory:/box\n0::/\n", "0::/box\n"


def machine(root: Path, version: str, group_counts: bool = True) -> Path:
    """A file system with a control group; returns the file that counts."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(version)
    (root / "proc/vmstat").write_text("nr_free_pages 5\noom_kill 7\n")
    if not group_counts:
        return root / "proc/vmstat"
    name = "memory/box/memory.oom_control" if version == V1 else "box/memory.events"
    file = root / "sys/fs/cgroup" / name
    file.parent.mkdir(parents=True)
    counts(file, 3)
    return file


def counts(file: Path, victims: int) -> None:
    file.write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {victims}\noom_group_kill 0\n")


@pytest.mark.parametrize(("version", "group_counts"), [(V1, True), (V2, True), (V2, False)])
def test_a_victim_is_told_from_one_killed_by_somebody(
    tmp_path: Path, version: str, group_counts: bool
) -> None:
    file = machine(tmp_path, version, group_counts)
    if not group_counts:
        counts(file, 3)
    kills = OomKills(tmp_path)
    assert not kills.another_one(1.0)
    counts(file, 4)
    assert kills.another_one(2.0)
    assert not kills.another_one(2.0), "one victim explains one death"


def test_several_victims_at_once_are_claimed_one_by_one(tmp_path: Path) -> None:
    file = machine(tmp_path, V2)
    kills = OomKills(tmp_path)
    counts(file, 5)
    assert [kills.another_one(1.0) for _ in range(3)] == [True, True, False]


def test_a_victim_that_was_none_of_ours_explains_no_later_death(tmp_path: Path) -> None:
    file = machine(tmp_path, V1)
    kills = OomKills(tmp_path)
    counts(file, 5)
    assert kills.another_one(1.0)
    assert not kills.another_one(10.0)


def test_without_counters_nothing_is_claimed(tmp_path: Path) -> None:
    assert not OomKills(tmp_path).another_one(1.0)
