"""What workers print, as the driver's terminal and files get it."""

from __future__ import annotations

import contextlib
import io
import sys
import threading

import pytest

from beamlet.api import driver_output
from beamlet.api.driver_output import Screen, Shower
from beamlet.protocol.node import Notice, OutputLines
from support.no_threads import refuse_threads


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """The lines as they stand there: carriage returns go back, colours and erasing are not letters."""
        lines = []
        for line in self.getvalue().replace("\x1b[36m", "").replace("\x1b[0m", "").split("\n"):
            cells = ""
            for turn in line.split("\r"):
                before, erased, after = turn.partition("\x1b[K")
                cells = before + after + ("" if erased else cells[len(turn) :])
            lines.append(cells.rstrip())
        return lines


def told(data: bytes, name: str = "f", pid: int = 7) -> OutputLines:
    return OutputLines(name, pid, False, data)


class Shown:
    """A screen, and the stream that stdout is while it shows something."""

    def __init__(self, stream: io.StringIO) -> None:
        self.stream = stream
        self._screen = Screen()

    def __call__(self, *all_lines: OutputLines, prefix: bool = True) -> str:
        with contextlib.redirect_stdout(self.stream):
            for lines in all_lines:
                self._screen.show(lines, prefix=prefix)
        return "" if self.stream.closed else self.stream.getvalue()


@pytest.fixture
def show() -> Shown:
    return Shown(io.StringIO())


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_every_line_has_its_prefix(show: Shown) -> None:
    text = show(told(b"one\ntwo\n"), told(b"\n"), told(b"three\n", name=""))
    assert text == "(f pid=7) one\n(f pid=7) two\n(f pid=7) \n(pid=7) three\n"


def test_a_file_gets_whole_lines(show: Shown) -> None:
    text = show(told(b"begun "), told(b"other\n", pid=8), told(b"ended\nnext"), told(b"\n"))
    assert text == "(f pid=8) other\n(f pid=7) begun ended\n(f pid=7) next\n"


def test_a_file_gets_a_progress_bar_as_it_was_in_the_end(show: Shown) -> None:
    text = show(told(b"\r 10%"), told(b"\r 50%"), told(b"\r100%\n"), told(b"from windows\r\n"))
    assert text == "(f pid=7) 100%\n(f pid=7) from windows\n"


def test_without_prefix_lines_are_whole_all_the_same(terminal: Terminal) -> None:
    text = Shown(terminal)(told(b'{"a":'), told(b'{"b": 2}\n', pid=8), told(b" 1}\n"), prefix=False)
    assert text == '{"b": 2}\n{"a": 1}\n'


def test_a_terminal_gets_pieces_as_they_come(terminal: Terminal) -> None:
    show = Shown(terminal)
    show(told(b"loading"))
    assert terminal.screen() == ["(f pid=7) loading"]
    show(told(b" ... done\n"))
    assert terminal.screen() == ["(f pid=7) loading ... done", ""]


def test_a_progress_bar_moves_on_a_terminal(terminal: Terminal) -> None:
    show = Shown(terminal)
    show(told(b"\r 10% of all"))
    assert terminal.screen() == ["(f pid=7)  10% of all"]
    show(told(b"\r 50%"))
    assert terminal.screen() == ["(f pid=7)  50%"]
    show(told(b"\r100%\nafter\n"))
    assert terminal.screen() == ["(f pid=7) 100%", "(f pid=7) after", ""]


def test_lines_of_two_workers_do_not_run_into_each_other(terminal: Terminal) -> None:
    Shown(terminal)(told(b"mine"), told(b"theirs\n", pid=8), told(b" again\n"))
    assert terminal.screen() == ["(f pid=7) mine", "(f pid=8) theirs", "(f pid=7)  again", ""]


def test_what_the_stream_cannot_hold_is_spelled_out() -> None:
    """LANG=C: a line was lost, and so was all that came with it."""
    taken = io.BytesIO()
    stream = io.TextIOWrapper(taken, encoding="ascii")
    with contextlib.redirect_stdout(stream):
        Screen().show(told("before\nhé ☃\n".encode()))
    assert taken.getvalue() == b"(f pid=7) before\n(f pid=7) h\\xe9 \\u2603\n"


