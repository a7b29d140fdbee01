"""Session directories: only ours, private under any umask, and the dead told from the living."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import queue
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beamlet.exceptions import SessionRootError
from beamlet.processes.session import (
    SessionDirectory,
    find_current,
    find_running,
    publish_current,
    secure_root,
    session_root,
    sessions,
    start_ticks,
    sweep_dead,
)
from beamlet.processes.session_lock import Holders, holders, one_at_a_time
from beamlet.rpc.socket_path import short_socket_path
from support.waiting import wait_until


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
    """As if its head and factory had ended; with ``changes`` in what is written about the head."""
    session.let_go()
    info = session.path / "session.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | changes))


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
    assert sorted(p.name for p in session.path.iterdir()) == [
        "lock",
        "logs",
        "secret",
        "session.json",
    ], "no drafts"
    assert sorted(p.name for p in root.iterdir()) == [session.path.name, "session_latest"]


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


def test_a_session_lives_as_long_as_anyone_holds_its_lock(root: Path) -> None:
    session = SessionDirectory.create(root)
    assert session.lock is not None
    waits = "import sys; sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", waits], stdin=subprocess.PIPE, pass_fds=(session.lock.fd,)
    ) as head:
        session.let_go()
        session.let_go()  # twice is once
        assert session.is_alive()
        assert not session.is_surely_dead()
        assert [s.path for s in find_running(root)] == [session.path]
        assert head.stdin is not None
        head.stdin.close()
        os.waitid(os.P_PID, head.pid, os.WEXITED | os.WNOWAIT)
        assert not session.is_alive(), "a zombie holds nothing"
        assert session.is_surely_dead()
    assert find_running(root) == []


@pytest.mark.parametrize("change", [{"pid": 1 << 22}, {"start_ticks": 1}, {"boot_id": "another boot"}])
def test_what_is_written_about_the_head_kills_nobody(root: Path, change: dict[str, object]) -> None:
    """Another container's pids mean nothing here: only the lock counts."""
    session = SessionDirectory.create(root)
    info = session.path / "session.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | change))
    age(session, 30)
    assert session.is_alive()
    assert not session.head_is_here(), "and its pid is not to be signalled"
    assert sweep_dead(root, keep=0) == []
    assert session.secret()


def test_many_may_ask_at_once_whether_it_lives(root: Path) -> None:
    session = SessionDirectory.create(root)
    session.let_go()
    lock = session.path / "lock"
    with lock.open("r+") as other_who_asks:
        fcntl.flock(other_who_asks, fcntl.LOCK_SH)
        assert holders(lock) is Holders.NONE


def test_without_a_lock_nothing_is_proven(root: Path) -> None:
    """A cleaner took the file, the file system has no locks, or an older release made the session."""
    session = SessionDirectory.create(root)
    (session.path / "lock").unlink()
    assert session.is_alive(), "by its pid, which is ours"
    make_dead(session, start_ticks=1)
    assert not session.is_alive()
    assert not session.is_surely_dead()
    assert sweep_dead(root, keep=0) == []


def test_damaged_session_files_are_no_crash(root: Path) -> None:
    for text in ("", "{", "[]", '{"pid": 1}', "null"):
        session = SessionDirectory.create(root)
        (session.path / "session.json").write_text(text)
        assert session.info() is None
        assert not session.head_is_here()
        assert session.is_alive()


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
        assert sorted(p.name for p in each.path.iterdir()) == ["lock", "logs", "session.json"]
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


def test_sweep_leaves_the_foreign(root: Path) -> None:
    """Its lock is free as far as this machine knows; over a network disk that need not be all."""
    foreign = SessionDirectory.create(root)
    make_dead(foreign, host="another-host", boot_id="another boot")
    age(foreign, 30)
    assert sweep_dead(root, keep=0) == []
    assert foreign.secret()


def test_sweep_removes_what_was_half_made_or_half_removed(root: Path) -> None:
    living, crashed, removed = (SessionDirectory.create(root) for _ in range(3))
    half = root / f".making_{living.path.name}"
    living.path.rename(half)
    stale = root / f".making_{crashed.path.name}"
    crashed.path.rename(stale)
    crashed.let_go()
    rest = root / f".removing_{removed.path.name}"
    removed.path.rename(rest)
    assert sweep_dead(root) == []
    assert [half.exists(), stale.exists(), rest.exists()] == [True, True, False]
    for path in (half, stale):
        os.utime(path, (0, 0))
    assert sweep_dead(root) == []
    assert [half.exists(), stale.exists()] == [True, False]


