"""Turns what workers write to stdout and stderr into named lines, none lost. ●

Chunks come in as they were read from the pipes.  A name for the text that follows comes in two ways: with a
control line in the pipe (protocol/output.py), which is shown to nobody, or with the worker's word that it
begins a task of that name, for what C code and child processes write.  Text goes on in whole lines.  A line
that is unfinished for ``PARTIAL_S``, or longer than ``PIECE_BYTES``, goes on in pieces, so that a progress
bar moves; it is ended, if it did not end itself, when the name changes or its task or process ends.

A worker whose task has printed sends a mark with its own token; after the shell has drained the pipes the
router passes the mark on to the driver behind the last line, and answers Delivered when the driver has
printed it, or at once when no driver listens.  A driver that has not printed for ``SHOWN_WITHIN_S`` (nobody
reads its output, say) is not waited for, until it has caught up.  Where lines go (driver, log files) is the
shell's business.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct, field

from beamlet.base.ids import JobId, WorkerId
from beamlet.protocol.output import CONTROL
from beamlet.raylet.crash_report import CrashReport

#: An unfinished line is shown after this.
PARTIAL_S = 0.1
PIECE_BYTES = 64 * 1024
#: How long the results of tasks wait for the driver to show what these printed.
SHOWN_WITHIN_S = 2.0
#: Lines of stderr kept for the death certificate, and the most that is kept of each.
LAST_WORDS = 20
_LAST_WORD_BYTES = 1000


class Show(Struct, frozen=True):
    """Text for the driver of ``job``: whole lines, or a piece of one, which has no newline at its end.

    ``token`` ≠ 0: it answers when it has printed them.
    """

    job: JobId
    name: str
    pid: int
    is_stderr: bool
    data: bytes
    token: int = 0


class Record(Struct, frozen=True):
    """Text for the worker's log file."""

    worker: WorkerId
    is_stderr: bool
    data: bytes


class Delivered(Struct, frozen=True):
    worker: WorkerId
    token: int


Effect = Show | Record | Delivered


class _Mark(Struct):
    """On its way to the driver of ``job``, and back."""

    worker: WorkerId
    its_token: int
    job: JobId
    due: float


class _Stream(Struct):
    name: str = ""
    #: Read and not passed on.
    rest: bytearray = field(default_factory=bytearray)
    #: The end of the line that has been passed on in pieces and is not ended; None: there is none.
    begun: bytes | None = None


class _Worker(Struct):
    pid: int
    job: JobId | None = None
    streams: tuple[_Stream, _Stream] = field(default_factory=lambda: (_Stream(), _Stream()))
    last_words: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_WORDS))
    crash: CrashReport = field(default_factory=CrashReport)


