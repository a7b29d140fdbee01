"""The arena's memory: what is written is read, copies are private, the last view's death is reported."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import select
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from beamlet.object_store.arena import Arena
from beamlet.object_store.buffers import Buffer
from beamlet.object_store.extents import ExtentSet
from beamlet.object_store.lifeline import Lifeline

PAGE = mmap.PAGESIZE
MB = 1 << 20
CAPACITY = 64 * MB


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena.create(CAPACITY)
    yield made
    made.close()


def stored(arena: Arena, offset: int, size: int) -> bytes:
    """What the store itself has there."""
    return os.pread(arena.fd, size, offset)


def pattern(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def test_a_new_arena_is_sparse_and_cannot_be_resized(arena: Arena) -> None:
    status = os.fstat(arena.fd)
    assert (status.st_size, status.st_blocks) == (CAPACITY, 0)
    for size in (CAPACITY - PAGE, CAPACITY + PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(arena.fd, size)


@pytest.mark.parametrize("warm_pages", [0, 2, 100])
def test_buffers_are_written_one_after_another(arena: Arena, warm_pages: int) -> None:
    pieces: list[Buffer] = [pattern(100), bytearray(pattern(3 * PAGE + 5)), b"", memoryview(pattern(PAGE))]
    for _ in range(2):  # the second time this process has the pages mapped
        arena.write(PAGE, pieces, warm=warm_pages * PAGE)
        assert stored(arena, PAGE, 4 * PAGE + 105) == b"".join(pieces)
    assert stored(arena, 0, PAGE) == bytes(PAGE)


def test_arrays_are_written_as_their_bytes(arena: Arena) -> None:
    array = np.arange(10_000, dtype=np.float64)
    arena.write(0, [array.data], warm=PAGE)
    assert stored(arena, 0, array.nbytes) == array.tobytes()


def test_more_buffers_than_one_system_call_takes(arena: Arena) -> None:
    pieces = [bytes([index % 251]) * 3 for index in range(5000)]
    arena.write(0, pieces)
    assert stored(arena, 0, 15_000) == b"".join(pieces)


def test_large_cold_writes(arena: Arena) -> None:
    pieces = [pattern(7 * MB + 3), pattern(11 * MB), pattern(PAGE + 1)]
    arena.write(2 * MB, pieces)
    assert stored(arena, 2 * MB, 18 * MB + PAGE + 4) == b"".join(pieces)
    assert stored(arena, 20 * MB + PAGE + 4, PAGE) == bytes(PAGE)


def test_a_kernel_that_cannot_populate_costs_only_time(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beamlet.object_store.arena._populate", lambda *_: False)
    data = pattern(3 * MB)
    arena.write(0, [data], warm=len(data))
    assert stored(arena, 0, len(data)) == data


def test_a_write_past_the_end_is_refused(arena: Arena) -> None:
    with pytest.raises(ValueError, match="reach past"):
        arena.write(CAPACITY - PAGE, [bytes(PAGE + 1)])
    arena.write(CAPACITY - PAGE, [bytes(PAGE)])


def test_memory_that_is_not_to_be_had_is_explained(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "pwritev", no_memory)
    with pytest.raises(OSError, match="no space") as caught:
        arena.write(0, [bytes(10)])
    assert "no memory left" in caught.value.__notes__[0]


def test_another_process_side_sees_what_is_written(arena: Arena) -> None:
    other = Arena.attach(os.dup(arena.fd), CAPACITY)
    arena.write(PAGE, [b"here"])
    assert bytes(other.map_object(PAGE, 4, writable_private=False)) == b"here"
    other.close()


def test_a_smaller_file_than_announced_is_refused(arena: Arena) -> None:
    with pytest.raises(ValueError, match="were announced"):
        Arena.attach(arena.fd, CAPACITY + 1)


@pytest.mark.parametrize("writable", [True, False])
def test_reading_copies_nothing_and_writability_is_as_asked(arena: Arena, writable: bool) -> None:
    data = pattern(3 * PAGE + 7)
    arena.write(PAGE, [data])
    view = arena.map_object(PAGE, len(data), writable_private=writable)
    assert view == data
    assert view.readonly is not writable
    array = np.frombuffer(view, np.uint8)
    assert array.flags.writeable is writable
    arena.write(PAGE + 5, [b"\x00\x01\x02"])  # what no other test may do: it shows whose memory this is
    assert bytes(view[5:8]) == b"\x00\x01\x02"


def test_what_a_reader_writes_is_its_own(arena: Arena) -> None:
    data = pattern(4 * PAGE)
    arena.write(0, [data])
    first = arena.map_object(0, len(data), writable_private=True)
    second = arena.map_object(0, len(data), writable_private=True)
    third = arena.map_object(0, len(data), writable_private=False)
    first[:] = bytes(len(data))
    second[0] = data[0] ^ 1
    assert stored(arena, 0, len(data)) == data
    assert first == bytes(len(data))
    assert second[1:] == data[1:]
    assert third == data


@pytest.mark.parametrize("pagemap", ["readable", "hidden", "failing"])
def test_the_next_reader_sees_the_store_not_what_the_last_one_wrote(
    arena: Arena, pagemap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pattern(40 * PAGE)
    arena.write(0, [data])
    view = arena.map_object(0, len(data), writable_private=True)
    if pagemap == "hidden":
        slab = arena._slabs[True]
        os.close(slab._pagemap)
        slab._pagemap = -1
    elif pagemap == "failing":
        monkeypatch.setattr("os.pread", lambda *_: b"")
    for page in (3, 17, 30):
        view[page * PAGE] ^= 0xFF
    del view
    monkeypatch.undo()
    assert arena.map_object(0, len(data), writable_private=True) == data
    replaced = pattern(len(data), seed=2)
    arena.write(0, [replaced], warm=len(data))
    assert arena.map_object(0, len(data), writable_private=True) == replaced


def test_large_views_are_cleaned_too_wherever_they_were_written(arena: Arena) -> None:
    """They are not looked at when the process had no page fault meanwhile; a write is one."""
    data = pattern(40 * MB)
    arena.write(0, [data])
    for position in (0, 33 * MB + 5, len(data) - 1):
        for _ in range(2):
            view = arena.map_object(0, len(data), writable_private=True)
            assert view == data
            del view
        view = arena.map_object(0, len(data), writable_private=True)
        view[position] ^= 0xFF
        del view
    assert arena.map_object(0, len(data), writable_private=True) == data


def test_a_neighbours_private_pages_are_left_alone(arena: Arena) -> None:
    arena.write(0, [bytes(6 * PAGE)])
    mine = arena.map_object(0, 2 * PAGE, writable_private=True)
    theirs = arena.map_object(2 * PAGE, 3 * PAGE, writable_private=True)
    mine[:] = b"m" * len(mine)
    theirs[:] = b"t" * len(theirs)
    del mine
    assert theirs == b"t" * len(theirs)


@pytest.mark.parametrize("writable", [True, False])
def test_the_pin_is_released_once_when_the_last_view_dies(arena: Arena, writable: bool) -> None:
    arena.write(0, [bytes(PAGE)])
    released: list[str] = []
    view = arena.map_object(0, PAGE, writable_private=writable, on_release=lambda: released.append("first"))
    array = np.frombuffer(view[100:200], np.uint8)
    apart = arena.map_object(0, PAGE, writable_private=writable, on_release=lambda: released.append("second"))
    part = array[10:20].reshape(2, 5)
    del view, array
    gc.collect()
    assert released == []
    del part
    assert released == ["first"]
    del apart
    assert released == ["first", "second"]


def test_the_private_pages_are_dropped_before_the_pin_is(arena: Arena) -> None:
    """Once the pin is gone the range may be somebody else's."""
    arena.write(0, [b"store"])
    seen: list[bytes] = []
    view = arena.map_object(
        0,
        5,
        writable_private=True,
        on_release=lambda: seen.append(bytes(arena.map_object(0, 5, writable_private=True))),
    )
    view[:] = b"user!"
    del view
    assert seen == [b"store"]


