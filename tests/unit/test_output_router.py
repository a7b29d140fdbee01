"""Whole, named lines from chunks; marks; last words."""

from __future__ import annotations

import pytest

from beamlet.base.ids import JobId, WorkerId
from beamlet.protocol.output import CONTROL, control_line
from beamlet.raylet.output_router import (
    PARTIAL_S,
    PIECE_BYTES,
    SHOWN_WITHIN_S,
    Delivered,
    Effect,
    OutputRouter,
    Record,
    Show,
    whole_characters,
)

JOB = JobId(b"\x01\0\0\0")
W = WorkerId(b"w" * 28)
V = WorkerId(b"v" * 28)
F, G = control_line("f"), control_line("g")


@pytest.fixture
def router() -> OutputRouter:
    router = OutputRouter()
    router.listen(JOB)
    for worker, pid in ((W, 7), (V, 8)):
        router.add(worker)
        router.started(worker, pid)
        router.assign(worker, JOB)
    return router


def feed(router: OutputRouter, chunk: bytes, is_stderr: bool = False, now: float = 0.0) -> list[Effect]:
    return router.feed(W, is_stderr, chunk, now)


def shown(effects: list[Effect]) -> list[tuple[str, bytes]]:
    return [(effect.name, effect.data) for effect in effects if isinstance(effect, Show)]


def test_lines_are_shown_whole_however_they_were_cut(router: OutputRouter) -> None:
    assert shown(feed(router, b"one\ntw")) == [("", b"one\n")]
    assert shown(feed(router, b"o")) == []
    assert shown(feed(router, b"\nthree\nfour")) == [("", b"two\nthree\n")]
    assert shown(router.ended(W)) == [("", b"four\n")]


def test_a_control_line_names_what_follows_on_its_stream_only(router: OutputRouter) -> None:
    effects = feed(router, b"a\n" + F + b"b\nc\n" + G + b"d\n")
    assert shown(effects) == [("", b"a\n"), ("f", b"b\nc\n"), ("g", b"d\n")]
    assert shown(feed(router, is_stderr=True, chunk=b"e\n")) == [("", b"e\n")]
    assert all(CONTROL not in effect.data for effect in effects if isinstance(effect, Show | Record))


def test_a_name_that_is_no_utf_8_is_spelt_out() -> None:
    assert control_line("caf\udce9") == CONTROL + rb"caf\udce9" + b"\n"


def test_a_control_line_cut_in_two_is_still_one(router: OutputRouter) -> None:
    line = control_line("long name")
    assert feed(router, b"before" + line[:5]) == []
    assert shown(router.tick(PARTIAL_S)) == [("", b"before")], "and no half of it is shown"
    assert feed(router, line[5:12]) == []
    assert router.tick(9.0) == []
    assert shown(feed(router, line[12:] + b"x\n", now=9.0)) == [("", b"\n"), ("long name", b"x\n")]


def test_a_control_line_in_the_middle_of_a_line_ends_it(router: OutputRouter) -> None:
    """C code left its line unfinished, and another task prints."""
    assert shown(feed(router, F + b"50%" + G + b"hello\n")) == [
        ("f", b"50%"),
        ("f", b"\n"),
        ("g", b"hello\n"),
    ]


def test_the_same_name_again_does_not_break_a_line(router: OutputRouter) -> None:
    assert shown(feed(router, F + b"50%" + F + b"100%\n")) == [("f", b"50%"), ("f", b"100%\n")]


def test_what_is_written_past_python_stands_under_the_task_that_runs(router: OutputRouter) -> None:
    feed(router, F + b"printed by f\n")
    assert shown(feed(router, b"begun")) == []
    assert shown(router.described(W, "g")) == [("f", b"begun\n")]
    assert shown(feed(router, b"by a child of g\n")) == [("g", b"by a child of g\n")]
    assert shown(feed(router, is_stderr=True, chunk=b"and by C\n")) == [("g", b"and by C\n")]


def test_an_unfinished_line_is_shown_after_a_moment_and_ended_with_its_task(router: OutputRouter) -> None:
    assert feed(router, F + b"half", now=1.0) == []
    assert router.next_wake() == 1.0 + PARTIAL_S
    assert router.tick(1.0 + PARTIAL_S / 2) == []
    assert router.tick(1.0 + PARTIAL_S) == [Record(W, False, b"half"), Show(JOB, "f", 7, False, b"half")]
    assert router.next_wake() is None
    assert shown(router.mark(W, 1, 0.0)) == [("f", b"\n"), ("", b"")]


def test_a_line_that_goes_on_in_pieces_is_whole_in_the_end(router: OutputRouter) -> None:
    pieces = shown(feed(router, b"one ")) + shown(router.tick(1.0)) + shown(feed(router, b"line\ntwo\n"))
    assert pieces == [("", b"one "), ("", b"line\ntwo\n")]


def test_of_a_progress_bar_the_latest_is_shown_and_everything_logged(router: OutputRouter) -> None:
    feed(router, b"\r10%\r20%\r30%", is_stderr=True)
    assert router.tick(1.0) == [
        Record(W, True, b"\r10%\r20%\r30%"),
        Show(JOB, "", 7, True, b"\r30%"),
    ]
    feed(router, b"40%\r50%\r", is_stderr=True)
    assert shown(router.tick(2.0)) == [("", b"\r50%\r")]