class OutputRouter:
    """The output streams of one node's workers."""

    def __init__(self) -> None:
        self._workers: dict[WorkerId, _Worker] = {}
        #: Jobs whose driver wants to see its workers' output.
        self._listening: set[JobId] = set()
        #: Marks on their way, oldest first, by our token.
        self._marks: dict[int, _Mark] = {}
        self._last_token = 0
        #: Whose driver is not waited for → the newest mark that went there: when it is back, it is again.
        self._behind: dict[JobId, int] = {}
        #: When an unfinished line is to be shown as it is.
        self._due: dict[tuple[WorkerId, bool], float] = {}

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
        self._behind.pop(job, None)
        return self._all_delivered(job)

    def described(self, worker: WorkerId, name: str) -> list[Effect]:
        """It begins a task of that name."""
        state = self._workers.get(worker)
        if state is None:
            return []
        effects = self.ended(worker)
        for stream in state.streams:
            stream.name = name
        state.last_words.clear()
        return effects

    def feed(self, worker: WorkerId, is_stderr: bool, chunk: bytes, now: float) -> list[Effect]:
        """What one read from a pipe brought."""
        stream = self._workers[worker].streams[is_stderr]
        stream.rest += chunk
        effects = self._obey(worker, is_stderr) if CONTROL in stream.rest else []
        end = stream.rest.rfind(b"\n") + 1
        if end and CONTROL not in stream.rest:
            effects += self._pass_on(worker, is_stderr, end)
        if len(stream.rest) > PIECE_BYTES:
            effects += self._piece(worker, is_stderr)
        if stream.rest:
            self._due.setdefault((worker, is_stderr), now + PARTIAL_S)
        return effects

    def tick(self, now: float) -> list[Effect]:
        """Show the lines that are unfinished for too long."""
        effects: list[Effect] = []
        for worker, is_stderr in [key for key, when in self._due.items() if when <= now]:
            del self._due[worker, is_stderr]
            effects += self._piece(worker, is_stderr)
        while (oldest := next(iter(self._marks.values()), None)) is not None and oldest.due <= now:
            self._behind[oldest.job] = self._newest_of(oldest.job)
            effects += self._all_delivered(oldest.job)
        return effects

    def next_wake(self) -> float | None:
        oldest = next(iter(self._marks.values()), None)
        return min([*self._due.values(), *([oldest.due] if oldest is not None else [])], default=None)

    def mark(self, worker: WorkerId, token: int, now: float) -> list[Effect]:
        """The worker's task is over and its pipes are drained: pass on that all it printed must be shown."""
        state = self._workers.get(worker)
        if state is None:
            return []
        effects = self._end_line(worker, False) + self._end_line(worker, True)
        if state.job is None or state.job not in self._listening:
            return [*effects, Delivered(worker, token)]
        self._last_token += 1
        effects.append(Show(state.job, "", state.pid, False, b"", self._last_token))
        if state.job in self._behind:
            self._behind[state.job] = self._last_token
            return [*effects, Delivered(worker, token)]
        self._marks[self._last_token] = _Mark(worker, token, state.job, now + SHOWN_WITHIN_S)
        return effects

    def waits_for_driver(self, worker: WorkerId) -> bool:
        """Whether what it has printed is to be shown before its answers go; not if the driver is behind."""
        state = self._workers.get(worker)
        return (
            state is not None
            and state.job is not None
            and state.job in self._listening
            and state.job not in self._behind
        )

    def mark_unread(self, worker: WorkerId, token: int) -> list[Effect]:
        """Its driver has so much to read that the worker's pipes were left as they are: it is behind."""
        if not self.waits_for_driver(worker):
            return [Delivered(worker, token)]
        state = self._workers[worker]
        assert state.job is not None
        self._last_token += 1
        self._behind[state.job] = self._last_token
        asked = Show(state.job, "", state.pid, False, b"", self._last_token)
        return [asked, *self._all_delivered(state.job), Delivered(worker, token)]

    def printed(self, token: int) -> list[Effect]:
        """The driver has shown everything up to this mark."""
        for job, newest in self._behind.items():
            if newest == token:
                del self._behind[job]
                return []
        return [self._delivered(token)] if token in self._marks else []

    def ended(self, worker: WorkerId) -> list[Effect]:
        """Nothing more comes, or nothing of this task: what is left of a line is a line."""
        if worker not in self._workers:
            return []
        return self._end_line(worker, False) + self._end_line(worker, True)

    def forget(self, worker: WorkerId) -> tuple[str, ...]:
        """The worker is gone; returns its last words."""
        state = self._workers.pop(worker, None)
        for is_stderr in (False, True):
            self._due.pop((worker, is_stderr), None)
        for token in [token for token, mark in self._marks.items() if mark.worker == worker]:
            del self._marks[token]
        return tuple(state.last_words) if state else ()

    # ---- private ----

    def _delivered(self, token: int) -> Delivered:
        mark = self._marks.pop(token)
        return Delivered(mark.worker, mark.its_token)

    def _all_delivered(self, job: JobId) -> list[Effect]:
        waiting = [token for token, mark in self._marks.items() if mark.job == job]
        return [self._delivered(token) for token in waiting]

    def _newest_of(self, job: JobId) -> int:
        return max(token for token, mark in self._marks.items() if mark.job == job)

    def _obey(self, worker: WorkerId, is_stderr: bool) -> list[Effect]:
        """Take out the control lines that are complete, and pass on what stands before them."""
        state = self._workers[worker]
        stream = state.streams[is_stderr]
        effects: list[Effect] = []
        while (at := stream.rest.find(CONTROL)) >= 0:
            end = stream.rest.find(b"\n", at)
            if end < 0:
                break
            name = stream.rest[at + len(CONTROL) : end].decode("utf-8", "replace")
            if at:
                effects += self._pass_on(worker, is_stderr, at)
            if name != stream.name:
                if stream.begun is not None:
                    effects += self._emit(worker, is_stderr, b"\n")
                if is_stderr:
                    # A worker's last words are those of what it was busy with, not of its earlier tasks.
                    state.last_words.clear()
            stream.name = name
            del stream.rest[: end + 1 - at]
        return effects

    def _end_line(self, worker: WorkerId, is_stderr: bool) -> list[Effect]:
        """End the unfinished line, if there is one; half a control line is no line."""
        stream = self._workers[worker].streams[is_stderr]
        if (at := stream.rest.find(CONTROL)) >= 0:
            del stream.rest[at:]
        if not stream.rest and stream.begun is None:
            return []
        stream.rest += b"\n"
        return self._pass_on(worker, is_stderr, len(stream.rest))

    def _piece(self, worker: WorkerId, is_stderr: bool) -> list[Effect]:
        """Pass on the beginning of a line, but no half of a character or of a control line."""
        rest = self._workers[worker].streams[is_stderr].rest
        size = rest.find(CONTROL)
        if size < 0:
            size = _before_half(CONTROL, rest)
        elif not size and len(rest) > PIECE_BYTES:
            size = len(rest)  # no name is that long: somebody printed what looks like one
        return self._pass_on(worker, is_stderr, whole_characters(rest[:size]))

    def _pass_on(self, worker: WorkerId, is_stderr: bool, size: int) -> list[Effect]:
        rest = self._workers[worker].streams[is_stderr].rest
        data = bytes(rest[:size])
        del rest[:size]
        if not rest:
            self._due.pop((worker, is_stderr), None)
        return self._emit(worker, is_stderr, data)

    def _emit(self, worker: WorkerId, is_stderr: bool, data: bytes) -> list[Effect]:
        if not data:
            return []
        state = self._workers[worker]
        stream = state.streams[is_stderr]
        whole, newline, begun = ((stream.begun or b"") + data).rpartition(b"\n")
        stream.begun = begun[-_LAST_WORD_BYTES:] if begun or not newline else None
        seen = data if newline else _last_turn(data)
        if is_stderr and newline:
            seen = state.crash.lines(data)
            self._remember(state, whole if seen == data else seen.removesuffix(b"\n"))
        effects: list[Effect] = [Record(worker, is_stderr, data)]
        if seen and state.job is not None and state.job in self._listening:
            effects.append(Show(state.job, stream.name, state.pid, is_stderr, seen))
        return effects

    def _remember(self, state: _Worker, lines: bytes) -> None:
        for line in lines.rsplit(b"\n", LAST_WORDS)[-LAST_WORDS:]:
            word = _last_turn(line).strip(b"\r")[-_LAST_WORD_BYTES:].decode("utf-8", "replace")
            if word.strip():
                state.last_words.append(word)


def _before_half(mark: bytes, data: bytearray) -> int:
    """How much of ``data`` certainly stands before ``mark``, the beginning of which may be its end."""
    for size in range(min(len(mark) - 1, len(data)), 0, -1):
        if data.endswith(mark[:size]):
            return len(data) - size
    return len(data)


def whole_characters(data: bytes | bytearray) -> int:
    """How much of ``data`` can be shown without cutting a UTF-8 character."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:  # not a continuation: a character begins here
            length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return len(data) - back if length > back else len(data)
    return len(data)


def _last_turn(data: bytes) -> bytes:
    """What a carriage return overwrites need not be shown."""
    return data[max(data.rstrip(b"\r").rfind(b"\r"), 0) :]