def test_a_copy_is_made_when_no_mapping_is_left(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pattern(2 * PAGE + 1)
    arena.write(PAGE, [data])
    released: list[int] = []
    first = arena.map_object(PAGE, len(data), writable_private=True)

    def refuse(*_: object, **__: object) -> mmap.mmap:
        raise OSError(errno.ENOMEM, "map_count")

    monkeypatch.setattr("mmap.mmap", refuse)
    copy = arena.map_object(PAGE, len(data), writable_private=True, on_release=lambda: released.append(1))
    assert released == [1]  # nothing of the arena is in use
    copy[0] ^= 1
    assert first == data
    assert copy[1:] == data[1:]


def test_views_outlive_the_arena_object() -> None:
    arena = Arena.create(CAPACITY)
    arena.write(0, [b"still here"])
    view = arena.map_object(0, 10, writable_private=True)
    arena.close()
    del arena
    gc.collect()
    assert bytes(view) == b"still here"


def test_released_pages_leave_memory_and_read_as_zeros(arena: Arena) -> None:
    arena.write(0, [pattern(8 * PAGE)])
    arena.write(0, [pattern(8 * PAGE)], warm=8 * PAGE)  # now mapped here
    before = os.fstat(arena.fd).st_blocks
    arena.release_pages(2 * PAGE, 4 * PAGE)
    assert os.fstat(arena.fd).st_blocks == before - 4 * PAGE // 512
    assert stored(arena, 2 * PAGE, 4 * PAGE) == bytes(4 * PAGE)
    assert stored(arena, 0, 2 * PAGE) != bytes(2 * PAGE)
    data = pattern(8 * PAGE, seed=3)
    arena.write(0, [data], warm=8 * PAGE)  # told wrongly: only slower
    assert stored(arena, 0, len(data)) == data


def test_threads_write_ranges_of_their_own(arena: Arena) -> None:
    pieces = [pattern(300_000, seed) for seed in range(8)]
    offsets = [index * 512 * 1024 for index in range(8)]

    def put(index: int) -> None:
        for warm in (0, 300_000, 300_000):
            arena.write(offsets[index], [pieces[index]], warm)

    threads = [threading.Thread(target=put, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert [stored(arena, offset, 300_000) for offset in offsets] == pieces
    arena._mapped.check_invariants()


@pytest.mark.parametrize(("offset", "size"), [(-PAGE, PAGE), (0, 0), (CAPACITY, 1)])
def test_a_view_outside_the_arena_is_refused(arena: Arena, offset: int, size: int) -> None:
    with pytest.raises(ValueError, match="do not lie in the arena"):
        arena.map_object(offset, size, writable_private=True)


# -- what is lent --------------------------------------------------------------------------------


@pytest.mark.parametrize("writable", [True, False])
def test_a_lent_view_that_is_gone_leaves_nothing_to_keep(arena: Arena, writable: bool) -> None:
    arena.write(0, [pattern(MB)])
    view, lent = arena.lend(0, MB, writable_private=writable)
    assert lent is not None
    assert view.readonly is not writable
    assert bytes(view) == pattern(MB)
    del view
    assert not lent.end()


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize("offset", [0, 3 * PAGE])
def test_what_is_kept_of_a_lent_range_outlives_it(arena: Arena, writable: bool, offset: int) -> None:
    """And what comes there next, at another offset, is seen by its own readers."""
    arena.write(0, [pattern(MB)])
    kept, lent = arena.lend(0, MB, writable_private=writable)
    second, second_lent = arena.lend(0, MB, writable_private=writable)
    assert lent is not None
    assert second_lent is not None
    if writable:
        kept[5] = 200
    assert lent.end()
    assert second_lent.end()
    arena.write(offset, [pattern(MB, 2)])
    for mine in (True, False):
        assert bytes(arena.map_object(offset, MB, writable_private=mine)) == pattern(MB, 2)
        view, third = arena.lend(offset, MB, writable_private=mine)
        assert bytes(view) == pattern(MB, 2)
        del view
        assert third is not None
        assert not third.end()
    expected = bytearray(pattern(MB))
    assert bytes(second) == bytes(expected)
    if writable:
        expected[5] = 200
    assert bytes(kept) == bytes(expected)
    del kept, second
    view, _ = arena.lend(offset, MB, writable_private=writable)
    assert bytes(view) == pattern(MB, 2)
    assert len(arena._viewed) == 1, "it is mapped where all are, not apart"


@pytest.mark.parametrize("warm", [0, MB])
def test_after_the_end_of_writing_nothing_is_written(arena: Arena, warm: int) -> None:
    arena.end_writing(0.0)
    with pytest.raises(OSError, match="has left the cluster"):
        arena.write(0, [pattern(MB)], warm)
    assert bytes(arena.map_object(0, MB, writable_private=False)) == bytes(MB)


def test_the_end_of_writing_waits_for_the_step_of_who_writes(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what that thread has not begun by then, it does not write."""
    begun, may_go_on = threading.Event(), threading.Event()
    real, raised = os.pwritev, []

    def slowly(fd: int, views: list[memoryview], offset: int) -> int:
        begun.set()
        may_go_on.wait()
        return real(fd, [views[0][:PAGE]], offset)

    def write() -> None:
        try:
            arena.write(0, [pattern(MB)])
        except OSError as error:
            raised.append(error)

    monkeypatch.setattr(os, "pwritev", slowly)
    writer = threading.Thread(target=write)
    ender = threading.Thread(target=arena.end_writing, args=(60.0,))
    writer.start()
    begun.wait()
    ender.start()
    while arena._may_write:
        pass
    assert ender.is_alive()
    may_go_on.set()
    ender.join()
    assert not arena._writing
    writer.join()
    assert raised
    seen = bytes(arena.map_object(0, MB, writable_private=False))
    assert seen == pattern(MB)[:PAGE] + bytes(MB - PAGE)


def test_who_ends_writing_in_the_middle_of_his_own_does_not_wait_for_himself(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal's handler may leave the cluster."""
    real = os.pwritev

    def interrupted(fd: int, views: list[memoryview], offset: int) -> int:
        arena.end_writing(60.0)
        return real(fd, [views[0][:PAGE]], offset)

    monkeypatch.setattr(os, "pwritev", interrupted)
    with pytest.raises(OSError, match="has left the cluster"):
        arena.write(0, [pattern(MB)])


@pytest.mark.parametrize("writable", [True, False])
def test_every_living_view_can_be_kept_at_once(arena: Arena, writable: bool) -> None:
    """In the mapping of all or one of its own, in the middle of the arena, written to or not."""
    arena.write(0, [pattern(4 * MB)])
    views = [
        arena.map_object(offset, MB, writable_private=writable, on_release=lambda: None)
        for offset in (0, 0, MB + PAGE)
    ]
    gone = arena.map_object(3 * MB, MB, writable_private=writable)
    del gone
    expected = [bytes(view) for view in views]
    if writable:
        views[1][7:9] = b"me"
        expected[1] = expected[1][:7] + b"me" + expected[1][9:]
    arena.keep_all()
    arena.write(0, [pattern(4 * MB, 2)])
    assert [bytes(view) for view in views] == expected


def test_views_that_cannot_be_kept_are_told_of(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    arena.write(0, [pattern(MB)])
    view = arena.map_object(0, MB, writable_private=True)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr("beamlet.object_store.private_pages.PrivatePages.make_private", refuse)
    with pytest.raises(OSError, match="no memory"):
        arena.keep_all()
    del view
    assert not arena._living
    arena.keep_all()


@pytest.mark.parametrize("writable", [True, False])
def test_a_fork_needs_what_is_pinned_held_and_what_was_lent_copied(arena: Arena, writable: bool) -> None:
    """In the mapping of all, or one of its own (the second of each)."""
    arena.write(0, [pattern(2 * MB)])
    released: list[int] = []
    mine = [
        arena.map_object(0, MB, writable_private=writable, on_release=lambda: released.append(1))
        for _ in range(2)
    ]
    lent = [arena.lend(MB, MB, writable_private=writable) for _ in range(2)]
    arena.keep_lent()
    held = arena.held()
    mine.clear()
    assert (released, len(held)) == ([], 2)
    arena.write(MB, [pattern(MB, 2)])
    assert all(bytes(view) == pattern(2 * MB)[MB:] for view, _ in lent)
    assert len(arena.held()) == 2
    held.clear()
    assert released == [1, 1]
    lent.clear()


def test_a_kernel_that_cannot_keep_lends_copies(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beamlet.object_store.arena.can_keep", lambda: False)
    arena.write(0, [pattern(MB)])
    view, lent = arena.lend(0, MB, writable_private=False)
    assert lent is None
    assert view.readonly
    arena.write(0, [pattern(MB, 2)])
    assert bytes(view) == pattern(MB)
    with pytest.raises(ValueError, match="do not lie in the arena"):
        arena.lend(CAPACITY, MB, writable_private=True)


def test_what_runs_in_the_middle_of_the_books_may_read_and_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The garbage collector runs a user's ``__del__`` there, which may wait for another thread of ours."""
    arena = Arena.create(1 << 20)
    arena.write(0, [b"a" * 8192])
    done: list[bytes] = []

    def in_the_middle() -> None:
        arena.write(65536, [b"b" * 8192], warm=8192)
        view, lent = arena.lend(65536, 8192, writable_private=True)
        if lent is not None:
            lent.end()
        mapped = arena.map_object(0, 8192, writable_private=True)
        done.append(bytes(mapped[:1]) + bytes(view[:1]))
        arena.release_pages(131072, 4096)

    merge = arena._mapped.merge

    def merging(start: int, size: int) -> None:
        if not done:
            in_the_middle()
            other = threading.Thread(target=in_the_middle, daemon=True)
            other.start()
            other.join(10.0)
        merge(start, size)

    monkeypatch.setattr(ExtentSet, "merge", lambda _, start, size: merging(start, size))
    thread = threading.Thread(target=lambda: arena.write(0, [b"a" * 8192], warm=8192), daemon=True)
    thread.start()
    thread.join(20.0)
    assert not thread.is_alive(), "it waits for itself"
    assert done == [b"ab", b"ab"]
    arena.close()


class Ends:
    """Stands for a lifeline; ``told`` is when it ended."""

    def __init__(self, told: list[str]) -> None:
        self._told = told

    def __del__(self) -> None:
        self._told.append("ended")


@pytest.fixture
def tied() -> Iterator[tuple[Arena, list[str]]]:
    """An arena with a lifeline, and whether that has ended."""
    told: list[str] = []
    made = Arena.create(CAPACITY)
    yield Arena.attach(os.dup(made.fd), CAPACITY, Ends(told)), told
    made.close()


@pytest.mark.parametrize("writable", [True, False])
def test_who_has_left_holds_its_lifeline_for_the_views_that_live(
    tied: tuple[Arena, list[str]], writable: bool
) -> None:
    """In the mapping of all, and in one of its own."""
    arena, told = tied
    views = [arena.map_object(0, MB, writable_private=writable, on_release=lambda: None) for _ in range(2)]
    arena.leave()
    for _ in range(2):
        assert not told
        views.pop()
    assert told == ["ended"]


def test_views_that_became_copies_need_no_lifeline(tied: tuple[Arena, list[str]]) -> None:
    arena, told = tied
    views = [arena.map_object(0, MB, writable_private=True, on_release=lambda: None) for _ in range(2)]
    arena.keep_all()
    assert not told
    arena.close()
    assert told == ["ended"]
    del views


def test_a_view_that_could_not_be_copied_keeps_the_lifeline(
    tied: tuple[Arena, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    arena, told = tied
    view = arena.map_object(0, MB, writable_private=True)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr("beamlet.object_store.private_pages.PrivatePages.make_private", refuse)
    with pytest.raises(OSError, match="no memory"):
        arena.keep_all()
    arena.leave()
    assert not told
    del view
    assert told == ["ended"]


def test_a_write_that_is_under_way_keeps_the_lifeline(
    tied: tuple[Arena, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    arena, told = tied
    real, seen = os.pwritev, []

    def meanwhile(fd: int, views: list[memoryview], offset: int) -> int:
        arena.leave()
        seen.append(list(told))
        return real(fd, [views[0][:PAGE]], offset)

    monkeypatch.setattr(os, "pwritev", meanwhile)
    with pytest.raises(OSError, match="has left the cluster"):
        arena.write(0, [pattern(MB)])
    assert (seen, told) == ([[]], ["ended"])


@pytest.mark.parametrize("writable", [True, False])
def test_who_has_left_reads_nothing_more(arena: Arena, writable: bool) -> None:
    kept = arena.map_object(0, MB, writable_private=writable)
    arena.leave()
    for offset in (0, MB):
        with pytest.raises(OSError, match="has left the cluster"):
            arena.map_object(offset, MB, writable_private=writable)
    assert len(kept) == MB
    assert len(arena._living) == 1
    assert len(arena._viewed) == writable


def test_a_lifeline_is_a_descriptor_open_in_forks_that_have_views() -> None:
    """One child has a view and one has none; each has left, as every fork does at once."""
    reads, writes = os.pipe()
    made = Arena.create(CAPACITY)
    arena = Arena.attach(os.dup(made.fd), CAPACITY, Lifeline(writes))
    children = []
    for with_view in (True, False):
        view = arena.map_object(0, MB, writable_private=True) if with_view else None
        child = os.fork()
        if not child:
            arena.leave()
            signal.alarm(30)
            signal.pause()
        children.append(child)
        del view
    try:
        arena.leave()
        assert select.select([reads], [], [], 0.2) == ([], [], [])
        os.kill(children[0], signal.SIGKILL)
        assert select.select([reads], [], [], 20.0)[0], "the other child lives, but has let go"
        assert os.read(reads, 1) == b""
        assert os.waitpid(children[1], os.WNOHANG) == (0, 0)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    os.close(reads)
    made.close()


def test_a_lifeline_closes_nothing_but_itself() -> None:
    """Programs that become daemons close descriptors that they do not know, and open others."""
    reads, writes = os.pipe()
    lifeline = Lifeline(writes)
    os.close(writes)
    assert os.open(os.devnull, os.O_RDONLY) == writes
    del lifeline
    os.fstat(writes)
    os.close(writes)
    lifeline = Lifeline(os.dup(reads))
    number = lifeline._fd
    os.close(number)
    del lifeline
    os.close(reads)


def test_a_fork_does_not_hold_the_lifeline_for_a_write_of_another_thread(
    tied: tuple[Arena, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That thread is not in the child, and never ends its write there."""
    arena, told = tied
    begun, goes_on = threading.Event(), threading.Event()
    real = os.pwritev

    def slow(fd: int, views: list[memoryview], offset: int) -> int:
        begun.set()
        goes_on.wait(20.0)
        return real(fd, views, offset)

    monkeypatch.setattr(os, "pwritev", slow)
    writer = threading.Thread(target=arena.write, args=(0, [pattern(MB)]))
    writer.start()
    assert begun.wait(20.0)
    child = os.fork()
    if not child:
        arena.abandon()
        os._exit(len(told))
    goes_on.set()
    writer.join(20.0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert not told
