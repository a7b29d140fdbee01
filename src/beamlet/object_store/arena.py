"""The store's memory: one sparse memfd per node, mapped by every process that reads or writes objects.

No name in any file system: nothing to unlink, no /dev/shm size to exceed. The descriptor travels by
inheritance or SCM_RIGHTS. What goes where is the allocator's decision; this file only moves bytes.

Every process has up to three views of the whole arena, each made on first use:

    shared     writes land in the store                  write(), release_pages()
    private    copy-on-write: arrays are the user's own  map_object(writable_private=True)
    read-only  the same for compat="ray"                 map_object(writable_private=False)

A process whose address space is too small for these (ulimit -v) does without: it writes with pwrite, and
reads copies.

One mapping for all objects costs no descriptor and no VMA per object, and page tables stay filled from one
read to the next, which is where the time goes (figures: docs/decisions.md, "Arena writes").
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import threading
import weakref
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import Any

from beamlet.object_store.buffers import Buffer, flat, split
from beamlet.object_store.extents import ExtentSet
from beamlet.object_store.own_copy import own_copy
from beamlet.object_store.private_pages import MADV_POPULATE_WRITE, PrivatePages, can_keep, page_faults
from beamlet.object_store.views import LentView, Release, ViewToken

_PAGE = mmap.PAGESIZE
#: Linux constants that CPython's mmap module does not name in every version.
_MADV_POPULATE_READ = 22
_MAP_NORESERVE = 0x4000
#: memoryview assignment holds the GIL: at most about a millisecond at a time.
_COPY_STEP = 8 << 20
_IOV_MAX = 1024
#: Counting page faults takes 1 µs at each end of a view; looking at a page's state, 0.04–0.1 µs.
_COUNT_FAULTS_FROM = 1 << 18
#: mmap refused for want of map entries, memory or descriptors.
_OUT_OF_MAPS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
#: Stands for the lifeline of a process whose end others hear of in another way.
_NONE_NEEDED = object()


class WritingEnded(OSError):
    """After ``end_writing``, or ``leave``."""


class Arena:
    """One process's access to the node's arena. Thread-safe, as long as ranges are the caller's own."""

    def __init__(self, fd: int, capacity: int, lifeline: object | None = None) -> None:
        """Takes ownership of ``fd``. Prefer ``create`` and ``attach``."""
        self.fd = fd
        self.capacity = capacity
        #: While anybody holds it, what we read and write is not given to others. None: we have left.
        self._lifeline: object | None = lifeline or _NONE_NEEDED
        self._shared: mmap.mmap | None = None
        self._slabs: dict[bool, PrivatePages] = {}
        #: What of ``_shared`` this process's page tables are known to have. Being wrong costs only time: who
        #: finds it in use does without, for the user may be in the middle of it, by the garbage collector (a
        #: ``__del__``), and wait for who comes.
        self._mapped = ExtentSet()
        self._mapped_lock = threading.Lock()
        #: (writable, offset) with a live view in that private slab: one that is copy-on-write, or was lent.
        self._viewed: dict[tuple[bool, int], ViewToken] = {}
        #: What (start, size) of the private slabs shows not the arena but copies that somebody keeps, by view
        #: (``keep``). Finalizers take out: each step on these two is one of the interpreter's own.
        self._kept: dict[bool, dict[ViewToken, tuple[int, int]]] = {False: {}, True: {}}
        #: Living views in the private slabs, by their ``Release``; mappings of one view: if it is lent, and
        #: our lifeline until it is a copy.
        self._living: dict[int, weakref.finalize[[], Any]] = {}
        self._apart: weakref.WeakKeyDictionary[mmap.mmap, tuple[bool, object]] = weakref.WeakKeyDictionary()
        #: Writes under way: whose, and our lifeline. No lock: a signal's handler may end them.
        self._writing: dict[object, tuple[int, object]] = {}
        self._may_write = True

    @classmethod
    def create(cls, capacity: int) -> Arena:
        """Make the node's arena; no memory is used until it is written. No process can resize it."""
        fd = os.memfd_create("beamlet-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, capacity)
        except OSError as error:
            os.close(fd)
            if error.errno != errno.EFBIG:
                raise
            most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            text = (
                f"the object store of {capacity} bytes is a file, in memory, and no file of this program may "
                f"exceed {most} (ulimit -f, RLIMIT_FSIZE): raise that, or give init() a smaller "
                "object_store_memory"
            )
            raise OSError(error.errno, text) from None
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return cls(fd, capacity)

    @classmethod
    def attach(cls, fd: int, capacity: int, lifeline: object | None = None) -> Arena:
        """Use an arena made by another process, through a descriptor that becomes this object's own.

        lifeline: see ``object_store/lifeline.py``; None where nobody waits for one.
        """
        found = os.fstat(fd).st_size
        if found < capacity:
            raise ValueError(f"the arena behind descriptor {fd} has {found} bytes, {capacity} were announced")
        return cls(fd, capacity, lifeline)

    def close(self) -> None:
        """Let go of the descriptor. Views that live keep their memory; nothing new can be mapped."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self._shared = None
        self.leave()

    def leave(self) -> None:
        """Nothing is written, and nothing more is read; with the last view that lives our lifeline ends."""
        self._may_write = False
        self._lifeline = None

    def abandon(self) -> None:
        """In a fork: as ``leave``, and whoever was writing is not here."""
        self.leave()
        self._writing.clear()

    # --- writing -------------------------------------------------------------------------------------

    def write(self, offset: int, buffers: Sequence[Buffer], warm: int = 0) -> None:
        """Write ``buffers`` one after another from ``offset`` on, as fast as the pages there allow.

        warm: how many bytes from ``offset`` on have pages already (``Created.warm``); wrong is only slow.
        """
        views = [flat(buffer) for buffer in buffers]
        total = sum(view.nbytes for view in views)
        if offset < 0 or offset + total > self.capacity:
            raise ValueError(f"{total} bytes at {offset} reach past the arena's {self.capacity}")
        head, tail = (views, []) if warm >= total else split(views, warm)
        me = object()
        self._writing[me] = threading.get_ident(), self._lifeline
        try:
            self._check_may_write()
            if head:
                self._write_warm(offset, head)
            if tail:
                self._write_cold(offset + min(warm, total), tail)
        finally:
            self._writing.pop(me, None)  # in a fork amid it, ``abandon`` has

    def end_writing(self, within_s: float) -> None:
        """Nothing is written from here on: what was ours to write is about to be others'.

        Waits for other threads that are in the middle of it, to the end of their step.
        """
        self._may_write = False
        me, deadline = threading.get_ident(), monotonic() + within_s
        while any(writer != me for writer, _ in self._writing.copy().values()) and monotonic() < deadline:
            sleep(0.0005)

    def _check_may_write(self) -> None:
        if not self._may_write:
            raise _ended()

    def _write_warm(self, offset: int, views: list[memoryview]) -> None:
        """Pages exist: make this process's page tables know them, then it is a memcpy."""
        shared = self._shared_view()
        if shared is None:
            self._pwrite(offset, views)
            return
        total = sum(view.nbytes for view in views)
        known = self._on_mapped(self._mapped.covers, offset, total)
        if not known and _populate(shared, offset, total):
            self._on_mapped(self._mapped.merge, offset, total)
        self._copy(shared, offset, views)

    def _write_cold(self, offset: int, views: list[memoryview]) -> None:
        """No pages yet: pwrite makes them without clearing and mapping them first."""
        total = sum(view.nbytes for view in views)
        self._on_mapped(self._mapped.discard, offset, total)
        self._pwrite(offset, views)

    def _pwrite(self, offset: int, views: list[memoryview]) -> None:
        position = 0
        while views:
            self._check_may_write()
            try:
                written = os.pwritev(self.fd, views[:_IOV_MAX], offset + position)
            except OSError as error:
                error.add_note(
                    f"while writing {sum(view.nbytes for view in views)} bytes to the object store's arena: "
                    f"the machine, or this container, has no memory left for it"
                )
                raise
            position += written
            _, views = split(views, written)

    def _copy(self, shared: mmap.mmap, offset: int, views: list[memoryview]) -> None:
        for view in views:
            rest, size = view, view.nbytes
            while size:
                self._check_may_write()
                step = min(size, _COPY_STEP)
                shared[offset : offset + step] = rest if step == size else rest[:step]
                offset += step
                size -= step
                rest = rest[step:] if size else rest

    def _on_mapped(self, step: Callable[[int, int], bool | None], offset: int, size: int) -> bool | None:
        """``step`` of ``_mapped``; None, and nothing is done, while somebody is at it."""
        if not self._mapped_lock.acquire(blocking=False):
            return None
        try:
            return step(offset, size)
        finally:
            self._mapped_lock.release()

    def _shared_view(self) -> mmap.mmap | None:
        """None: our address space is too small for it."""
        shared = self._shared
        if shared is None:  # two threads may each make one: the one that is not kept costs nothing
            try:
                shared = self._shared = mmap.mmap(self.fd, self.capacity, mmap.MAP_SHARED)
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    raise
        return shared

    def release_pages(self, offset: int, size: int) -> None:
        """Give the pages of a free range back to the kernel; it reads as zeros and is cold afterwards."""
        if (shared := self._shared_view()) is not None:
            shared.madvise(mmap.MADV_REMOVE, offset, size)
        else:
            with mmap.mmap(self.fd, size, mmap.MAP_SHARED, offset=offset) as part:
                part.madvise(mmap.MADV_REMOVE)
        self._on_mapped(self._mapped.discard, offset, size)

    # --- reading -------------------------------------------------------------------------------------

    def map_object(
        self,
        offset: int,
        size: int,
        *,
        writable_private: bool,
        on_release: Callable[[], None] | None = None,
    ) -> memoryview:
        """The bytes of a pinned object, without copying them.

        writable_private: the view may be written; what is written is this view's alone. Otherwise it is
        read-only. on_release: called once when the last view of it (slice, array, …) is gone, in whatever
        thread that happens and inside whatever it was doing: it may only append to a deque.
        """
        if offset < 0 or size <= 0 or offset + size > self.capacity:
            raise ValueError(f"{size} bytes at {offset} do not lie in the arena of {self.capacity}")
        if self._shows_kept(writable_private, offset, size):
            view, _ = self._map_apart(offset, size, on_release)
            return view if writable_private else view.toreadonly()
        if self._slab(writable_private) is None:
            view = self._copy_out(offset, size, on_release)
            return view if writable_private else view.toreadonly()
        if not writable_private:
            return self._view(False, offset, size, None, on_release)[0].toreadonly()
        token = ViewToken(page_faults() if size >= _COUNT_FAULTS_FROM else None)
        if self._viewed.setdefault((True, offset), token) is not token:
            return self._map_apart(offset, size, on_release)[0]
        return self._view(True, offset, size, token, on_release)[0]

    def lend(self, offset: int, size: int, *, writable_private: bool) -> tuple[memoryview, LentView | None]:
        """A view as of ``map_object`` for the time that its range is lent to us, and what ends that time.

        None: the view is a copy, and nothing is to be ended.
        """
        if offset < 0 or size <= 0 or offset + size > self.capacity:
            raise ValueError(f"{size} bytes at {offset} do not lie in the arena of {self.capacity}")
        if not can_keep() or self._slab(writable_private) is None:
            view = self._copy_out(offset, size, None)
            return (view if writable_private else view.toreadonly()), None
        token = ViewToken(page_faults() if size >= _COUNT_FAULTS_FROM else None)
        key = (writable_private, offset)
        is_apart = self._shows_kept(writable_private, offset, size)
        if is_apart or self._viewed.setdefault(key, token) is not token:
            view, mapping = self._map_apart(offset, size, None)
            lent = None if mapping is None else LentView(self, mapping, writable_private, offset, size, None)
        else:
            view, exporter = self._view(writable_private, offset, size, token, None)
            lent = LentView(self, exporter, writable_private, offset, size, token)
        return (view if writable_private else view.toreadonly()), lent

    def _shows_kept(self, writable: bool, offset: int, size: int) -> bool:
        kept = self._kept[writable]
        if not kept:
            return False
        return any(start < offset + size and offset < start + length for start, length in list(kept.values()))

    def _view(
        self,
        writable: bool,
        offset: int,
        size: int,
        token: ViewToken | None,
        on_release: Callable[[], None] | None,
    ) -> tuple[memoryview, object]:
        """A view in a private slab, and what dies with its last holder."""
        try:
            lifeline = self._held_lifeline()
            exporter = self._slabs[writable].exporter(offset, size)
            release = Release(self, writable, offset, size, token, on_release, lifeline)
            finalizer = weakref.finalize(exporter, release)
        except BaseException:
            if token is not None:
                del self._viewed[writable, offset]
            raise
        finalizer.atexit = False
        self._living[id(release)] = finalizer
        return memoryview(exporter).cast("B")[:size], exporter

    def _map_apart(
        self, offset: int, size: int, on_release: Callable[[], None] | None
    ) -> tuple[memoryview, mmap.mmap | None]:
        """A second writable view of one object: in a mapping of its own, so that neither sees the other."""
        lifeline = self._held_lifeline()
        start = offset - offset % _PAGE
        try:
            apart = mmap.mmap(self.fd, offset + size - start, mmap.MAP_PRIVATE, offset=start)
        except OSError as error:
            if error.errno not in _OUT_OF_MAPS:
                raise
            return self._copy_out(offset, size, on_release), None
        self._apart[apart] = (on_release is None, lifeline)
        if on_release is not None:
            weakref.finalize(apart, on_release).atexit = False
        return memoryview(apart)[offset - start :], apart

    def _copy_out(self, offset: int, size: int, on_release: Callable[[], None] | None) -> memoryview:
        """The process can map no more: its own copy, and the pin is not needed any more."""
        lifeline = self._held_lifeline()
        copy = own_copy(self.fd, offset, size)
        del lifeline  # not before
        if on_release is not None:
            on_release()
        return copy

    def _held_lifeline(self) -> object:
        lifeline = self._lifeline
        if lifeline is None:
            raise _ended()
        return lifeline

    def _slab(self, writable: bool) -> PrivatePages | None:
        """None: our address space is too small for it."""
        slab = self._slabs.get(writable)
        if slab is None:
            try:
                made = PrivatePages(mmap.mmap(self.fd, self.capacity, mmap.MAP_PRIVATE | _MAP_NORESERVE))
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    raise
                return None
            slab = self._slabs.setdefault(writable, made)  # all views are in one: of two, the first
        return slab

    def keep_all(self) -> None:
        """Make every view that lives its holder's own, before what they show is others' to overwrite.

        Raises OSError when there is no memory for some, or the kernel is older than 5.14; the rest is kept.
        """
        problems = self._kept_all()
        if problems:
            raise OSError(*problems[0])  # from here, where no view is held any more

    def _kept_all(self) -> list[tuple[object, ...]]:
        problems: list[tuple[object, ...]] = []
        for finalizer in self._living.copy().values():
            alive = finalizer.peek()
            if alive is not None:
                release: Any = alive[1]
                try:
                    release.keep()  # ``alive`` holds the view meanwhile
                except OSError as error:
                    problems.append(error.args)
        for apart, (is_lent, _) in list(self._apart.items()):
            try:
                apart.madvise(MADV_POPULATE_WRITE)
                self._apart[apart] = (is_lent, None)
            except OSError as error:
                problems.append(error.args)
        return problems

    def keep_lent(self) -> None:
        """Before a fork: it shares our copies of what was lent, but not what becomes one later.

        Raises OSError when there is no memory for them.
        """
        for finalizer in self._living.copy().values():
            alive = finalizer.peek()
            if alive is not None:
                release: Any = alive[1]
                if release.is_lent:
                    release.keep()
        for apart, (is_lent, _) in list(self._apart.items()):
            if is_lent:
                apart.madvise(MADV_POPULATE_WRITE)

    def held(self) -> list[object]:
        """While these live, so do the views that are not lent, and what they show stays as it is."""
        found = [finalizer.peek() for finalizer in self._living.copy().values()]
        views: list[Any] = [alive for alive in found if alive is not None]
        apart = [view for view, (is_lent, _) in list(self._apart.items()) if not is_lent]
        return [view[0] for view in views if not view[1].is_lent] + apart

    def view_ended(self, writable: bool, offset: int, size: int) -> None:
        """A copy-on-write view is gone: the next reader of this range must see the store's bytes."""
        token = self._viewed[writable, offset]
        if token.faults is None or token.faults != page_faults():
            self._slabs[writable].drop_private(offset, size)
        del self._viewed[writable, offset]
        self._kept[writable].pop(token, None)

    def forget_view(self, release: Release) -> None:
        self._living.pop(id(release), None)

    def keep(self, writable: bool, offset: int, size: int, token: ViewToken) -> None:
        """Make the pages of a view in a private slab its own. The caller holds the view meanwhile."""
        start = offset - offset % _PAGE
        self._kept[writable][token] = (start, _paged(offset, size))
        token.faults = None
        self._slabs[writable].make_private(start, offset + size - start)


def _ended() -> WritingEnded:
    return WritingEnded(errno.EBADF, "this process has left the cluster, and uses its memory no more")


def _populate(shared: mmap.mmap, offset: int, size: int) -> bool:
    """Fill page tables for a range in one call; False where the kernel cannot (< 5.14) or will not."""
    start = offset - offset % _PAGE
    try:
        shared.madvise(_MADV_POPULATE_READ, start, offset + size - start)
    except OSError:
        return False
    return True


def _paged(offset: int, size: int) -> int:
    """The bytes of all pages that ``[offset, offset + size)`` touches."""
    return -(-(offset + size) // _PAGE) * _PAGE - (offset - offset % _PAGE)
