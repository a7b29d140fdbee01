"""Whether a session lives, as the kernel knows it: a lock on a file, free as soon as nobody holds it.

flock() belongs to an open file, not to a process: the one who makes the session takes it, the head inherits
it and the factory inherits it from the head.  Whatever kills them, the kernel frees it with the last of them;
containers that see none of each other's processes agree on it, and no pid that was given away again misleads.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

#: A file system that has no locks (some network ones).
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


_TRY_AGAIN_S = 0.02


class Holders(enum.Enum):
    SOME = "some"
    NONE = "none"
    #: There is no lock file, or no lock to be had: nothing is proven.
    UNKNOWN = "unknown"


class SessionLock:
    """A share in a session's life. Lost with this object, if nobody else inherited it."""

    def __init__(self, fd: int) -> None:
        """``fd``: an open lock file, locked. Ours from now on."""
        self.fd = fd

    @classmethod
    def take(cls, path: Path) -> SessionLock | None:
        """Make the lock file and hold it; None where the file system has no locks."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # waits only for those who ask, which takes them microseconds
        except OSError as error:
            os.close(fd)
            os.unlink(path)
            if error.errno in _NO_LOCKS:
                return None
            raise
        return cls(fd)

    def is_at(self, path: Path) -> bool:
        """Whether ``path`` still is the file that we hold."""
        return _is_at(self.fd, path)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()


def holders(path: Path) -> Holders:
    """Whether anyone holds the lock. Many may ask at once; asking disturbs no holder."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return Holders.UNKNOWN
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Holders.SOME
    except OSError:
        return Holders.UNKNOWN
    finally:
        os.close(fd)
    return Holders.NONE


@contextlib.contextmanager
def one_at_a_time(path: Path, within_s: float) -> Iterator[int]:
    """Of all who do this with the same lock file. Where the file system has no locks: at once.

    Gives the descriptor of the lock: who inherits it shares in the turn. Raises TimeoutError if it is not our
    turn in time.
    """
    deadline = time.monotonic() + within_s
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _await_lock(fd, path, deadline)
            # Removed before it was ours, by a cleaner of temporary files, it keeps nobody out.
            if _is_at(fd, path) or time.monotonic() > deadline:
                with contextlib.suppress(OSError):
                    os.utime(fd)  # no prey for who removes what is old, as long as it is held
                yield fd
                return
        finally:
            os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except OSError:
        return False


def _await_lock(fd: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process has held {path} all the time") from None
            time.sleep(_TRY_AGAIN_S)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            raise