def test_sweep_of_nothing(root: Path) -> None:
    assert sweep_dead(root) == []


def test_a_session_that_cannot_be_made_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("beamlet.processes.session._write_private", full)
    with pytest.raises(
        SessionRootError, match=rf"{root}.*No space left on device.*Make room.*BEAMLET_TMPDIR"
    ):
        SessionDirectory.create(root)
    assert list(root.iterdir()) == []


def test_a_root_that_is_not_utf8_says_so(tmp_path: Path) -> None:
    with pytest.raises(SessionRootError, match=r"\\xff.*not UTF-8.*BEAMLET_TMPDIR"):
        secure_root(tmp_path / os.fsdecode(b"\xff"))


def test_missing_files_are_named_and_made_again(root: Path) -> None:
    session = SessionDirectory.create(root)
    secret = session.secret()
    session.socket.touch()
    assert session.missing() == []
    shutil.rmtree(root)
    assert session.missing() == [".", "logs", "secret", "socket", "session.json", "lock"]
    session.mend(secret)
    assert session.missing() == ["socket"], "which is the listener's"
    assert (root / "session_latest").resolve() == session.path
    assert session.secret() == secret
    assert session.is_alive()
    assert session.head_is_here()
    assert [s.path for s in find_running(root)] == [session.path]
    (session.path / "lock").unlink()
    assert session.missing() == ["socket", "lock"]
    session.mend(secret)
    (session.path / "session.json").unlink()
    assert session.missing() == ["socket", "session.json"]
    session.mend(secret)
    assert session.head_is_here()
    (session.path / "session.json").write_text("{")
    assert session.missing() == ["socket", "session.json"], "half of it is none"
    session.mend(secret)
    session.let_go()
    assert session.is_surely_dead()


def test_what_cannot_be_seen_is_not_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails, a path that may not be searched: that is no reason to make things anew."""
    session = SessionDirectory.create(root)

    def fail(path: Path, **_: object) -> os.stat_result:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(Path, "stat", fail)
    with pytest.raises(OSError, match="Input/output error"):
        session.missing()


def test_whatever_lives_looks_new_to_cleaners(root: Path) -> None:
    """And nothing of others: a dead session named last is theirs to take."""
    session = SessionDirectory.create(root)
    session.socket.touch()
    (session.logs / "head.log").touch()
    publish_current(session)
    everything = [root, *root.rglob("*")]
    assert {each.name for each in everything} >= {"current_cluster", "session_latest", "head.log", "secret"}

    def old() -> list[Path]:
        return [each for each in everything if time.time() - each.lstat().st_mtime > 86_400]

    then = time.time() - 11 * 86_400
    for each in everything:
        os.utime(each, (then, then), follow_symlinks=False)
    session.touch()
    assert old() == []
    other = SessionDirectory.create(root)
    publish_current(other)
    for name in ("current_cluster", "session_latest"):
        os.utime(root / name, (then, then), follow_symlinks=False)
    session.touch()
    assert {each.name for each in old()} == {"current_cluster", "session_latest"}


@pytest.mark.parametrize("content", [b"session_\xff", b"session_\0", b"session_" + b"x" * 5000, b"", b"a/b"])
def test_garbage_names_no_current_session(root: Path, content: bytes) -> None:
    secure_root(root)
    (root / "current_cluster").write_bytes(content)
    assert find_current(root) is None


def test_a_turn_is_nobody_elses_though_its_file_was_removed_while_others_waited(root: Path) -> None:
    """Two `beamlet start` at once made two clusters if a cleaner took the file between them."""
    file = secure_root(root) / ".starting"
    turns: queue.Queue[str] = queue.Queue()

    def second() -> None:
        with one_at_a_time(file, within_s=10):
            turns.put("second")
            with pytest.raises(TimeoutError), one_at_a_time(file, within_s=0):
                turns.put("third")

    with one_at_a_time(file, within_s=10) as first:
        os.utime(file, (0, 0))
        waiting = threading.Thread(target=second)
        waiting.start()
        wait_until(lambda: open_files(file) == 2, 10, "the second to have opened the file")
        os.unlink(file)
        assert os.fstat(first).st_nlink == 0
    waiting.join(10)
    assert turns.get(timeout=10) == "second"
    assert turns.empty(), "the file that the second holds is the one that others find"
    assert time.time() - file.stat().st_mtime < 3600, "and no prey for cleaners"


def open_files(path: Path) -> int:
    file = path.stat()
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.path.samestat(os.stat(f"/proc/self/fd/{name}"), file)
    return found


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
