"""What workers print, from real pipes to a driver's line and to logs, on a loop that is turned by hand."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from beamlet.base.ids import WorkerId
from beamlet.protocol.node import Notice, OutputDelivered, OutputLines
from beamlet.protocol.output import control_line
from beamlet.raylet.members import Member
from beamlet.raylet.output_router import PARTIAL_S, SHOWN_WITHIN_S
from support.fake_host import FakeHost, fake_host
from support.fake_node import line_of


@pytest.fixture
def host() -> Iterator[FakeHost]:
    with fake_host() as host:
        yield host


@pytest.fixture
def driver(host: FakeHost) -> Member:
    return host.driver(1)


@pytest.fixture
def worker(host: FakeHost, driver: Member) -> WorkerId:
    host.want(1)
    return host.born(pid=7)


def shown(driver: Member) -> list[tuple[str, bytes]]:
    return [(lines.name, lines.data) for lines in line_of(driver).take(OutputLines) if not lines.token]


def test_lines_go_to_the_driver_and_to_a_log_named_after_the_worker(
    host: FakeHost, driver: Member, worker: WorkerId
) -> None:
    host.factory.write(worker, control_line("f") + b"out\n")
    host.factory.write(worker, b"err\n", is_stderr=True)
    host.loop.look()
    assert sorted(shown(driver)) == [("", b"err\n"), ("f", b"out\n")]
    assert {name.rpartition("-")[2]: log.text for name, log in host.logs.files.items()} == {
        "7.out": b"out\n",
        "7.err": b"err\n",
    }


def test_an_unfinished_line_is_shown_when_its_time_has_come(
    host: FakeHost, driver: Member, worker: WorkerId
) -> None:
    host.factory.write(worker, b"50%")
    host.loop.look()
    assert shown(driver) == []
    host.loop.pass_time(PARTIAL_S)
    assert shown(driver) == [("", b"50%")]


def test_a_mark_comes_behind_what_is_still_in_the_pipes(
    host: FakeHost, driver: Member, worker: WorkerId
) -> None:
    host.factory.write(worker, b"not read yet")
    host.output.mark(worker, 5)
    lines, mark = line_of(driver).take(OutputLines)
    assert (lines.data, mark.data, bool(mark.token)) == (b"not read yet\n", b"", True)
    assert not line_of(host.member(worker)).take(OutputDelivered)
    host.output.printed(mark.token)
    assert line_of(host.member(worker)).take(OutputDelivered) == [OutputDelivered(5)]


def test_a_driver_that_lags_leaves_pipes_unread_until_it_has_caught_up(
    host: FakeHost, driver: Member, worker: WorkerId
) -> None:
    line_of(driver).backlog_bytes = 1 << 30
    host.factory.write(worker, b"wait\n")
    host.loop.look()
    assert shown(driver) == []
    line_of(driver).backlog_bytes = 0
    host.loop.pass_time(0.1)
    host.loop.look()
    assert shown(driver) == [("", b"wait\n")]


def test_marks_do_not_empty_the_pipes_of_a_driver_that_is_stopped(
    host: FakeHost, driver: Member, worker: WorkerId
) -> None:
    """Each drained them: an actor that called one that prints filled 256 MiB, and the driver was cut off."""
    line_of(driver).backlog_bytes = 64 << 20
    host.factory.write(worker, b"kept in the pipe\n")
    host.output.mark(worker, 5)
    host.loop.pass_time(SHOWN_WITHIN_S - 0.1)
    assert not line_of(host.member(worker)).take(OutputDelivered), "it may only be slow"
    host.loop.pass_time(0.2)
    assert line_of(host.member(worker)).take(OutputDelivered) == [OutputDelivered(5)]
    host.output.mark(worker, 6)
    assert line_of(host.member(worker)).take(OutputDelivered) == [OutputDelivered(6)], "now at once"
    (asked,) = line_of(driver).take(OutputLines)
    assert (asked.data, bool(asked.token)) == (b"", True), (
        "one mark, by which it is known when it reads again"
    )

    line_of(driver).backlog_bytes = 0
    host.output.printed(asked.token)
    host.output.mark(worker, 7)
    lines, mark = line_of(driver).take(OutputLines)
    assert lines.data == b"kept in the pipe\n"
    assert not line_of(host.member(worker)).take(OutputDelivered)
    host.output.printed(mark.token)
    assert line_of(host.member(worker)).take(OutputDelivered) == [OutputDelivered(7)]


def test_a_mark_waits_for_a_driver_that_is_only_slow_and_stays_behind_the_text(
    host: FakeHost, driver: Member, worker: WorkerId
) -> None:
    line_of(driver).backlog_bytes = 64 << 20
    host.factory.write(worker, b"text\n")
    host.output.mark(worker, 5)
    host.loop.pass_time(1.0)
    assert not line_of(driver).take(OutputLines)
    line_of(driver).backlog_bytes = 1 << 20
    host.loop.pass_time(0.1)
    lines, mark = line_of(driver).take(OutputLines)
    assert (lines.data, bool(mark.token)) == (b"text\n", True)
    assert not line_of(host.member(worker)).take(OutputDelivered)


def test_a_mark_that_waits_for_a_driver_goes_when_that_or_the_worker_is_gone(
    host: FakeHost, driver: Member, worker: WorkerId
) -> None:
    line_of(driver).backlog_bytes = 64 << 20
    host.output.mark(worker, 5)
    assert driver.job is not None
    host.output.driver_gone(driver.job.job_id)
    host.loop.pass_time(0.1)
    assert line_of(host.member(worker)).take(OutputDelivered) == [OutputDelivered(5)]
    host.output.router.listen(driver.job.job_id)
    host.output.mark(worker, 6)
    host.output.finish(worker)
    host.output.forget(worker)
    host.loop.pass_time(SHOWN_WITHIN_S + 0.1)
    assert not line_of(host.member(worker)).take(OutputDelivered)


def test_workers_that_die_one_after_another_do_not_fill_a_stopped_driver(
    host: FakeHost, driver: Member, worker: WorkerId
) -> None:
    """What is left in their pipes goes to their log files only, and the driver is told so once."""
    line_of(driver).backlog_bytes = 200 << 20
    host.factory.write(worker, b"one\n")
    host.factory.write(worker, b"two\n", is_stderr=True)
    host.output.finish(worker)
    assert not line_of(driver).take(OutputLines)
    assert ["log files" in notice.text for notice in line_of(driver).take(Notice)] == [True]
    assert sorted(log.text for log in host.logs.files.values()) == [b"one\n", b"two\n"]


def test_a_worker_that_dies_while_its_driver_lags_is_read_to_the_end(
    host: FakeHost, driver: Member, worker: WorkerId
) -> None:
    line_of(driver).backlog_bytes = 100 << 20
    host.factory.write(worker, b"last\n")
    host.loop.look()
    host.output.finish(worker)
    assert shown(driver) == [("", b"last\n")]
    host.loop.pass_time(0.1)
    assert host.output.forget(worker) == ()


def test_a_pipe_for_which_memory_or_watches_lack_is_read_when_there_are_some(
    host: FakeHost, driver: Member, worker: WorkerId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was never read again: the worker waited in its next print for ever."""

    def lacking(*_: object) -> bytes:
        raise MemoryError

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    host.factory.write(worker, b"late\n")
    with monkeypatch.context() as limit:
        limit.setattr(os, "read", lacking)
        host.loop.look()
    with monkeypatch.context() as limit:
        limit.setattr(host.loop, "add_reader", full)
        host.loop.pass_time(0.03)
    host.loop.pass_time(0.03)
    host.loop.look()
    assert shown(driver) == [("", b"late\n")]


def test_a_death_is_announced_although_there_is_no_memory_for_its_last_output(
    host: FakeHost, driver: Member, worker: WorkerId, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: object) -> bytes:
        raise MemoryError

    host.factory.write(worker, b"lost\n")
    monkeypatch.setattr(os, "read", lacking)
    host.output.finish(worker)
    assert host.output.forget(worker) == ()


def test_all_of_a_leaving_driver_is_passed_on(host: FakeHost, driver: Member, worker: WorkerId) -> None:
    host.factory.write(worker, b"line\nhalf")
    host.output.pass_on_all(driver.job.job_id if driver.job else b"")  # type: ignore[arg-type]
    assert shown(driver) == [("", b"line\n"), ("", b"half\n")]


def test_no_room_to_listen_is_an_error_that_leaves_nothing(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, on_readable: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(host.loop, "add_reader", full)
    with pytest.raises(OSError, match="No space left"):
        host.output.open(WorkerId(b"w" * 28))
