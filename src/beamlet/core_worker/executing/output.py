"""A worker's stdout and stderr: whole lines into the raylet's pipes, and the knowledge that some were said.

``Output.printed`` tells the executor that a task said something, so that its answer is held until the driver
has shown it.  Before the first line under a new name goes a control line (protocol/output.py), which the
raylet's output router takes out again.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable

from beamlet.protocol.output import control_line

#: A line longer than this is passed on in pieces.
_LINE_MAX_BYTES = 1 << 16
_NAMES = {1: "<stdout>", 2: "<stderr>"}
#: What ``TextIOWrapper.reconfigure`` takes.
_RECONFIGURABLE = {"encoding", "errors", "newline", "line_buffering", "write_through"}


class Output:
    """Both streams of this process. ``speaker()``: the name the next line stands under."""

    def __init__(self, speaker: Callable[[], str]) -> None:
        self.printed = False
        self._speaker = speaker
        self.stdout = _Stream(self, 1)
        self.stderr = _Stream(self, 2)

    def install(self) -> None:
        sys.stdout = self.stdout
        sys.stderr = self.stderr
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        """In a child that a task forked: another thread may have been in the middle of printing."""
        self.stdout.begin_anew()
        self.stderr.begin_anew()

    def flush(self) -> None:
        self.stdout.flush()
        self.stderr.flush()

    def take_printed(self) -> bool:
        """Whether anything was written since the last call; what is buffered goes out."""
        if not self.printed:
            return False
        self.flush()
        self.printed = False
        return True

    def announce(self) -> None:
        """From now on text stands under the speaker's name, also what C code and child processes write."""
        self.stdout.announce()
        self.stderr.announce()

    def forget_names(self) -> None:
        """The raylet was told a name by other means: the next line says its own again."""
        self.stdout.announced = self.stderr.announced = None

    def speaker(self) -> str:
        return self._speaker()


class _Stream(io.TextIOBase):
    """Line-buffered text on a descriptor."""

    def __init__(self, output: Output, fd: int) -> None:
        super().__init__()
        self._output = output
        self._fd = fd
        self._lock = threading.RLock()
        self._pending = b""
        #: The name that the raylet knows from this stream.
        self.announced: str | None = None
        self.buffer = _Bytes(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    @property
    def line_buffering(self) -> bool:
        return True

    @property
    def name(self) -> str:
        return _NAMES[self._fd]

    @property
    def mode(self) -> str:
        return "w"

    def reconfigure(self, **options: object) -> None:
        """Programs ask for UTF-8 or for whole lines, as of any ``sys.stdout``: they have both here."""
        unknown = options.keys() - _RECONFIGURABLE
        if unknown:
            raise TypeError(f"{unknown.pop()!r} is an invalid keyword argument for reconfigure()")

    def __reduce__(self) -> tuple[object, ...]:
        """As cloudpickle does with a plain ``sys.stdout``: where it arrives it is that process's own."""
        return _standard_stream, (_NAMES[self._fd],)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, text: str) -> int:
        self.write_bytes(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def write_bytes(self, data: bytes) -> None:
        with self._lock:
            self._output.printed = True
            self._pending += data
            if b"\n" in data or len(self._pending) > _LINE_MAX_BYTES:
                whole, newline, rest = self._pending.rpartition(b"\n")
                if not newline:
                    whole, rest = rest, b""
                self._pending = rest
                self._emit(whole + newline)

    def begin_anew(self) -> None:
        """What is not written yet is the parent's to write."""
        self._lock = threading.RLock()
        self._pending = b""

    def flush(self) -> None:
        with self._lock:
            if self._pending:
                pending, self._pending = self._pending, b""
                self._emit(pending)

    def announce(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, b""
            self._emit(pending)

    def _emit(self, data: bytes) -> None:
        speaker = self._output.speaker()
        if speaker != self.announced:
            self.announced = speaker
            data = control_line(speaker) + data
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


def _standard_stream(name: str) -> object:
    return sys.stdout if name == "<stdout>" else sys.stderr


class _Bytes(io.RawIOBase):
    """``sys.stdout.buffer``."""

    def __init__(self, stream: _Stream) -> None:
        super().__init__()
        self._stream = stream

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, data: object) -> int:
        raw = bytes(data)  # type: ignore[call-overload]
        self._stream.write_bytes(raw)
        return len(raw)

    def flush(self) -> None:
        self._stream.flush()
