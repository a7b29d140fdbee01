"""Whole, named lines from chunks; marks; last words."""

from __future__ import annotations

import pytest

from beamlet.base.ids import JobId, WorkerId
from beamlet.raylet.output_router import LINE_BYTES, Delivered, Effect, OutputRouter, Record, Show

JOB = JobId(b"\x01\0\0\0")
W = WorkerId(b"w" * 28)
V = WorkerId(b"v" * 28)


@pytest.fixture
def router() -> OutputRouter:
    router = OutputRouter()
    router.listen(JOB)
    for worker, pid in ((W, 7), (V, 8)):
        router.add(worker)
        router.started(worker, pid)
        router.assign(worker, JOB)
    return router


def shown(effects: list[Effect]) -> list[tuple[str, bytes]]:
    return [(effect.name, effect.data) for effect in effects if isinstance(effect, Show)]


def test_lines_are_shown_whole_however_they_were_cut(router: OutputRouter) -> None:
    assert shown(router.feed(W, False, b"one\ntw")) == [("", b"one\n")]
    assert shown(router.feed(W, False, b"o")) == []
    assert shown(router.feed(W, False, b"\nthree\nfour")) == [("", b"two\nthree\n")]
    assert shown(router.ended(W)) == [("", b"four\n")]


def test_a_control_line_names_what_follows_on_its_stream_only(router: OutputRouter) -> None:
    effects = router.feed(W, False, b"a\n\x1ef\nb\nc\n\x1eg\nd\n")
    assert shown(effects) == [("", b"a\n"), ("f", b"b\nc\n"), ("g", b"d\n")]
    assert shown(router.feed(W, True, b"e\n")) == [("", b"e\n")]
    assert all(b"\x1e" not in effect.data for effect in effects if isinstance(effect, Show | Record))


def test_a_control_line_cut_in_two_is_still_one(router: OutputRouter) -> None:
    assert router.feed(W, False, b"\x1elong na") == []
    assert shown(router.feed(W, False, b"me\nx\n")) == [("long name", b"x\n")]


def test_a_carriage_return_does_not_end_a_line(router: OutputRouter) -> None:
    assert shown(router.feed(W, False, b"\x1ef\n10%\r20%\r30%\n")) == [("f", b"10%\r20%\r30%\n")]


def test_every_line_is_logged_even_when_nobody_listens(router: OutputRouter) -> None:
    router.driver_gone(JOB)
    assert router.feed(W, True, b"x\n") == [Record(W, True, b"x\n")]


def test_a_very_long_line_is_cut_and_nothing_of_it_is_lost(router: OutputRouter) -> None:
    text = b"x" * (3 * LINE_BYTES + 5)
    data = b"".join(data for _, data in shown(router.feed(W, False, text) + router.feed(W, False, b"\n")))
    assert max(map(len, data.split(b"\n"))) <= LINE_BYTES
    assert data.replace(b"\n", b"") == text


def test_a_mark_follows_the_last_line_and_is_answered_when_the_driver_has_printed(
    router: OutputRouter,
) -> None:
    router.feed(W, False, b"no newline")
    effects = router.mark(W, 41)
    assert effects == [
        Record(W, False, b"no newline\n"),
        Show(JOB, "", 7, False, b"no newline\n"),
        Show(JOB, "", 7, False, b"", token=1),
    ]
    assert router.printed(1) == [Delivered(W, 41)]
    assert router.printed(1) == []


def test_marks_of_two_workers_with_equal_tokens_are_told_apart(router: OutputRouter) -> None:
    router.mark(W, 1)
    router.mark(V, 1)
    assert router.printed(2) == [Delivered(V, 1)]
    assert router.printed(1) == [Delivered(W, 1)]


def test_a_mark_is_answered_at_once_when_nobody_listens_and_when_the_driver_leaves(
    router: OutputRouter,
) -> None:
    router.mark(W, 5)
    assert router.driver_gone(JOB) == [Delivered(W, 5)]
    assert router.mark(W, 6) == [Delivered(W, 6)]


def test_last_words_are_the_last_twenty_lines_of_stderr_of_the_present_task(router: OutputRouter) -> None:
    router.feed(W, True, b"earlier task\n\x1ef\n")
    router.feed(W, True, b"".join(b"line %d\n" % n for n in range(30)))
    router.feed(W, False, b"stdout\n")
    assert router.forget(W) == tuple(f"line {n}" for n in range(10, 30))


def test_a_worker_that_is_gone_is_forgotten(router: OutputRouter) -> None:
    router.mark(W, 1)
    router.forget(W)
    assert router.printed(1) == []
    assert router.ended(W) == []
