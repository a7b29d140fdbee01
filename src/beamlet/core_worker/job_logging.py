"""Logging of a job, in its driver and in its workers: from which level, in which form, to which handlers.

The logger "beamlet" is what Beamlet itself says: on stderr, unless the program has handlers of its own.
The root logger is the program's, and is touched only if the job asks for it with a LoggingConfig.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import TextIO

from beamlet.protocol.node import JobLogging

#: Of the program's own lines, where it has a LoggingConfig.
FORMAT = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}

#: Ids and names of the process, the actor and the task that log a line; what is empty is left out.
Facts = Callable[[], Mapping[str, str]]

logger = logging.getLogger("beamlet")


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to whatever ``sys.stderr`` is by then: notebooks and tests replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        """Never fixed."""


class _HandlerOfLast(_Handler):
    """Silent where the program has handlers, even if it made them after we came."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            super().emit(record)


class _WithFacts(logging.Formatter):
    """The line, then ``name=value`` of everything known about where it was logged."""

    def __init__(self, format_: str, attributes: tuple[str, ...], facts: Facts) -> None:
        super().__init__(format_)
        self._attributes = attributes
        self._facts = facts

    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(f"{name}={value}" for name, value in self.extra(record).items())
        head, line, rest = super().format(record).partition("\n")
        return f"{head} {extra}{line}{rest}"

    def extra(self, record: logging.LogRecord) -> dict[str, object]:
        given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        wanted = {name: getattr(record, name, "") for name in self._attributes}
        known = {name: value for name, value in self._facts().items() if value}
        return {**wanted, **known, **given, "timestamp_ns": int(record.created * 1e9)}


class _AsJson(_WithFacts):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        row: dict[str, object] = {
            "asctime": self.formatTime(record),
            "levelname": record.levelname,
            "message": record.getMessage(),
            "filename": record.filename,
            "lineno": record.lineno,
            **self.extra(record),
        }
        if record.exc_info:
            row["exc_text"] = self.formatException(record.exc_info)
        return json.dumps(row, default=str)


class _Installed:
    """What we changed, so that the next job in this process does not take it for the user's."""

    #: Set up before any job came that asks for it.
    ahead: JobLogging | None = None
    level: int | None = None
    handler: _Handler | None = None
    root: _Handler | None = None


def effective_level(wanted: int | None) -> int:
    """From which level Beamlet speaks: as asked for, else as the program's own logging has it, else INFO."""
    if wanted is not None:
        return wanted
    if logger.level not in (logging.NOTSET, _Installed.level):
        return logger.level
    return logging.getLogger().level if _foreign_handlers() else logging.INFO


def _foreign_handlers() -> list[logging.Handler]:
    return [handler for handler in logging.getLogger().handlers if handler is not _Installed.root]


def apply_ahead(job: JobLogging) -> None:
    """Do what the first job will probably ask for: before the fork, once for all workers."""
    apply(job, dict)
    _Installed.ahead = job


def apply(job: JobLogging, facts: Facts) -> None:
    """Set up this process's loggers. What an earlier job of this process set up is undone first."""
    if job == _Installed.ahead:
        _Installed.ahead = None
        return
    _undo()
    if not job.configure:
        return
    if logger.level != job.level:
        logger.setLevel(job.level)
        _Installed.level = job.level
    if job.encoding:
        root = logging.getLogger()
        handler = _Installed.root = _Handler()
        kind = _AsJson if job.encoding == "JSON" else _WithFacts
        handler.setFormatter(kind(FORMAT, job.attributes, facts))
        root.addHandler(handler)
        root.setLevel(job.root_level)
    elif not logger.handlers:
        last = _Installed.handler = _HandlerOfLast()
        last.setFormatter(logging.Formatter(job.format))
        logger.addHandler(last)


def _undo() -> None:
    if _Installed.handler is not None:
        logger.removeHandler(_Installed.handler)
    if _Installed.root is not None:
        logging.getLogger().removeHandler(_Installed.root)
    if logger.level == _Installed.level:
        logger.setLevel(logging.NOTSET)
    _Installed.handler = _Installed.root = _Installed.level = _Installed.ahead = None
