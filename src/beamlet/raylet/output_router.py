"""Turns what workers write to stdout and stderr into whole, named lines, none lost. ●

Chunks come in as they were read from the pipes.  A *control line* (byte 0x1e, then a name) says under which
name the following lines of that stream stand; it is shown to nobody.  An unfinished line is kept until its
newline comes, or until its task or its process ends.  Lines longer than ``LINE_BYTES`` are cut.

A worker whose task has printed sends a mark with its own token; after the shell has drained the pipes the
router passes the mark on to the driver behind the last line, and answers Delivered when the driver has
printed it, or at once when no driver listens.  Where lines go (driver, log files) is the shell's business.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct, field

from beamlet.base.ids import JobId, WorkerId

#: A control line starts with it: ASCII's record separator, which no text contains by accident.
CONTROL = b"\x1e"
LINE_BYTES = 64 * 1024
#: Lines of stderr kept for the death certificate, and the most that is kept of each.
LAST_WORDS = 20
_LAST_WORD_BYTES = 1000


class Show(Struct, frozen=True):
    """Whole lines for the driver of ``job``. ``token`` ≠ 0: it answers when it has printed them."""

    job: JobId
    name: str
    pid: int
    is_stderr: bool
    data: bytes
    token: int = 0


class Record(Struct, frozen=True):
    """Whole lines for the worker's log file."""

    worker: WorkerId
    is_stderr: bool
    data: bytes


class Delivered(Struct, frozen=True):
    worker: WorkerId
    token: int


Effect = Show | Record | Delivered


class _Stream(Struct):
    name: str = ""
    rest: bytearray = field(default_factory=bytearray)


class _Worker(Struct):
    pid: int
    job: JobId | None = None
    streams: tuple[_Stream, _Stream] = field(default_factory=lambda: (_Stream(), _Stream()))
    last_words: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_WORDS))


class OutputRouter:
    """The output streams of one node's workers."""

    def __init__(self) -> None:
        self._workers: dict[WorkerId, _Worker] = {}
        #: Jobs whose driver wants to see its workers' output.
        self._listening: set[JobId] = set()
        #: Marks on their way: our token → (worker, its token, job).
        self._marks: dict[int, tuple[WorkerId, int, JobId]] = {}
        self._last_token = 0

    def add(self, worker: WorkerId) -> None:
        self._workers[worker] = _Worker(pid=0)

    def started(self, worker: WorkerId, pid: int) -> None:
        if worker in self._workers:
            self._workers[worker].pid = pid

    def assign(self, worker: WorkerId, job: JobId) -> None:
        self._workers[worker].job = job

    def listen(self, job: JobId) -> None:
        self._listening.add(job)

    def driver_gone(self, job: JobId) -> list[Effect]:
        """Nobody will confirm its marks any more, and nobody needs to."""
        self._listening.discard(job)
        lost = [token for token, (_, _, of) in self._marks.items() if of == job]
        return [self._delivered(token) for token in lost]

    def feed(self, worker: WorkerId, is_stderr: bool, chunk: bytes) -> list[Effect]:
        """What one read from a pipe brought."""
        state = self._workers[worker]
        stream = state.streams[is_stderr]
        stream.rest += chunk
        end = stream.rest.rfind(b"\n") + 1
        whole = bytes(stream.rest[:end])
        del stream.rest[:end]
        effects = self._lines(worker, is_stderr, whole) if whole else []
        if len(stream.rest) > LINE_BYTES:
            effects += self._end_line(worker, is_stderr)
        return effects

    def mark(self, worker: WorkerId, token: int) -> list[Effect]:
        """The worker's task is over and its pipes are drained: pass on that all it printed must be shown."""
        state = self._workers.get(worker)
        if state is None:
            return []
        effects = self._end_line(worker, False) + self._end_line(worker, True)
        if state.job is None or state.job not in self._listening:
            return [*effects, Delivered(worker, token)]
        self._last_token += 1
        self._marks[self._last_token] = (worker, token, state.job)
        return [*effects, Show(state.job, "", state.pid, False, b"", self._last_token)]

    def printed(self, token: int) -> list[Effect]:
        """The driver has shown everything up to this mark."""
        return [self._delivered(token)] if token in self._marks else []

    def ended(self, worker: WorkerId) -> list[Effect]:
        """Both pipes are closed or given up: what is left of a line is a line."""
        if worker not in self._workers:
            return []
        return self._end_line(worker, False) + self._end_line(worker, True)

    def forget(self, worker: WorkerId) -> tuple[str, ...]:
        """The worker is gone; returns its last words."""
        state = self._workers.pop(worker, None)
        for token in [token for token, (of, _, _) in self._marks.items() if of == worker]:
            del self._marks[token]
        return tuple(state.last_words) if state else ()

    # ---- private ----

    def _delivered(self, token: int) -> Delivered:
        worker, its_token, _ = self._marks.pop(token)
        return Delivered(worker, its_token)

    def _end_line(self, worker: WorkerId, is_stderr: bool) -> list[Effect]:
        """Show the unfinished line, if there is one; half a control line is no line."""
        rest = self._workers[worker].streams[is_stderr].rest
        if not rest:
            return []
        whole = bytes(rest) + b"\n"
        rest.clear()
        return self._lines(worker, is_stderr, whole)

    def _lines(self, worker: WorkerId, is_stderr: bool, whole: bytes) -> list[Effect]:
        """``whole`` ends with a newline. One effect per run of lines under one name."""
        stream = self._workers[worker].streams[is_stderr]
        if CONTROL not in whole:
            return self._emit(worker, is_stderr, whole)
        effects: list[Effect] = []
        plain = bytearray()
        for line in _split(whole):
            if not line.startswith(CONTROL):
                plain += line
                continue
            effects += self._emit(worker, is_stderr, bytes(plain))
            plain.clear()
            stream.name = line[1:].rstrip(b"\n").decode("utf-8", "replace")
            if is_stderr:
                # A worker's last words are those of what it was busy with, not of its earlier tasks.
                self._workers[worker].last_words.clear()
        return effects + self._emit(worker, is_stderr, bytes(plain))

    def _emit(self, worker: WorkerId, is_stderr: bool, lines: bytes) -> list[Effect]:
        if not lines:
            return []
        state = self._workers[worker]
        if len(lines) > LINE_BYTES:
            lines = _cut(lines)
        if is_stderr:
            self._remember(state, lines)
        effects: list[Effect] = [Record(worker, is_stderr, lines)]
        if state.job is not None and state.job in self._listening:
            effects.append(Show(state.job, state.streams[is_stderr].name, state.pid, is_stderr, lines))
        return effects

    def _remember(self, state: _Worker, lines: bytes) -> None:
        for line in lines.rsplit(b"\n", LAST_WORDS + 1)[-LAST_WORDS - 1 :]:
            if line.strip():
                state.last_words.append(line[-_LAST_WORD_BYTES:].decode("utf-8", "replace"))


def _split(whole: bytes) -> list[bytes]:
    """At newlines only: a carriage return is part of a progress bar's line."""
    return [line + b"\n" for line in whole[:-1].split(b"\n")]


def _cut(lines: bytes) -> bytes:
    """No line longer than LINE_BYTES."""
    pieces = []
    for line in _split(lines):
        while len(line) > LINE_BYTES + 1:
            pieces.append(line[:LINE_BYTES] + b"\n")
            line = line[LINE_BYTES:]
        pieces.append(line)
    return b"".join(pieces)