def test_a_closed_stream_is_nobodys_trouble(show: Shown) -> None:
    show.stream.close()
    show(told(b"x\n"))


class SlowStream(io.StringIO):
    """A pipe that is full until somebody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.is_read = threading.Event()

    def write(self, text: str) -> int:
        assert self.is_read.wait(30.0)
        return super().write(text)


def test_who_brings_output_does_not_wait_for_who_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SlowStream()
    monkeypatch.setattr(sys, "stdout", stream)
    shown: list[tuple[int, str]] = []
    shower = Shower(lambda token: shown.append((token, stream.getvalue())), prefix=False)
    shower.put(OutputLines("f", 7, False, b"one\n", 0))
    shower.put(OutputLines("f", 7, False, b"two\n", 5))
    shower.put(OutputLines("", 7, False, b"", 6))
    assert not shown
    stream.is_read.set()
    shower.end(30.0)
    assert shown == [(5, "one\ntwo\n"), (6, "one\ntwo\n")]


def test_much_that_nobody_reads_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_output, "_WAITING_BYTES", 5)
    stream = SlowStream()
    monkeypatch.setattr(sys, "stdout", stream)
    shower = Shower(lambda token: None, prefix=False)
    shower.put(OutputLines("f", 7, False, b"one\n", 0))
    bringer = threading.Thread(target=shower.put, args=(OutputLines("f", 7, False, b"two\n", 0),))
    bringer.start()
    bringer.join(0.05)
    assert bringer.is_alive()
    stream.is_read.set()
    bringer.join(30.0)
    assert not bringer.is_alive()
    shower.end(30.0)
    assert stream.getvalue() == "one\ntwo\n"


def test_a_handler_of_logging_that_fails_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(notice: Notice) -> None:
        raise RuntimeError("a mistake of the user's")

    monkeypatch.setattr(driver_output, "show_notice", fails)
    tokens: list[int] = []
    shower = Shower(tokens.append, prefix=False)
    shower.put(Notice(30, "careful"))
    shower.put(OutputLines("f", 7, False, b"", 3))
    shower.end(30.0)
    assert tokens == [3]
    assert "a mistake of the user's" in capsys.readouterr().err


def test_who_brings_much_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream may be the user's own, and wait for what who brings it holds."""
    monkeypatch.setattr(driver_output, "_WAITING_BYTES", 5)
    monkeypatch.setattr(driver_output, "_BROUGHT_EVERY_S", 0.01)
    stream = SlowStream()
    monkeypatch.setattr(sys, "stdout", stream)
    shower = Shower(lambda token: None, prefix=False)
    for _ in range(3):
        shower.put(OutputLines("f", 7, False, b"line\n", 0))
    stream.is_read.set()
    shower.end(30.0)
    assert stream.getvalue() == "line\n" * 3


class NoThreads:
    """The system has no thread for anybody, until it ``has``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        refuse_threads(monkeypatch)

    def has(self) -> None:
        self._patch.undo()


def test_without_a_thread_to_show_it_nothing_is_lost_and_nobody_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One thread that could not be started, and whatever printed hung from then on."""
    threads = NoThreads(monkeypatch)
    tokens: list[int] = []
    shower = Shower(tokens.append, prefix=False)
    shower.put(OutputLines("f", 7, False, b"one\n", 5))
    shower.put(Notice(10, "beside"))
    assert tokens == [5]
    threads.has()
    shower.put(OutputLines("f", 7, False, b"two\n", 6))
    shower.end(30.0)
    assert tokens == [5, 6]
    assert capsys.readouterr().out == "one\ntwo\n"


def test_without_a_thread_to_the_end_it_is_shown_then_as_far_as_there_was_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver_output, "_WAITING_BYTES", 5)
    NoThreads(monkeypatch)
    tokens: list[int] = []
    shower = Shower(tokens.append, prefix=False)
    shower.put(OutputLines("f", 7, False, b"one\n", 0))
    shower.put(OutputLines("f", 7, False, b"two\n", 8))
    assert tokens == [8]
    shower.end(30.0)
    shower.end(30.0)
    told = capsys.readouterr()
    assert told.out == "one\n"
    assert "4 bytes of output were not shown" in told.err
