"""A process that may not map the whole store, or not even hold a value: ``ulimit -v``, ``ulimit -d``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from beamlet.base.ids import ObjectId
from beamlet.core_worker.owning.object_record import STORED, ObjectRecord
from beamlet.core_worker.owning.own_slab import Place
from beamlet.exceptions import ProcessMemoryError
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
