"""Reads what workers print from their pipes; passes it to log files and drivers.

The pipes are this process's from the fork on, so nothing a worker wrote is lost with it: what is in them when
it dies is read before its death is announced.  What lines are is output_router.py's business.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct, field

from beamlet.base.ids import JobId, WorkerId
from beamlet.protocol.node import Notice, OutputDelivered, OutputLines
from beamlet.raylet.members import Members
from beamlet.raylet.output_router import SHOWN_WITHIN_S, Delivered, OutputRouter, Record, Show
from beamlet.raylet.performer import Performer
from beamlet.rpc.alarm import Alarm, Clock

_READ_BYTES = 64 * 1024
#: Reads from one pipe before others get their turn.
_READS_AT_ONCE = 8
#: When a driver lags this far behind, its workers' pipes are left unread: printing then waits for reading.
_DRIVER_BACKLOG_BYTES = 32 * 1024 * 1024
#: What dying workers leave in their pipes is read all the same. Above this it goes to the log files only: a
#: driver that is stopped must not be cut off for what others print.
_DRIVER_MOST_BYTES = 128 * 1024 * 1024
_PAUSE_S = 0.02
_CUT_SHORT = (
    f"this program had not read {_DRIVER_MOST_BYTES >> 20} MiB of its workers' output (was it stopped?): "
    "what workers printed before they ended is, from here on and until it has read, in the session's log "
    "files only"
)


class Log(Protocol):
    """One stream's file; writing never waits and never raises."""

    def write(self, data: bytes, /) -> None: ...
    def close(self) -> None: ...


class Logs(Protocol):
    """Where log files are made: processes/log_writer.py."""

    def open(self, name: str, /) -> Log: ...


class OutputLoop(Clock, Protocol):
    """What is used of the reactor."""

    def add_reader(self, fd: int, on_readable: Callable[[], None], /) -> None: ...
    def remove_reader(self, fd: int, /) -> None: ...


class _Pipes(Struct):
    #: Read ends of stdout and stderr, -1 once closed.
    fds: list[int]
    pid: int = 0
    job: JobId | None = None
    logs: list[Log | None] = field(default_factory=lambda: [None, None])


class _LateMark(Struct, frozen=True):
    """Of a worker whose driver lags: pipes are not drained for it, or the driver would lag without end."""

    worker: WorkerId
    token: int
    until: float


