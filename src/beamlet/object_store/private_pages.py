"""A copy-on-write mapping of the whole arena that is used again and again.

A page that a reader wrote to is from then on a private copy, and would hide what the store puts there next;
it must be dropped when the reader is done. Dropping the whole range would drop the page-table entries too,
and filling those again is most of the cost of reading (100 MB: 13 ms). So the kernel is asked which pages
became private, and only those go; usually there are none (100 MB: 0.8 ms to ask). If the process had no
page fault at all since the view was made, there is nothing to ask.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from functools import cache

_PAGE = mmap.PAGESIZE
_ENTRY_BYTES = 8
#: Linux's; CPython's mmap module does not name it in every version.
MADV_POPULATE_WRITE = 23
#: Pages asked about at a time: 64 KiB of answers.
_PAGES_PER_READ = 8192

#: The top byte of an entry of /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst).
_PRESENT, _SWAPPED, _FILE = 0x80, 0x40, 0x20


def _is_private(flags: int) -> bool:
    return bool(flags & _SWAPPED) or (bool(flags & _PRESENT) and not flags & _FILE)


_PRIVATE_OR_NOT = bytes(_is_private(flags) for flags in range(256))


def page_faults() -> int:
    """Page faults of this process so far; copying a page on write is one."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_minflt + used.ru_majflt


@cache
def can_keep() -> bool:
    """Whether this kernel makes private copies at a word (from 5.14 on)."""
    with mmap.mmap(-1, _PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        try:
            page.madvise(MADV_POPULATE_WRITE)
        except OSError:
            return False
    return True


class PrivatePages:
    """A MAP_PRIVATE mapping, read and write, of a whole arena."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        try:
            #: Bound to the process that opens it, as the mapping's copies are.
            self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # No /proc, or one that hides it: every view's range is then dropped whole.
            self._pagemap = -1

    def __del__(self) -> None:
        if self._pagemap >= 0:
            os.close(self._pagemap)

    def exporter(self, offset: int, size: int) -> ctypes.Array[ctypes.c_ubyte]:
        """An object whose buffer begins at ``offset`` and has at least ``size`` bytes; callers slice it.

        It lives as long as any view cut from it, and can be weakly referenced: its death is the views' end.
        Lengths are powers of two, because ctypes makes a class per length.
        """
        return (ctypes.c_ubyte * (1 << (size - 1).bit_length())).from_address(self._address + offset)

    def make_private(self, start: int, size: int) -> None:
        """Make every page from ``start``, a page's, on a copy, as if each were written. Raises OSError."""
        self._mapping.madvise(MADV_POPULATE_WRITE, start, size)

    def drop_private(self, offset: int, size: int) -> None:
        """Make ``[offset, offset + size)``, widened to whole pages, show the arena's bytes again."""
        page, end = offset // _PAGE, -(-(offset + size) // _PAGE)
        while page < end:
            count = min(end - page, _PAGES_PER_READ)
            first, last = self._private_span(page, count)
            if first < last:
                self._mapping.madvise(mmap.MADV_DONTNEED, (page + first) * _PAGE, (last - first) * _PAGE)
            page += count

    def _private_span(self, page: int, count: int) -> tuple[int, int]:
        """From the first to past the last page, of ``count`` from ``page`` on, that are private copies."""
        if self._pagemap < 0:
            return 0, count
        where = (self._address // _PAGE + page) * _ENTRY_BYTES
        try:
            entries = os.pread(self._pagemap, count * _ENTRY_BYTES, where)
        except OSError:
            return 0, count
        if len(entries) < count * _ENTRY_BYTES:
            return 0, count
        private = entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES].translate(_PRIVATE_OR_NOT)
        first = private.find(1)
        return (first, private.rfind(1) + 1) if first >= 0 else (0, 0)
