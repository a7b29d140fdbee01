"""Log files, written by a thread of their own: the loop that calls never waits for a disk.

    loop ──write()──▶ queue, at most QUEUE_BYTES ──▶ thread ──open, write──▶ disk

The thread holds no lock and touches nothing of the loop's.  A disk that stands still fills the queue, then
what does not fit is dropped; a disk that is full loses what is written to it.  Both are counted, noted in the
file as soon as it can be written again, and said once per trouble through ``on_trouble``.  So it is while the
system has no thread for us.  A cluster may outlive any number of processes: of their logs the oldest go.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

#: How far the disk may lag behind.
QUEUE_BYTES = 16 * 1024 * 1024
#: A file is not continued beyond this.
LOG_BYTES = 128 * 1024 * 1024
#: Of files that were closed, the newest are kept: so many, and of so many bytes.
ENDED_FILES = 10_000
ENDED_BYTES = 4 << 30
#: The same trouble is said again after this at the earliest.
_SAY_AGAIN_S = 60.0


class LogFile:
    """One file, made at its first write. Used by one thread, as the writer is."""

    def __init__(
        self, writer: LogWriter, path: Path, limit_bytes: int, stands_for: tuple[int, ...] = ()
    ) -> None:
        """``stands_for``: descriptors that are to be this file, too."""
        self.path = path
        self._writer = writer
        self._limit_bytes = limit_bytes
        self._stands_for = stands_for
        #: Bytes that found no room in the queue and are not noted yet. The caller's.
        self._dropped = 0
        # The thread's:
        self._fd = -1
        self._size = 0
        self._lost = 0

    def write(self, data: bytes) -> None:
        """Queue it; never waits, never raises."""
        if not self._writer.has_room:
            self._dropped += len(data)
            self._writer.note_drop(len(data))
            return
        if self._dropped:
            data = f"[beamlet: {self._dropped} bytes are missing here, the disk was slow]\n".encode() + data
            self._dropped = 0
        self._writer.put(self, data)

    def close(self) -> None:
        """After what is queued. Idempotent."""
        self._writer.put(self, None)

    def end_writer(self) -> None:
        self._writer.close()

    # ---- in the thread ----

    def append(self, data: bytes) -> None:
        """Raises OSError; what is lost by it is noted in front of what is written next."""
        if self._size >= self._limit_bytes:
            return
        if self._lost:
            note = f"[beamlet: {self._lost} bytes are missing here, they could not be written]\n"
            data = note.encode() + data
        try:
            self._open()
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            self._lost += len(data)
            self.shut()
            raise
        self._lost = 0
        self._size += len(data)
        if self._size >= self._limit_bytes:
            note = f"[beamlet: this log ends here, it reached {self._limit_bytes >> 20} MiB]\n"
            os.write(self._fd, note.encode())
            self.shut()

    def _open(self) -> None:
        """Also anew: what goes into a file that somebody has removed, nobody reads."""
        if self._is_open_here():
            return
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            if self._fd < 0:
                raise
            return  # its directory went too: until that is made again (SessionKeeper) there is no other
        if self._fd >= 0:
            self.shut()
            self._size = 0
        self._fd = fd
        for number in self._stands_for:
            os.dup2(fd, number)

    def _is_open_here(self) -> bool:
        if self._fd < 0:
            return False
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        except OSError:
            return False

    def shut(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def written_bytes(self) -> int:
        return self._size


class LogWriter:
    """``on_trouble(text)``: what to tell people; called in any thread."""

    def __init__(
        self,
        directory: Path,
        on_trouble: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.directory = directory
        self.on_trouble = on_trouble
        self._clock = clock
        self._queue: queue.SimpleQueue[tuple[LogFile, bytes | None] | None] = queue.SimpleQueue()
        #: Bytes queued and written so far. Each has one writer, so neither needs a lock.
        self._accepted = 0
        self._written = 0
        self._dropped = 0
        self._is_dropping = False
        self._disk_said_at = -_SAY_AGAIN_S
        self._thread: threading.Thread | None = None
        # The thread's: files that were closed, oldest first, and what they take.
        self._ended: deque[tuple[Path, int]] = deque()
        self._ended_bytes = 0

    def open(self, name: str, limit_bytes: int = LOG_BYTES, stands_for: tuple[int, ...] = ()) -> LogFile:
        return LogFile(self, self.directory / name, limit_bytes, stands_for)

    @property
    def has_room(self) -> bool:
        """Whether something can be queued, and will be written."""
        return self._accepted - self._written < QUEUE_BYTES and self._runs()

    def note_drop(self, size: int) -> None:
        self._dropped += size
        if not self._is_dropping:
            self._is_dropping = True
            why = f"the disk of {self.directory} does not take logs as fast as they are written"
            if self._thread is None:
                why = (
                    f"logs cannot be written to {self.directory}: the system has no thread for it (ulimit -u)"
                )
            self.on_trouble(
                f"{why}: some are dropped from the files ({self._dropped} bytes so far); what drivers are "
                "shown is whole"
            )

    def put(self, file: LogFile, data: bytes | None) -> None:
        """None: the end of it. The rest is for who found that it ``has_room``."""
        if data is not None:
            self._is_dropping = False
            self._accepted += len(data)
        self._queue.put((file, data))

    def _runs(self) -> bool:
        """Whether the thread does. First needed to write something: a fork before that copies no thread."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="beamlet-logs", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # there are too many: perhaps not when the next line comes
                return False
            self._thread = thread
        return True

    def close(self, seconds: float = 1.0) -> None:
        """Wait for the disk to take what is queued, but not longer than that. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join(seconds)

    # ---- in the thread ----

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            file, data = item
            if data is None:
                file.shut()
                self._forget_oldest(file)
                continue
            try:
                file.append(data)
            except OSError as error:
                self._disk_failed(file, error)
            self._written += len(data)

    def _forget_oldest(self, ended: LogFile) -> None:
        self._ended.append((ended.path, ended.written_bytes))
        self._ended_bytes += ended.written_bytes
        while len(self._ended) > ENDED_FILES or self._ended_bytes > ENDED_BYTES:
            path, size = self._ended.popleft()
            self._ended_bytes -= size
            with contextlib.suppress(OSError):  # somebody removed it before us
                path.unlink()

    def _disk_failed(self, file: LogFile, error: OSError) -> None:
        now = self._clock()
        if now - self._disk_said_at >= _SAY_AGAIN_S:
            self._disk_said_at = now
            self.on_trouble(
                f"logs cannot be written ({file.path}: {error.strerror}); the cluster goes on without them, "
                "and drivers are shown everything"
            )


class LogStream(io.TextIOBase):
    """``sys.stderr`` of a process whose log is such a file."""

    def __init__(self, file: LogFile) -> None:
        super().__init__()
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._file.write(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def end(self) -> None:
        """Give the thread a moment for what is queued; afterwards stderr is the file itself again."""
        self._file.end_writer()
        sys.stderr = sys.__stderr__

    def fileno(self) -> int:
        """For those who need one (faulthandler): the file itself, past the queue."""
        return 2
