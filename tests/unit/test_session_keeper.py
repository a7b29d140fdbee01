"""A living head's files are where others look for them, whatever was removed; and looking never raises."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from beamlet.head.session_keeper import LOOK_S, SessionKeeper
from beamlet.processes.session import SessionDirectory, find_current, publish_current
from beamlet.rpc.listener import Listener


class Clock:
    """As much of a reactor as is used."""

    def __init__(self) -> None:
        self.time = 0.0
        self.due: list[Callable[[], None]] = []

    def now(self) -> float:
        return self.time

    def call_later(self, delay_s: float, action: Callable[[], None]) -> Clock:
        self.due.append(action)
        return self

    def cancel(self) -> None:
        self.due.clear()

    def advance(self, seconds: float) -> None:
        self.time += seconds
        due, self.due = self.due, []
        for action in due:
            action()


class Socket:
    def __init__(self, path: Path) -> None:
        path.touch()

    def close(self) -> None:
        pass


class Kept:
    def __init__(self, root: Path, is_current: bool = True) -> None:
        self.session = SessionDirectory.create(root)
        self.root = root
        self.said: list[str] = []
        self.clock = Clock()
        if is_current:
            publish_current(self.session)
        self.keeper = SessionKeeper(
            self.session,
            self.session.secret(),
            cast(Any, self.clock),
            lambda: cast(Listener, Socket(self.session.socket)),
            self.said.append,
            is_current=is_current,
        )


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path / "root")
    yield kept
    kept.session.let_go()


@pytest.mark.parametrize("name", ["current_cluster", "session.json", "secret", "lock", "socket", "logs"])
def test_what_alone_was_removed_is_made_again(kept: Kept, name: str) -> None:
    """current_cluster was made again only if something else was gone too, and session.json never."""
    path = {
        "current_cluster": kept.root / "current_cluster",
        "socket": kept.session.socket,
    }.get(name, kept.session.path / name)
    if name == "logs":
        path.rmdir()
    else:
        path.unlink()
    kept.clock.advance(LOOK_S)
    assert path.exists()
    (said,) = kept.said
    assert f"were removed ({name})" in said
    found = find_current(kept.root)
    assert found is not None
    assert found.path == kept.session.path
    assert found.head_is_here()
    kept.clock.advance(LOOK_S)
    assert len(kept.said) == 1


def test_another_cluster_stays_the_current_one(kept: Kept) -> None:
    other = Kept(kept.root)
    kept.clock.advance(LOOK_S)
    found = find_current(kept.root)
    assert found is not None
    assert found.path == other.session.path
    assert kept.said == []
    other.session.remove()
    kept.clock.advance(LOOK_S)
    found = find_current(kept.root)
    assert found is not None
    assert found.path == kept.session.path


def test_a_programs_own_cluster_is_not_the_current_one(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "root", is_current=False)
    kept.clock.advance(LOOK_S)
    assert not (kept.root / "current_cluster").exists()
    assert kept.said == []
    kept.session.let_go()


def test_what_cannot_be_seen_is_said_once_and_raises_nothing(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, **_: object) -> os.stat_result:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as disk:
        disk.setattr(Path, "stat", fail)
        kept.clock.advance(LOOK_S)
        kept.clock.advance(LOOK_S)
    (said,) = kept.said
    assert "cannot be looked at" in said
    assert "Input/output error" in said
    kept.clock.advance(LOOK_S)
    assert len(kept.said) == 1


def test_once_an_hour_all_of_it_looks_new(kept: Kept) -> None:
    os.utime(kept.root / "current_cluster", (0, 0))
    kept.clock.advance(3601)
    assert (kept.root / "current_cluster").stat().st_mtime > 0
