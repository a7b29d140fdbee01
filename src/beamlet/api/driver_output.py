"""What workers print, on the driver's own streams: in order, each line prefixed ``(name pid=…)``.

On a terminal pieces of lines are shown as they come, so that a progress bar moves: a carriage return starts
its line again behind the prefix.  Elsewhere lines are written when they are whole, as a terminal would show
them in the end.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Callable
from typing import NamedTuple, TextIO

from beamlet.base.say import say
from beamlet.processes.prompt_thread import PromptThread, can_start
from beamlet.protocol.node import Notice, OutputLines

_CYAN, _PLAIN = "\x1b[36m", "\x1b[0m"
_ERASE_REST = "\x1b[K"
#: A line that is kept until it is whole is not kept beyond this.
_KEPT_CHARACTERS = 1 << 24
#: What waits to be shown; with more than this whoever brings it waits each time, and then the node and its
#: workers do. Not for ever: a stream of the user's may want something of us before it goes on.
_WAITING_BYTES = 8 << 20
_BROUGHT_EVERY_S = 1.0
#: While there is no thread to show them.
_NOTICES_PUT_BY = 1000
logger = logging.getLogger("beamlet")


class _Speaker(NamedTuple):
    name: str
    pid: int
    is_stderr: bool

    def prefix(self) -> str:
        return f"({self.name} pid={self.pid})" if self.name else f"(pid={self.pid})"


class Screen:
    """The driver's stdout and stderr, as far as workers' output goes. One thread at a time."""

    def __init__(self) -> None:
        #: Whose unfinished line the cursor of a terminal is in.
        self._open: _Speaker | None = None
        #: Unfinished lines for streams that are no terminals.
        self._kept: dict[_Speaker, str] = {}

    def show(self, lines: OutputLines, *, prefix: bool = True) -> None:
        """Write the text of one worker; returns when the stream has taken it.

        Without prefix: whole lines as they came, for those who read them by machine.
        """
        stream = sys.stderr if lines.is_stderr else sys.stdout
        if not lines.data or stream is None:
            return
        speaker = _Speaker(lines.name, lines.pid, lines.is_stderr)
        text = lines.data.decode("utf-8", "replace")
        if prefix and _is_terminal(stream):
            text = self._on_terminal(speaker, text)
        else:
            text = self._in_file(speaker, text, f"{speaker.prefix()} " if prefix else "")
        try:
            _write(stream, text)
        except (OSError, ValueError):
            pass  # the driver closed its own stream: it does not want to see it

    def _on_terminal(self, speaker: _Speaker, text: str) -> str:
        start = f"{_CYAN}{speaker.prefix()}{_PLAIN} "
        continues, begins = self._open == speaker, "" if self._open is None else "\n"
        shown = text.removesuffix("\n")
        turned = shown.replace("\r\n", "\n").replace("\r", f"\r{start}{_ERASE_REST}")
        shown = turned.replace("\n", f"\n{start}")
        self._open = None if text.endswith("\n") else speaker
        end = "\n" if text.endswith("\n") else ""
        return shown + end if continues else begins + start + shown + end

    def _in_file(self, speaker: _Speaker, text: str, prefix: str) -> str:
        text = self._kept.pop(speaker, "") + text
        whole, newline, rest = text.rpartition("\n")
        if len(rest) > _KEPT_CHARACTERS:
            whole, newline, rest = text, "\n", ""
        if rest:
            self._kept[speaker] = rest
        if not newline:
            return ""
        return "".join(f"{prefix}{_last_turn(line)}\n" for line in whole.split("\n"))


_screen = Screen()


def show(lines: OutputLines, *, prefix: bool = True) -> None:
    _screen.show(lines, prefix=prefix)


def show_notice(notice: Notice) -> None:
    """Warnings of the cluster go through the driver's logging."""
    logger.log(notice.level, "%s", notice.text)


class Shower:
    """Shows it in a thread of its own.

    Streams may be read slowly or not at all (a pager, Ctrl-S), and handlers of logging are code of users: who
    holds the core worker's lock must wait for neither.
    """

    def __init__(self, shown: Callable[[int], None], *, prefix: bool) -> None:
        """``shown(token)``: all up to that was shown. prefix: see ``Screen.show``."""
        self._shown = shown
        self._prefix = prefix
        self._queue: queue.SimpleQueue[OutputLines | Notice | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        #: Bytes that came, and bytes that were shown. Each has one writer, so neither needs a lock.
        self._came = 0
        self._done = 0
        #: Bytes of output for which there was neither a thread nor room.
        self._dropped = 0
        self._has_ended = False
        self._has_room = threading.Event()

    def put(self, item: OutputLines | Notice) -> None:
        """One thread at a time."""
        if self._thread is None and not self._start():
            self._put_by(item)
            return
        if isinstance(item, OutputLines):
            self._came += len(item.data)
        self._queue.put(item)
        if self._came - self._done > _WAITING_BYTES:
            self._has_room.clear()
            if self._came - self._done > _WAITING_BYTES:
                self._has_room.wait(_BROUGHT_EVERY_S)

    def _start(self) -> bool:
        thread = PromptThread(target=self._run, name="beamlet-output", daemon=True)
        if can_start(thread):
            self._thread = thread
        return self._thread is not None

    def _put_by(self, item: OutputLines | Notice) -> None:
        """There is no thread to show it, and may be one when the next comes: nobody waits for that."""
        if isinstance(item, OutputLines):
            token = item.token
            if self._came - self._done + len(item.data) <= _WAITING_BYTES:
                self._came += len(item.data)
                self._queue.put(OutputLines(item.name, item.pid, item.is_stderr, item.data))
            else:
                self._dropped += len(item.data)
            if token:
                self._shown(token)
        elif self._queue.qsize() < _NOTICES_PUT_BY:
            self._queue.put(item)

    def end(self, timeout_s: float) -> None:
        """Show what has come. Idempotent; nothing may come afterwards. Without the core worker's lock."""
        if self._has_ended:
            return
        self._has_ended = True
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)
        else:
            self._run()
        if self._dropped:
            say(f"{self._dropped} bytes of output were not shown: there was no thread for it", "beamlet")

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if isinstance(item, Notice):
                    show_notice(item)
                    continue
                show(item, prefix=self._prefix)
            except Exception as error:  # of a stream or a handler of the user's
                say(f"what the cluster said could not be shown: {type(error).__name__}: {error}", "beamlet")
            if isinstance(item, OutputLines):
                self._done += len(item.data)
                self._has_room.set()
                if item.token:
                    self._shown(item.token)


def _write(stream: TextIO, text: str) -> None:
    if text:
        try:
            stream.write(text)
        except UnicodeEncodeError:  # LANG=C, or a terminal of old: what it cannot show is spelled out
            encoding = getattr(stream, "encoding", None) or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()


def _last_turn(line: str) -> str:
    """What is left of a line after its carriage returns."""
    return line.rstrip("\r").rpartition("\r")[2]


def _is_terminal(stream: object) -> bool:
    isatty: Callable[[], bool] | None = getattr(stream, "isatty", None)
    try:
        return isatty is not None and isatty()
    except ValueError:
        return False