class OutputService:
    """``on_drained(worker)``: both of its pipes have come to their end."""

    def __init__(
        self,
        logs: Logs,
        members: Members,
        performer: Performer,
        loop: OutputLoop,
        on_drained: Callable[[WorkerId], None],
    ) -> None:
        self._logs = logs
        self._members = members
        self._performer = performer
        self._loop = loop
        self._on_drained = on_drained
        self._pipes: dict[WorkerId, _Pipes] = {}
        #: Marks that wait for a driver to read.
        self._late: list[_LateMark] = []
        #: Whose driver was told that more goes to the log files only.
        self._cut_short: set[JobId] = set()
        self.router = OutputRouter()
        self._alarm = Alarm(loop, self._show_unfinished)
        self._late_alarm = Alarm(loop, self._mark_again)
        performer.on(Record, self._record)
        performer.on(Show, self._show)
        performer.on(Delivered, self._delivered)

    def open(self, worker: WorkerId) -> tuple[int, int]:
        """Make the worker's pipes; returns their write ends, which the caller passes on and closes."""
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        try:
            err_read, err_write = os.pipe2(os.O_CLOEXEC)
        except OSError:
            os.close(out_read)
            os.close(out_write)
            raise
        os.set_blocking(out_read, False)
        os.set_blocking(err_read, False)
        self._pipes[worker] = _Pipes([out_read, err_read])
        self.router.add(worker)
        try:
            self._listen(worker, is_stderr=False)
            self._listen(worker, is_stderr=True)
        except OSError:
            self.finish(worker)
            self.forget(worker)
            os.close(out_write)
            os.close(err_write)
            raise
        return out_write, err_write

    def started(self, worker: WorkerId, pid: int) -> None:
        if worker in self._pipes:
            self._pipes[worker].pid = pid
        self.router.started(worker, pid)

    def assign(self, worker: WorkerId, job: JobId) -> None:
        self._pipes[worker].job = job
        self.router.assign(worker, job)

    def mark(self, worker: WorkerId, token: int) -> None:
        """All that it has printed so far is in its pipes: read it, then pass the mark on."""
        self._mark(_LateMark(worker, token, self._loop.now() + SHOWN_WITHIN_S))

    def _mark(self, mark: _LateMark) -> None:
        if not self._driver_lags(mark.worker):
            self._drain(mark.worker)
            self._performer.perform(self.router.mark(mark.worker, mark.token, self._loop.now()))
            self._alarm.by(self.router.next_wake())
        elif self.router.waits_for_driver(mark.worker) and self._loop.now() < mark.until:
            self._late.append(mark)
            self._late_alarm.by(self._loop.now() + _PAUSE_S)
        else:
            self._performer.perform(self.router.mark_unread(mark.worker, mark.token))

    def _mark_again(self) -> None:
        late, self._late = self._late, []
        for mark in late:
            self._mark(mark)

    def printed(self, token: int) -> None:
        self._performer.perform(self.router.printed(token))

    def driver_gone(self, job: JobId) -> None:
        self._cut_short.discard(job)
        self._performer.perform(self.router.driver_gone(job))

    def pass_on_all(self, job: JobId) -> None:
        """All that the job's workers have printed so far, unfinished lines too."""
        for worker, pipes in list(self._pipes.items()):
            if pipes.job == job:
                self._drain(worker)
                self._performer.perform(self.router.ended(worker))

    def finish(self, worker: WorkerId) -> None:
        """It is dead: pass on the rest, close what a grandchild may have kept open, and the logs."""
        pipes = self._pipes.get(worker)
        if pipes is None:
            return
        self._drain(worker)
        for is_stderr in (False, True):
            self._close(worker, is_stderr)
        self._performer.perform(self.router.ended(worker))

    def forget(self, worker: WorkerId) -> tuple[str, ...]:
        """After ``finish``: its last words."""
        pipes = self._pipes.pop(worker, None)
        for log in pipes.logs if pipes else ():
            if log is not None:
                log.close()
        return self.router.forget(worker)

    def close(self) -> None:
        self._alarm.cancel()
        self._late_alarm.cancel()
        for worker in list(self._pipes):
            for is_stderr in (False, True):
                self._close(worker, is_stderr)
            self.forget(worker)

    # ---- reading ----

    def _listen(self, worker: WorkerId, is_stderr: bool) -> None:
        self._loop.add_reader(self._pipes[worker].fds[is_stderr], lambda: self._readable(worker, is_stderr))

    def _readable(self, worker: WorkerId, is_stderr: bool) -> None:
        if self._driver_lags(worker):
            self._pause(worker, is_stderr)
            return
        try:
            goes_on = self._read(worker, is_stderr, _READS_AT_ONCE)
        except MemoryError:  # of a pipe that is never read again its worker would fill, and wait for ever
            self._pause(worker, is_stderr)
            return
        if not goes_on:
            self._close(worker, is_stderr)
            if self._pipes[worker].fds == [-1, -1]:
                self._on_drained(worker)

    def _read(self, worker: WorkerId, is_stderr: bool, most: int) -> bool:
        """Returns False at the end of the stream."""
        fd = self._pipes[worker].fds[is_stderr]
        for _ in range(most):
            try:
                chunk = os.read(fd, _READ_BYTES)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            self._performer.perform(self.router.feed(worker, is_stderr, chunk, self._loop.now()))
            self._alarm.by(self.router.next_wake())
            if len(chunk) < _READ_BYTES:
                return True
        return True

    def _drain(self, worker: WorkerId) -> None:
        """Read all that is in the pipes now; their end, if it comes, is noticed by the reactor."""
        pipes = self._pipes.get(worker)
        if pipes is None:
            return
        for is_stderr, fd in ((False, pipes.fds[0]), (True, pipes.fds[1])):
            # A pipe's capacity bounds what was in it when the mark was made.
            if fd >= 0:
                with contextlib.suppress(
                    MemoryError
                ):  # what follows, a death or a mark, must not end with it
                    self._read(worker, is_stderr, 1 + (1 << 20) // _READ_BYTES)

    def _close(self, worker: WorkerId, is_stderr: bool) -> None:
        fds = self._pipes[worker].fds
        if fds[is_stderr] >= 0:
            self._loop.remove_reader(fds[is_stderr])
            os.close(fds[is_stderr])
            fds[is_stderr] = -1

    def _driver_lags(self, worker: WorkerId) -> bool:
        pipes = self._pipes.get(worker)
        job = pipes.job if pipes is not None else None
        driver = self._members.driver_of(job) if job is not None else None
        return driver is not None and driver.connection.backlog_bytes > _DRIVER_BACKLOG_BYTES

    def _pause(self, worker: WorkerId, is_stderr: bool) -> None:
        fd = self._pipes[worker].fds[is_stderr]
        self._loop.remove_reader(fd)

        def resume() -> None:
            pipes = self._pipes.get(worker)
            if pipes is None or pipes.fds[is_stderr] != fd:
                return
            try:
                self._listen(worker, is_stderr)
            except OSError:  # the kernel watches no more descriptors for us, for now
                self._loop.call_later(_PAUSE_S, resume)

        self._loop.call_later(_PAUSE_S, resume)

    def _show_unfinished(self) -> None:
        self._performer.perform(self.router.tick(self._loop.now()))
        self._alarm.by(self.router.next_wake())

    # ---- effects ----

    def _show(self, effect: Show) -> None:
        driver = self._members.driver_of(effect.job)
        if driver is None:
            return
        if driver.connection.backlog_bytes > _DRIVER_MOST_BYTES and not effect.token:
            if effect.job not in self._cut_short:
                self._cut_short.add(effect.job)
                driver.send(Notice(logging.WARNING, _CUT_SHORT))
            return
        self._cut_short.discard(effect.job)
        driver.send(OutputLines(effect.name, effect.pid, effect.is_stderr, effect.data, effect.token))

    def _delivered(self, effect: Delivered) -> None:
        worker = self._members.worker(effect.worker)
        if worker is not None:
            worker.send(OutputDelivered(effect.token))

    def _record(self, effect: Record) -> None:
        pipes = self._pipes.get(effect.worker)
        if pipes is None:
            return
        log = pipes.logs[effect.is_stderr]
        if log is None:
            job = pipes.job.hex() if pipes.job is not None else "none"
            suffix = "err" if effect.is_stderr else "out"
            name = f"worker-{effect.worker.hex()}-{job}-{pipes.pid}.{suffix}"
            log = pipes.logs[effect.is_stderr] = self._logs.open(name)
        log.write(effect.data)
