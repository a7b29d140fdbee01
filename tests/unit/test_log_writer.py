"""Log files written by a thread: a disk that stands still or is full costs lines, and never the caller."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from beamlet.processes import log_writer
from beamlet.processes.log_writer import LogStream, LogWriter
from support.waiting import wait_until


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def writer(tmp_path: Path, said: list[str]) -> Iterator[LogWriter]:
    writer = LogWriter(tmp_path, said.append)
    yield writer
    writer.close(10)


def test_what_is_written_is_in_the_files_in_order(writer: LogWriter, tmp_path: Path) -> None:
    out, err = writer.open("out"), writer.open("err")
    assert not list(tmp_path.iterdir()), "a log that nobody writes makes no file"
    for number in range(100):
        out.write(b"%d\n" % number)
        err.write(b"e\n")
    out.close()
    writer.close(10)
    assert (tmp_path / "out").read_text().split() == [str(number) for number in range(100)]
    assert (tmp_path / "err").read_text() == "e\n" * 100
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600


def test_a_disk_that_stands_still_stops_nobody_and_what_it_costs_is_said(
    writer: LogWriter, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "QUEUE_BYTES", 1000)
    os.mkfifo(tmp_path / "log")
    log = writer.open("log")
    log.write(b"first\n" + b"." * 1000)  # the thread waits in open() until somebody reads
    log.write(b"dropped")
    log.write(b"dropped")
    assert len(said) == 1
    assert f"the disk of {tmp_path} does not take logs" in said[0]
    with (tmp_path / "log").open("rb") as pipe:
        assert pipe.read(1006) == b"first\n" + b"." * 1000
        wait_until(lambda: writer.has_room, 10, "the thread to notice that its line was taken")
        log.write(b"last\n")
        writer.close(10)
        log_end = threading.Thread(target=log.shut)
        log_end.start()
        rest = pipe.read()
        log_end.join()
    assert rest.endswith(b"[beamlet: 14 bytes are missing here, the disk was slow]\nlast\n")
    assert len(said) == 1


def test_closing_does_not_wait_for_a_disk_that_stands_still(writer: LogWriter, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    writer.open("log").write(b"x")
    writer.close(0.01)
    with (tmp_path / "log").open("rb") as pipe:
        assert pipe.read1() == b"x", "and it goes on as soon as it can"


def test_a_full_disk_is_said_once_and_noted_where_lines_are_missing(
    writer: LogWriter, tmp_path: Path, said: list[str]
) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    log = writer.open("log")
    for _ in range(3):
        log.write(b"lost")
    writer.close(10)
    assert said == [
        f"logs cannot be written ({tmp_path}/log: No space left on device); the cluster goes on without "
        "them, and drivers are shown everything"
    ]
    (tmp_path / "log").unlink()
    log.write(b"there is room again\n")
    writer.close(10)
    note, last = (tmp_path / "log").read_text().splitlines()
    assert note.startswith("[beamlet: ")
    assert note.endswith(" bytes are missing here, they could not be written]")
    assert last == "there is room again"


def test_a_log_ends_at_its_limit(writer: LogWriter, tmp_path: Path) -> None:
    log = writer.open("log", limit_bytes=2 << 20)
    for _ in range(5):
        log.write(b"x" * (1 << 20))
    writer.close(10)
    assert (tmp_path / "log").read_bytes()[2 << 20 :] == b"[beamlet: this log ends here, it reached 2 MiB]\n"


def test_of_files_that_have_ended_the_newest_are_kept(
    writer: LogWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file for each process that printed: a cluster that lives for months has millions of those."""
    monkeypatch.setattr(log_writer, "ENDED_FILES", 3)
    monkeypatch.setattr(log_writer, "ENDED_BYTES", 100)
    living = writer.open("living")
    living.write(b"x" * 1000)
    for number in range(5):
        log = writer.open(f"ended-{number}")
        log.write(b"x" * 10)
        log.close()
    writer.close(10)
    assert sorted(os.listdir(tmp_path)) == ["ended-2", "ended-3", "ended-4", "living"]
    large = writer.open("large")
    large.write(b"x" * 85)
    large.close()
    writer.close(10)
    assert sorted(os.listdir(tmp_path)) == ["ended-4", "large", "living"]


def test_while_there_is_no_thread_to_be_had_lines_are_dropped_and_the_end_is_none_the_worse(
    writer: LogWriter, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raised at whoever wrote, and again when the head ended, which then left its session behind."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    log = writer.open("log")
    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", refuse)
        log.write(b"lost")
        log.write(b"lost")
        log.close()
        writer.close()
    assert len(said) == 1
    assert "no thread for it (ulimit -u)" in said[0]
    log.write(b"last\n")
    writer.close(10)
    note = "[beamlet: 8 bytes are missing here, the disk was slow]"
    assert (tmp_path / "log").read_text() == f"{note}\nlast\n"


def test_removed_files_are_made_again(writer: LogWriter, tmp_path: Path) -> None:
    log = writer.open("log")
    log.write(b"before")
    writer.close(10)
    (tmp_path / "log").unlink()
    log.write(b"after")
    writer.close(10)
    assert (tmp_path / "log").read_bytes() == b"after"


def test_until_their_directory_is_made_again_removed_files_are_no_trouble(
    tmp_path: Path, said: list[str]
) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    writer = LogWriter(directory, said.append)
    log = writer.open("log")
    log.write(b"before")
    writer.close(10)
    shutil.rmtree(directory)
    log.write(b"meanwhile")
    writer.close(10)
    directory.mkdir()
    log.write(b"after")
    writer.close(10)
    assert (directory / "log").read_bytes() == b"after"
    assert said == []


def test_descriptors_that_a_log_stands_for_follow_it(writer: LogWriter, tmp_path: Path) -> None:
    """A head's last words go past the queue: they went into the file that had been removed."""
    (tmp_path / "log").touch()
    number = os.open(tmp_path / "log", os.O_WRONLY | os.O_APPEND)
    try:
        log = writer.open("log", stands_for=(number,))
        log.write(b"before")
        writer.close(10)
        (tmp_path / "log").unlink()
        log.write(b"after, ")
        writer.close(10)
        os.write(number, b"last words")
    finally:
        os.close(number)
    assert (tmp_path / "log").read_bytes() == b"after, last words"


def test_a_stream_takes_all_text(writer: LogWriter, tmp_path: Path) -> None:
    print("é\ud800", file=LogStream(writer.open("log")))
    writer.close(10)
    assert (tmp_path / "log").read_bytes() == "é\\ud800\n".encode()
