"""A process that may not map the whole store, or not even hold a value: ``ulimit -v``, ``ulimit -d``."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from beamlet.api import init
from beamlet.base.ids import ObjectId
from beamlet.core_worker.owning.object_record import STORED, ObjectRecord
from beamlet.core_worker.owning.own_slab import Place
from beamlet.exceptions import ProcessMemoryError
from beamlet.processes.host import object_store_size
from support.owner import Owner

PROGRAM = """
import resource, sys
from beamlet.exceptions import ProcessMemoryError, RayError
from beamlet.object_store.arena import Arena

MB = 1 << 20
limit = getattr(resource, sys.argv[1])
arena = Arena.create(4096 * MB)
arena.write(100 * MB, [bytes(1000)])
arena._shared = None
with open("/proc/self/status") as status:
    lines = dict(line.split(":", 1) for line in status)
used = {name: int(lines[name].split()[0]) << 10 for name in ("VmSize", "VmData")}
most = used["VmSize" if limit == resource.RLIMIT_AS else "VmData"] + 48 * MB
resource.setrlimit(limit, (most, most))

data, gone = bytes(range(256)) * 4 * 1024, []
for warm in (0, len(data)):
    arena.write(4096 * 5, [data[:100], data[100:]], warm)
    for writable in (True, False):
        release = lambda: gone.append(1)
        view = arena.map_object(4096 * 5, len(data), writable_private=writable, on_release=release)
        assert bytes(view) == data
        assert view.readonly != writable
        lent, ends = arena.lend(4096 * 5, len(data), writable_private=writable)
        assert bytes(lent) == data
        assert lent.readonly != writable
        if ends is not None:
            ends.end()
        arena.write(4096 * 5, [bytes(len(data))], warm)
        assert bytes(lent) == data, "it is a copy, or was kept"
        del view, lent
        arena.write(4096 * 5, [data], warm)
assert len(gone) == 4
assert not arena._viewed
arena.release_pages(0, 8 * MB)
assert bytes(arena.map_object(4096 * 5, 100, writable_private=False)) == bytes(100)
try:
    arena.map_object(0, 512 * MB, writable_private=True, on_release=lambda: gone.append(2))
except MemoryError as error:
    assert isinstance(error, RayError)
    assert isinstance(error, ProcessMemoryError)
    print(error)
assert 2 not in gone, "who asked gives the pin back"
"""


@pytest.mark.parametrize(("limit", "named"), [("RLIMIT_AS", "ulimit -v"), ("RLIMIT_DATA", "ulimit -d")])
def test_what_cannot_be_mapped_is_copied_and_what_cannot_be_copied_says_why(limit: str, named: str) -> None:
    """mmap failed, and users got a bare "Cannot allocate memory"."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, limit], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "536870912 bytes" in done.stdout
    assert named in done.stdout
    assert "Raise it where the program is started" in done.stdout


def test_a_limit_on_the_size_of_files_is_named() -> None:
    """The store is one, in memory: "File too large" said nothing."""
    program = (
        "import resource; from beamlet.object_store.arena import Arena;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); Arena.create(2 << 20)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert "exceed 1048576 (ulimit -f, RLIMIT_FSIZE): raise that" in done.stderr


def test_the_store_is_no_larger_than_files_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def limit(which: int) -> tuple[int, int]:
        most = 90 << 20 if which == resource.RLIMIT_FSIZE else resource.RLIM_INFINITY
        return most, most

    monkeypatch.setattr(resource, "getrlimit", limit)
    assert object_store_size(Path("/"), {"BEAMLET_OBJECT_STORE_SHARE": "0.9"}) == 90 << 20


@pytest.mark.parametrize(
    "refused",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ],
)
def test_init_without_memory_for_the_connection_names_the_limits(
    monkeypatch: pytest.MonkeyPatch, refused: Exception
) -> None:
    def limit(which: int) -> tuple[int, int]:
        most = 60_000 << 10 if which == resource.RLIMIT_DATA else resource.RLIM_INFINITY
        return most, most

    def join() -> None:
        raise refused

    monkeypatch.setattr(resource, "getrlimit", limit)
    driver: Any = SimpleNamespace(join=join)
    with pytest.raises(ProcessMemoryError, match=r"init\(\).* its data is 60000 KiB \(ulimit -d"):
        init._join(driver)


class NoRoomAnywhere:
    """The node's store is full, and this process may have no more memory."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def move(self, _1: ObjectId, _2: Place, _3: int, _4: str, then: Callable[[bool], None]) -> None:
        then(False)

    def bytes_at(self, _: Place, size: int) -> memoryview:
        raise ProcessMemoryError(f"{size} bytes")


def test_who_asked_for_a_value_that_can_leave_our_slab_on_no_way_is_told_so() -> None:
    """It was waited for, for ever."""
    owner = Owner()
    objects: Any = owner.objects
    objects._store = NoRoomAnywhere(owner.own)
    owner.own.take(1)
    owner.own.came(0, 1 << 20, 0)
    place = owner.own.take(1000)
    ref = owner.promise()
    record = owner.record(ref)
    record.state, record.place, record.size = STORED, place, 1000
    told: list[ObjectRecord] = []
    owner.objects.share(ref._id, record, told.append)
    assert told == [record]
    with pytest.raises(ProcessMemoryError, match="1000 bytes"):
        owner.objects.load(ref._id, record)
    assert not len(owner.own)
    owner.close()
