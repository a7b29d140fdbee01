"""The session directory: where a cluster of this user keeps socket, secret and logs, and how others find it.

    <root>/                                    0700, ours by proof, never by belief
      session_latest → session_2026-…          replaced atomically
      current_cluster                          for ``init("auto")``: the head of ``beamlet start`` writes it
      .starting                                held by ``beamlet start``, and its head, until that is current
      session_YYYY-MM-DD_HH-MM-SS_micros_pid/  0700; appears whole and goes at once (both by rename)
        lock                                   held, for as long as they live, by the head and its factory
        session.json                           the head's pid and birth, so that a recycled pid fools nobody
        secret                                 0600 from its first moment
        node.sock, logs/

Whether a session lives is said by its lock (processes/session_lock.py) and by nothing else: pids mean
something else in another container, a lock is the kernel's.  The process that makes the session takes it and
hands it down to the head.  Nothing of a session is killed or removed unless its lock was found free.

Not here: what is in the logs, and the handshake that uses the secret.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from beamlet.base.session_root_error import SessionRootError
from beamlet.processes.fate_sharing import sweep
from beamlet.processes.session_lock import Holders, SessionLock, holders

_PREFIX = "session_"
_LATEST = "session_latest"
_CURRENT = "current_cluster"
HEAD_LOG = "head.log"
_SECRET_BYTES = 32
_DAY_S = 86_400.0
#: Names of what is not a session yet, and of what no longer is.
_MAKING, _REMOVING = ".making_", ".removing_"
_BEING_MADE_S = 60.0


class SessionInfo(msgspec.Struct, frozen=True):
    """session.json: which process the head is, and how to reach it."""

    pid: int
    #: Clock ticks after boot, from /proc: with the pid it names one process for ever.
    start_ticks: int
    #: Which boot of which machine these ticks belong to.
    boot_id: str
    #: Sessions of other hosts (a shared disk, a container's /tmp) cannot be judged from here.
    host: str
    address: str
    created_at: float


class SessionDirectory:
    """One session's directory: paths, and the life of its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "logs"
        self.socket = path / "node.sock"
        self._secret = path / "secret"
        self._info = path / "session.json"
        self._lock_file = path / "lock"
        #: What we ourselves hold of the session: it lives at least as long.
        self.lock: SessionLock | None = None

    @classmethod
    def create(cls, root: Path | None = None) -> SessionDirectory:
        """Make a fresh session of this process under ``root``, with its secret; session_latest is now it.

        It lives until its ``lock`` is closed, here and in every process that inherited it.  Raises
        SessionRootError if the root is not ours alone, or nothing can be made in it; then nothing is left.
        """
        root = secure_root(root if root is not None else session_root())
        now = time.time()
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(now))
        name = f"{_PREFIX}{stamp}_{int(now % 1 * 1e6):06}_{os.getpid()}"
        session, draft = cls(root / name), cls(root / f"{_MAKING}{name}")
        try:
            _make_private(draft.path)
            _make_private(draft.logs)
            session.lock = SessionLock.take(draft._lock_file)
            _write_private(draft._secret, os.urandom(_SECRET_BYTES).hex())
            draft.describe(address=str(session.socket))
            os.rename(draft.path, session.path)
            _replace_link(root / _LATEST, name)
        except OSError as error:
            session.let_go()
            _remove_tree(draft.path)
            _remove_tree(session.path)
            raise SessionRootError(
                f"cannot make the session {session.path}: {error.strerror}. {_instead(error)}"
            ) from error
        return session

    def let_go(self) -> None:
        """We no longer keep it alive (a process that we handed the lock may). Idempotent."""
        if self.lock is not None:
            self.lock.close()
            self.lock = None

    @property
    def marker(self) -> str:
        """What BEAMLET_SESSION is set to in every process of this session."""
        return self.path.name

    def describe(self, address: str, pid: int | None = None) -> None:
        """Write session.json: the head is process ``pid`` (default: this one)."""
        pid = os.getpid() if pid is None else pid
        info = SessionInfo(pid, start_ticks(pid), boot_id(), os.uname().nodename, address, time.time())
        _write_private(self._info, json.dumps(msgspec.structs.asdict(info), indent=1))

    def info(self) -> SessionInfo | None:
        """What session.json says; None when it is not there (yet) or damaged."""
        try:
            return SessionInfo(**json.loads(self._info.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def secret(self) -> bytes:
        """The session's 32 secret bytes. Raises PermissionError if others could have read or made them."""
        found = os.stat(self._secret, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(
                f"{self._secret} must be a file of uid {os.getuid()} with mode 0600, found uid "
                f"{found.st_uid}, mode {stat.filemode(found.st_mode)}: someone else may know the secret. "
                "Start a new session."
            )
        return bytes.fromhex(self._secret.read_text())

    def is_alive(self) -> bool:
        """Whether anyone holds its lock: its head, or a factory that still ends what the head left."""
        found = holders(self._lock_file)
        return found is Holders.SOME or (found is Holders.UNKNOWN and self.head_is_here())

    def head_is_here(self) -> bool:
        """Whether the very process that is its head runs where we can see it: only then its pid means it."""
        info = self.info()
        return info is not None and info.boot_id == boot_id() and _runs(info.pid, info.start_ticks)

    def is_surely_dead(self) -> bool:
        """Its lock is free, and this kernel is the one that would know."""
        if holders(self._lock_file) is not Holders.NONE:
            return False
        info = self.info()
        return info is None or info.boot_id == boot_id() or info.host == os.uname().nodename

    def missing(self) -> list[str]:
        """What of a living session is gone, say through a cleaner of temporary files; for its head, who has
        the lock. Raises OSError where that cannot be seen.
        """
        wanted = {".": self.path, "logs": self.logs, "secret": self._secret, "socket": self.socket}
        gone = [name for name, path in wanted.items() if not _is_there(path)]
        if self.info() is None:
            gone.append(self._info.name)
        if self.lock is not None and not self.lock.is_at(self._lock_file):
            gone.append("lock")
        return gone

    def mend(self, secret: bytes) -> None:
        """Make anew what is missing, but the socket. Raises OSError or SessionRootError."""
        secure_root(self.path.parent)
        for directory in (self.path, self.logs):
            with contextlib.suppress(FileExistsError):
                _make_private(directory)
        if self.lock is not None and not self.lock.is_at(self._lock_file):
            self._lock_file.unlink(missing_ok=True)
            self.lock = SessionLock.take(self._lock_file)
        if not self._secret.exists():
            _write_private(self._secret, secret.hex())
        if self.info() is None:
            self.describe(address=str(self.socket))
        latest = self.path.parent / _LATEST
        if not os.path.lexists(latest):
            _replace_link(latest, self.path.name)

    def touch(self) -> None:
        """Be no prey for those who remove what is old; nor is what names us in the root."""
        root = self.path.parent
        ours = [self._lock_file, self._secret, self._info, self.socket, self.logs / HEAD_LOG, self.logs]
        ours += [self.path, root]
        with contextlib.suppress(OSError, ValueError):
            if (root / _CURRENT).read_text().strip() == self.path.name:
                ours.append(root / _CURRENT)
        with contextlib.suppress(OSError):
            if os.readlink(root / _LATEST) == self.path.name:
                ours.append(root / _LATEST)
        for path in ours:
            with contextlib.suppress(OSError):
                os.utime(path, follow_symlinks=False)

    @property
    def is_armed(self) -> bool:
        """Its secret is still there: it lives, or nobody has cleaned up after it."""
        return self._secret.exists()

    def disarm(self) -> None:
        """Remove what lets one connect: socket and secret. The logs stay."""
        self.socket.unlink(missing_ok=True)
        self._secret.unlink(missing_ok=True)

    def remove(self, keep_logs: bool = False) -> None:
        """The end: everything goes; with ``keep_logs`` (something failed) only what lets one connect."""
        self.let_go()
        if keep_logs:
            self.disarm()
            return
        root = self.path.parent
        gone = root / f"{_REMOVING}{self.path.name}"
        with contextlib.suppress(OSError):
            os.rename(self.path, gone)
        _remove_tree(gone)
        with contextlib.suppress(OSError):
            if os.readlink(root / _LATEST) == self.path.name:
                (root / _LATEST).unlink()


# -- the root ------------------------------------------------------------------------------------


def session_root(env: Mapping[str, str] | None = None) -> Path:
    """Where this user's sessions are. Chosen, not made: see ``secure_root``."""
    env = os.environ if env is None else env
    for name in ("BEAMLET_TMPDIR", "RAY_TMPDIR"):
        if chosen := env.get(name):
            return Path(chosen).absolute() / f"beamlet-{os.getuid()}"
    runtime = env.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK | os.X_OK):
        return Path(runtime) / "beamlet"
    import tempfile  # brings shutil, see remove

    return Path(tempfile.gettempdir()) / f"beamlet-{os.getuid()}"


def secure_root(root: Path) -> Path:
    """Make ``root`` if need be and return it, sure that nobody else owns, writes or reads it."""
    try:
        str(root).encode()
    except UnicodeEncodeError:
        raise SessionRootError(
            f"the directory for sessions would be {os.fsencode(root)!r}: its name is not UTF-8. {_CHOOSE}"
        ) from None
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            _make_private(root)
        found = os.stat(root, follow_symlinks=False)
    except OSError as error:
        raise SessionRootError(
            f"cannot make the directory for sessions {root}: {error.strerror}. {_instead(error)}"
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise SessionRootError(
            f"{root} should be a directory owned by us, but is {stat.filemode(found.st_mode)}: a link or "
            "file there may have been planted by another user. Remove it, or choose another place. "
            f"{_CHOOSE}"
        )
    if found.st_uid != os.getuid():
        raise SessionRootError(
            f"{root} belongs to uid {found.st_uid}, we are uid {os.getuid()}: its owner could take over this "
            f"session. {_CHOOSE}"
        )
    if found.st_mode & 0o077:
        raise SessionRootError(
            f"{root} has mode {stat.filemode(found.st_mode)}, wanted drwx------: others could read what is "
            f"made in it. Run `chmod 700 {root}` after a look at its contents, or choose another place. "
            f"{_CHOOSE}"
        )
    return root


_CHOOSE = "Set BEAMLET_TMPDIR to a directory that you own."


def _instead(error: OSError) -> str:
    """What to do about what could not be made."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Make room there, or set BEAMLET_TMPDIR to a directory of yours on another disk."
    return _CHOOSE


# -- finding sessions ----------------------------------------------------------------------------


def sessions(root: Path) -> list[SessionDirectory]:
    """All sessions under ``root``, dead ones too, newest first."""
    try:
        names = [entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    # The names begin with the time, so their order is that of creation.
    return [SessionDirectory(root / n) for n in sorted(names, reverse=True) if n.startswith(_PREFIX)]


def find_running(root: Path) -> list[SessionDirectory]:
    """Sessions whose head is alive, newest first."""
    return [session for session in sessions(root) if session.is_alive()]


def publish_current(session: SessionDirectory) -> None:
    """Make ``session`` the one that ``init("auto")`` finds."""
    _write_private(session.path.parent / _CURRENT, session.path.name)


def find_current(root: Path) -> SessionDirectory | None:
    """The published session, if its head is alive."""
    try:
        name = (root / _CURRENT).read_text().strip()
    except (OSError, ValueError):  # it is not there, or no text
        return None
    if not name.startswith(_PREFIX) or "/" in name or "\0" in name:
        return None
    session = SessionDirectory(root / name)
    return session if session.is_alive() else None


def sweep_dead(root: Path, keep: int = 10, max_age_days: float = 7) -> list[Path]:
    """Disarm all dead sessions; remove their logs beyond the ``keep`` newest or older than ``max_age_days``.

    Returns the directories removed. Left alone: whatever is not surely dead, such as sessions of other hosts.
    Repeat-safe, also by several processes at once.
    """
    removed: list[Path] = []
    now, kept = time.time(), 0
    _sweep_halves(root, now)
    for session in sessions(root):
        age_s = _age_s(session.path, now)
        if age_s is None or not session.is_surely_dead():
            continue
        if session.is_armed:
            # Nobody cleaned up: whoever could have was killed too, and may have left processes.
            sweep(session.marker)
        session.disarm()
        if kept < keep and age_s <= max_age_days * _DAY_S:
            kept += 1
            continue
        session.remove()
        removed.append(session.path)
    if (root / _CURRENT).exists() and find_current(root) is None:
        (root / _CURRENT).unlink(missing_ok=True)
    return removed


def _sweep_halves(root: Path, now: float) -> None:
    """What a process that was killed meanwhile had half made, or half removed."""
    try:
        names = [entry.name for entry in os.scandir(root)]
    except FileNotFoundError:
        return
    for name in names:
        age_s = _age_s(root / name, now)
        if name.startswith(_REMOVING) or (
            name.startswith(_MAKING)
            and age_s is not None
            and age_s > _BEING_MADE_S
            and holders(root / name / "lock") is not Holders.SOME
        ):
            _remove_tree(root / name)


def _age_s(path: Path, now: float) -> float | None:
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:  # another process swept it
        return None


# -- processes and files -------------------------------------------------------------------------


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks after boot; 0 where that cannot be known (no /proc, or gone)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as found:
            fields = found.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def boot_id() -> str:
    """Names this boot of this machine; "" where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _runs(pid: int, ticks: int) -> bool:
    if ticks:
        return start_ticks(pid) == ticks
    try:  # no /proc when it was written: the pid is all there is
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_there(path: Path) -> bool:
    """Raises OSError where that cannot be seen: ``Path.exists`` does in some versions, and lies in others."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _make_private(directory: Path) -> None:
    """Raises FileExistsError. Never open to others, and open to us under any umask."""
    directory.mkdir(mode=0o700)
    directory.chmod(0o700)


def _remove_tree(directory: Path) -> None:
    import shutil  # with its archive formats some milliseconds, which no start should pay

    shutil.rmtree(directory, ignore_errors=True)


def _write_private(path: Path, text: str) -> None:
    """Whole or not at all, and 0600 from the first byte, whatever the umask allows."""
    draft = _draft_of(path)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)  # a umask may have taken our own bits away
        with os.fdopen(fd, "w") as file:
            file.write(text)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _replace_link(link: Path, target: str) -> None:
    draft = _draft_of(link)
    os.symlink(target, draft)
    os.replace(draft, link)


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}")
