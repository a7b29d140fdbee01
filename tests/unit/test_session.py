"""Session directories: only ours, private under any umask, and the dead told from the living."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beamlet.processes.session import (
    SessionDirectory,
    SessionRootError,
    find_current,
    find_running,
    publish_current,
    secure_root,
    session_root,
    sessions,
    start_ticks,
    sweep_dead,
)
from beamlet.rpc.socket_path import short_socket_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture(params=[0o000, 0o022, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def make_dead(session: SessionDirectory, **changes: object) -> None:
    """As if its head had been another process that used our pid earlier."""
    info = session.path / "session.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"start_ticks": 1} | changes))


def age(session: SessionDirectory, days: float) -> None:
    then = time.time() - days * 86_400
    os.utime(session.path, (then, then))


# --- making ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("umask")
def test_everything_is_private_under_any_umask(root: Path) -> None:
    session = SessionDirectory.create(root)
    assert [mode(p) for p in (root, session.path, session.logs)] == [0o700] * 3
    assert [mode(session.path / name) for name in ("secret", "session.json")] == [0o600] * 2
    assert len(session.secret()) == 32
    assert sorted(p.name for p in session.path.iterdir()) == ["logs", "secret", "session.json"], "no drafts"


def test_secrets_differ_and_the_latest_link_follows(root: Path) -> None:
    first, second = SessionDirectory.create(root), SessionDirectory.create(root)
    assert first.secret() != second.secret()
    assert (root / "session_latest").resolve() == second.path.resolve()
    assert [s.path for s in sessions(root)] == [second.path, first.path]


def test_a_secret_that_others_can_read_is_refused(root: Path) -> None:
    session = SessionDirectory.create(root)
    (session.path / "secret").chmod(0o640)
    with pytest.raises(PermissionError, match=r"found uid .* -rw-r-----"):
        session.secret()


def test_a_secret_that_is_a_link_is_refused(root: Path) -> None:
    session = SessionDirectory.create(root)
    secret = session.path / "secret"
    secret.rename(session.path / "elsewhere")
    secret.symlink_to("elsewhere")
    with pytest.raises(PermissionError, match="lrwxrwxrwx"):
        session.secret()


def test_a_root_that_others_can_read_is_refused_and_says_what_to_do(root: Path) -> None:
    root.mkdir()
    root.chmod(0o755)
    with pytest.raises(SessionRootError, match=f"chmod 700 {root}.*BEAMLET_TMPDIR"):
        SessionDirectory.create(root)


def test_a_planted_link_is_refused(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    root.symlink_to(target)
    with pytest.raises(SessionRootError, match="planted"):
        secure_root(root)


def test_another_users_root_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secure_root(root)
    monkeypatch.setattr(os, "getuid", lambda: os.stat(root).st_uid + 1)
    with pytest.raises(SessionRootError, match="belongs to uid"):
        secure_root(root)


def test_a_root_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SessionRootError, match="BEAMLET_TMPDIR"):
        secure_root(tmp_path / "file" / "root")


# --- choosing the root ----------------------------------------------------------------------------


def test_the_root_is_chosen_in_the_documented_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/scratch")
    own = f"beamlet-{os.getuid()}"
    env = {"BEAMLET_TMPDIR": "/a", "RAY_TMPDIR": "/b", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert session_root(env) == Path("/a") / own
    del env["BEAMLET_TMPDIR"]
    assert session_root(env) == Path("/b") / own
    del env["RAY_TMPDIR"]
    assert session_root(env) == tmp_path / "beamlet"
    env["XDG_RUNTIME_DIR"] = str(tmp_path / "missing")
    assert session_root(env) == Path("/scratch") / own
    assert session_root({}) == Path("/scratch") / own


# --- who is alive ---------------------------------------------------------------------------------


def test_a_session_is_alive_while_its_head_is(root: Path) -> None:
    session = SessionDirectory.create(root)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as head:
        session.describe("address", head.pid)
        assert session.is_alive()
        assert [s.path for s in find_running(root)] == [session.path]
        assert head.stdin is not None
        head.stdin.close()
        os.waitid(os.P_PID, head.pid, os.WEXITED | os.WNOWAIT)
        assert not session.is_alive(), "a zombie is no head"
    assert not session.is_alive()
    assert find_running(root) == []


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another boot"}])
def test_a_recycled_pid_fools_nobody(root: Path, change: dict[str, object]) -> None:
    session = SessionDirectory.create(root)
    assert session.is_alive()
    info = session.path / "session.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | change))
    assert not session.is_alive()


def test_damaged_session_files_mean_dead_not_a_crash(root: Path) -> None:
    for text in ("", "{", "[]", '{"pid": 1}', "null"):
        session = SessionDirectory.create(root)
        (session.path / "session.json").write_text(text)
        assert session.info() is None
        assert not session.is_alive()


def test_start_ticks_of_nobody_is_0() -> None:
    assert start_ticks(1 << 22) == 0
    assert start_ticks(os.getpid()) > 0


def test_current_is_found_while_it_lives(root: Path) -> None:
    assert find_current(root) is None
    session = SessionDirectory.create(root)
    publish_current(session)
    found = find_current(root)
    assert found is not None
    assert found.path == session.path
    make_dead(session)
    assert find_current(root) is None


def test_current_cannot_point_outside(root: Path) -> None:
    SessionDirectory.create(root)
    (root / "current_cluster").write_text("session_/../../elsewhere")
    assert find_current(root) is None


# --- sweeping -------------------------------------------------------------------------------------


def test_sweep_disarms_all_dead_and_keeps_the_newest_logs(root: Path) -> None:
    dead = [SessionDirectory.create(root) for _ in range(4)]
    alive = SessionDirectory.create(root)
    publish_current(dead[0])
    for each in (*dead, alive):
        each.socket.touch()
    for each in dead:
        make_dead(each)
    removed = sweep_dead(root, keep=2)
    assert removed == [dead[1].path, dead[0].path]
    for each in dead[2:]:
        assert sorted(p.name for p in each.path.iterdir()) == ["logs", "session.json"]
    assert alive.socket.exists()
    assert len(alive.secret()) == 32
    assert not (root / "current_cluster").exists()
    assert sweep_dead(root, keep=2) == []


def test_sweep_removes_what_is_too_old(root: Path) -> None:
    old, young = SessionDirectory.create(root), SessionDirectory.create(root)
    make_dead(old)
    make_dead(young)
    age(young, 6.9)
    (old.path / "secret").unlink()  # or disarming would touch the directory's time
    age(old, 7.1)
    assert sweep_dead(root) == [old.path]


def test_sweep_leaves_the_unborn_and_the_foreign(root: Path) -> None:
    unborn, foreign, stillborn = (SessionDirectory.create(root) for _ in range(3))
    for each in (unborn, stillborn):
        (each.path / "session.json").unlink()
    age(stillborn, 1)
    make_dead(foreign, host="another-host")
    age(foreign, 30)
    assert sweep_dead(root, keep=0) == [stillborn.path]
    assert foreign.secret()
    assert unborn.secret()


def test_sweep_of_nothing(root: Path) -> None:
    assert sweep_dead(root) == []


def test_remove_takes_all_or_leaves_the_logs(root: Path) -> None:
    kept, gone = SessionDirectory.create(root), SessionDirectory.create(root)
    (kept.logs / "worker.err").write_text("why")
    kept.remove(keep_logs=True)
    gone.remove()
    assert not gone.path.exists()
    assert not os.path.lexists(root / "session_latest")
    assert (kept.logs / "worker.err").read_text() == "why"
    assert not (kept.path / "secret").exists()
    gone.remove()  # twice is once


# --- long paths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 40, 150])
def test_sockets_work_at_any_depth(tmp_path: Path, depth: int) -> None:
    directory = tmp_path / ("d" * depth)
    directory.mkdir(exist_ok=True)
    path = directory / "node.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        with short_socket_path(path) as name:
            assert len(name) <= 100
            listener.bind(name)
        listener.listen()
        with short_socket_path(path) as name:
            client.connect(name)
        connected, _ = listener.accept()
        with connected:
            client.sendall(b"x")
            assert connected.recv(1) == b"x"
    assert path.is_socket()
    path.unlink()
