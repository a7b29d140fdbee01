"""What forks of a process may still read is held until they have ended."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from beamlet.core_worker.owning.forked_views import ForkedViews
from beamlet.object_store.arena import Arena
from beamlet.rpc.reactor import Reactor

SIZE = 1 << 20


class AProcess:
    """Its forks are made of copies of the pipe's write end."""

    def __init__(self) -> None:
        self.arena = Arena.create(4 * SIZE)
        self.reactor = Reactor(spin_s=0)
        self.forks = ForkedViews(self.reactor, self.arena)
        self.released = 0
        self.views = [self.arena.map_object(0, SIZE, writable_private=True, on_release=self._release)]

    def _release(self) -> None:
        self.released += 1

    def fork(self) -> int:
        self.forks.before()
        theirs = self.forks._begun[1] if self.forks._begun else -1
        child = os.dup(theirs) if theirs >= 0 else -1
        self.forks.after_in_parent()
        return child


def _begun(process: AProcess) -> tuple[int, int, list[object]]:
    assert process.forks._begun is not None
    return process.forks._begun


@pytest.fixture
def process() -> Iterator[AProcess]:
    made = AProcess()
    yield made
    made.forks.close()
    made.reactor.close()
    made.arena.close()


def test_a_view_is_held_until_the_last_of_the_forks_that_see_it_has_ended(process: AProcess) -> None:
    first, second = process.fork(), process.fork()
    process.views.clear()
    for child in (first, second):
        process.reactor.run_once(0)
        assert process.released == 0
        os.close(child)
    process.reactor.run_once(0)
    assert process.released == 1
    assert not process.forks._held


def test_who_reads_nothing_pays_nothing_for_forks(process: AProcess) -> None:
    process.views.clear()
    before = len(os.listdir("/proc/self/fd"))
    process.forks.before()
    assert len(os.listdir("/proc/self/fd")) == before
    process.forks.after_in_parent()
    assert not process.forks._held


def test_what_another_thread_read_on_the_way_to_the_fork_is_held_too(process: AProcess) -> None:
    process.forks.before()
    process.views.append(
        process.arena.map_object(SIZE, SIZE, writable_private=True, on_release=process._release)
    )
    child = os.dup(_begun(process)[1])
    process.forks.after_in_parent()
    process.views.clear()
    process.reactor.run_once(0)
    assert process.released == 0
    os.close(child)
    process.reactor.run_once(0)
    assert process.released == 2


def test_without_a_descriptor_left_views_are_held_until_we_leave(
    process: AProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pipe2", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        process.forks.before()
    process.forks.after_in_parent()
    process.views.clear()
    process.reactor.run_once(0)
    assert process.released == 0
    process.forks.close()
    assert process.released == 1


def test_a_fork_closes_its_parents_ends_and_keeps_its_own(process: AProcess) -> None:
    earlier = process.fork()
    process.forks.before()
    ended, mine, _ = _begun(process)
    parents = [*process.forks._held, ended]
    for fd in parents:
        process.reactor.remove_reader(fd)
    process.forks.after_in_child()
    for fd in parents:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    os.fstat(mine)
    os.close(mine)
    os.close(earlier)


def test_what_is_pinned_is_held_though_a_copy_of_what_was_lent_cannot_be_made(
    process: AProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(process.arena, "keep_lent", refuse)
    with pytest.raises(OSError, match="no memory"):
        process.forks.before()
    child = os.dup(_begun(process)[1])
    process.forks.after_in_parent()
    process.views.clear()
    process.reactor.run_once(0)
    assert process.released == 0
    os.close(child)
    process.reactor.run_once(0)
    assert process.released == 1