def test_no_character_is_cut(router: OutputRouter) -> None:
    feed(router, "a☃".encode()[:-1])
    assert shown(router.tick(1.0)) == [("", b"a")]
    assert shown(feed(router, "☃\n".encode()[-2:])) == [("", "☃\n".encode())]
    for text in ("", "a", "é", "☃", "😀", "a😀"):
        data = text.encode()
        assert whole_characters(data) == len(data)
        assert whole_characters(data[:-1]) == len(text[:-1].encode())
    assert whole_characters(b"\xff\x80\x80\x80\x80") == 5, "what is no UTF-8 waits for nothing"


def test_every_line_is_logged_even_when_nobody_listens(router: OutputRouter) -> None:
    router.driver_gone(JOB)
    assert feed(router, is_stderr=True, chunk=b"x\n") == [Record(W, True, b"x\n")]


def test_a_very_long_line_goes_on_in_pieces_and_stays_one(router: OutputRouter) -> None:
    text = b"x" * (3 * PIECE_BYTES + 5)
    pieces = [data for _, data in shown(feed(router, text) + feed(router, b"y\n"))]
    assert len(pieces) > 1
    assert b"".join(pieces) == text + b"y\n"


def test_a_mark_follows_the_last_line_and_is_answered_when_the_driver_has_printed(
    router: OutputRouter,
) -> None:
    feed(router, b"no newline")
    effects = router.mark(W, 41, 0.0)
    assert effects == [
        Record(W, False, b"no newline\n"),
        Show(JOB, "", 7, False, b"no newline\n"),
        Show(JOB, "", 7, False, b"", token=1),
    ]
    assert router.printed(1) == [Delivered(W, 41)]
    assert router.printed(1) == []


def test_marks_of_two_workers_with_equal_tokens_are_told_apart(router: OutputRouter) -> None:
    router.mark(W, 1, 0.0)
    router.mark(V, 1, 0.0)
    assert router.printed(2) == [Delivered(V, 1)]
    assert router.printed(1) == [Delivered(W, 1)]


def test_a_mark_is_answered_at_once_when_nobody_listens_and_when_the_driver_leaves(
    router: OutputRouter,
) -> None:
    router.mark(W, 5, 0.0)
    assert router.driver_gone(JOB) == [Delivered(W, 5)]
    assert router.mark(W, 6, 0.0) == [Delivered(W, 6)]


def test_last_words_are_the_last_twenty_lines_of_stderr_of_the_present_task(router: OutputRouter) -> None:
    feed(router, is_stderr=True, chunk=b"earlier task\n" + F)
    feed(router, is_stderr=True, chunk=b"".join(b"line %d\n" % n for n in range(30)))
    feed(router, b"stdout\n")
    assert router.forget(W) == tuple(f"line {n}" for n in range(10, 30))


def test_last_words_know_lines_in_pieces_and_progress_bars(router: OutputRouter) -> None:
    feed(router, is_stderr=True, chunk=b"begun ")
    router.tick(1.0)
    feed(router, is_stderr=True, chunk=b"and ended\n\r 1%\r99%\ncut")
    router.ended(W)
    assert router.forget(W) == ("begun and ended", "99%", "cut")


def test_a_worker_that_is_gone_is_forgotten(router: OutputRouter) -> None:
    router.mark(W, 1, 0.0)
    router.forget(W)
    assert router.printed(1) == []
    assert router.ended(W) == []


@pytest.mark.parametrize("begin", [CONTROL[:1], CONTROL[:-1], CONTROL])
def test_what_looks_like_a_control_line_and_never_ends_is_not_kept(
    router: OutputRouter, begin: bytes
) -> None:
    """RFC 7464 begins its records with the same byte; and a program may print what it likes."""
    text = begin + b"x" * PIECE_BYTES
    passed_on = b"".join(data for _ in range(5) for _, data in shown(feed(router, text)))
    rest = router._workers[W].streams[False].rest
    assert len(rest) <= PIECE_BYTES
    assert passed_on + bytes(rest) == text * 5


def test_a_name_of_any_length_is_a_control_line(router: OutputRouter) -> None:
    line = control_line("n" * 10 * PIECE_BYTES)
    ((name, data),) = shown(feed(router, line + b"text\n"))
    assert (name[:3], data) == ("nnn", b"text\n")


def test_a_driver_that_shows_nothing_is_waited_for_once(router: OutputRouter) -> None:
    """Nobody read its output, so no task that had printed was ever done for it."""
    assert [type(effect) for effect in router.mark(W, 1, 0.0)] == [Show]
    router.mark(V, 2, 1.0)
    assert router.next_wake() == SHOWN_WITHIN_S
    assert router.tick(SHOWN_WITHIN_S - 0.1) == []
    assert router.tick(SHOWN_WITHIN_S) == [Delivered(W, 1), Delivered(V, 2)]
    assert router.next_wake() is None
    mark, delivered = router.mark(W, 3, 3.0)
    assert delivered == Delivered(W, 3)
    assert isinstance(mark, Show)
    assert [router.printed(1), router.printed(2)] == [[], []], "it has not caught up"
    assert Delivered(W, 4) in router.mark(W, 4, 3.5)
    assert router.printed(3) == []
    assert router.printed(4) == []
    assert [type(effect) for effect in router.mark(W, 5, 4.0)] == [Show], "it has: it is waited for again"
    assert router.printed(5) == [Delivered(W, 5)]


def test_the_end_of_a_driver_that_was_behind_is_forgotten(router: OutputRouter) -> None:
    router.mark(W, 1, 0.0)
    router.tick(SHOWN_WITHIN_S)
    assert router.driver_gone(JOB) == []
    assert router.mark(W, 2, 5.0) == [Delivered(W, 2)]
    assert router.next_wake() is None
