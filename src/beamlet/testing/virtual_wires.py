"""Fake sockets and descriptors: what ``rpc/descriptors.py`` asks of a kernel, on a world's clock.

A wire is two ends and, in each direction, a queue of bytes on their way.  What is sent arrives after a time
drawn from the seed, in order within the direction; sometimes in two parts.  The kernel's promises hold and no
more: a buffer has a size, so a slow reader makes ``send`` take less or nothing; descriptors travel with the
bytes; an end whose last descriptor is closed is seen as the end of the stream behind the last byte.

Numbers below ``FIRST_FD`` are real descriptors (arena, pipes of output) and are given to the real kernel.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
from array import array
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beamlet.testing.virtual_process import VirtualProcess
    from beamlet.testing.world import World

FIRST_FD = 1_000_000
#: What one direction of a wire holds: as much as a Unix socket here.
BUFFER_BYTES = 208 * 1024
#: How often a piece arrives in two parts.
_SPLIT = 0.03


class Kernel:
    """What all processes of a world share: numbers, and descriptors on their way."""

    def __init__(self) -> None:
        self._numbers = itertools.count(FIRST_FD)
        #: Ends on their way between processes, by the number that travels.
        self.travelling: dict[int, End] = {}
        #: Sends that took something.
        self.sent_count = 0

    def number(self) -> int:
        return next(self._numbers)

    def lose(self, travelling: list[int]) -> None:
        """Descriptors that were on their way to nobody."""
        for number in travelling:
            if number < FIRST_FD:
                os.close(number)
            else:
                self.travelling.pop(number).let_go()


class End:
    """One end of a wire: an open file. Descriptors refer to it; with the last of them it closes."""

    __slots__ = (
        "arrived",
        "arriving_at",
        "bytes_held",
        "closed",
        "eof",
        "fds",
        "kernel",
        "name",
        "other",
        "refs",
        "world",
    )

    def __init__(self, world: World, kernel: Kernel, name: str) -> None:
        self.world = world
        self.kernel = kernel
        self.name = name
        self.other: End = self
        #: Descriptors that refer to it, in processes or on their way.
        self.refs = 0
        #: (process, fd) of those that somebody polls.
        self.fds: dict[int, VirtualProcess] = {}
        #: What came and was not read: (bytes, descriptors with the first of them).
        self.arrived: deque[tuple[bytes, list[int]]] = deque()
        #: Bytes sent to this end and not read yet, on their way or here.
        self.bytes_held = 0
        #: Nothing sent to this end overtakes what arrives then.
        self.arriving_at = 0.0
        self.eof = False
        self.closed = False

    # -- bytes -----------------------------------------------------------------------------------

    @property
    def holders(self) -> list[VirtualProcess]:
        """The processes that read it."""
        return list(dict.fromkeys(self.fds.values()))

    def send(self, data: bytes, fds: list[int]) -> int:
        """Take what there is room for; the descriptors go with the first byte and belong to us then."""
        other = self.other
        if self.closed or self.eof or other.closed:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        room = BUFFER_BYTES - other.bytes_held
        if room <= 0:
            raise BlockingIOError(errno.EAGAIN, "the buffer is full")
        data = data[:room]
        self.kernel.sent_count += 1
        other.bytes_held += len(data)
        if len(data) > 1 and self.world.chance(_SPLIT):
            cut = self.world.rng.randrange(1, len(data))
            other.expect(data[:cut], fds)
            other.expect(data[cut:], [])
        else:
            other.expect(data, fds)
        return len(data)

    def expect(self, data: bytes | None, fds: list[int]) -> None:
        """Something comes, behind all that comes already; None is the end of the stream."""
        self.arriving_at = max(self.arriving_at, self.world.time_s + self.world.latency())
        self.world.at(self.arriving_at, lambda: self._arrive(data, fds))

    def _arrive(self, data: bytes | None, fds: list[int]) -> None:
        if self.closed or self.eof:
            self.kernel.lose(fds)
            return
        if data is None:
            self.eof = True
            self.world.tell(f"{self.name}: end of stream")
        else:
            self.arrived.append((data, fds))
            self.world.tell(f"{self.name}: {len(data)} bytes")
        self.wake()

    def read(self, most: int, takes_fds: bool) -> tuple[bytes, list[int]]:
        """As recvmsg: a read ends behind bytes that brought descriptors."""
        if not self.arrived:
            if self.eof:
                return b"", []
            raise BlockingIOError(errno.EAGAIN, "nothing here")
        parts: list[bytes] = []
        size = 0
        fds: list[int] = []
        while self.arrived and size < most:
            data, came = self.arrived[0]
            if came and parts:
                break
            self.arrived.popleft()
            if size + len(data) > most:
                self.arrived.appendleft((data[most - size :], []))
                data = data[: most - size]
            parts.append(data)
            size += len(data)
            if came:
                fds = came
                break
        was_full = self.bytes_held >= BUFFER_BYTES
        self.bytes_held -= size
        if was_full:
            self.other.wake()
        if not takes_fds and fds:
            self.kernel.lose(fds)
            fds = []
        return b"".join(parts), fds

    # -- states ----------------------------------------------------------------------------------

    def events(self, mask: int) -> int:
        """What poll says."""
        found = 0
        if self.arrived or self.eof:
            found |= select.EPOLLIN
        if self.eof:
            found |= select.EPOLLHUP
        if mask & select.EPOLLOUT and (self.other.closed or self.other.bytes_held < BUFFER_BYTES):
            found |= select.EPOLLOUT
        return found & (mask | select.EPOLLHUP)

    def wake(self) -> None:
        for fd, process in list(self.fds.items()):
            process.poller.mark(fd)

    def let_go(self) -> None:
        """One descriptor less."""
        self.refs -= 1
        if self.refs == 0 and not self.closed:
            self.closed = True
            for _, fds in self.arrived:
                self.kernel.lose(fds)
            self.arrived.clear()
            if not self.other.closed:
                self.other.expect(None, [])
                self.other.wake()  # a writer that waits for room learns at once

    def cut(self) -> None:
        """The wire breaks: what is on its way is lost, and either side notices in its own time."""
        for end in (self, self.other):
            end.world.later(end.world.latency(), end._break)
        self.world.tell(f"{self.name} is cut from {self.other.name}")

    def _break(self) -> None:
        if not self.closed:
            self.eof = True
            self.wake()


class VirtualWire:
    """A socket, as far as ``Connection`` uses one."""

    def __init__(self, descriptors: VirtualDescriptors, fd: int) -> None:
        self._descriptors = descriptors
        self._fd = fd

    @property
    def end(self) -> End:
        return self._descriptors.end_of(self._fd)

    def fileno(self) -> int:
        return self._fd

    def setblocking(self, flag: bool, /) -> None:
        assert not flag, "nobody blocks in a virtual wire"

    def dup(self) -> VirtualWire:
        return VirtualWire(self._descriptors, self._descriptors.dup(self._fd))

    def send(self, data: Any, /) -> int:
        return self.end.send(bytes(data), [])

    def sendall(self, data: Any, /) -> None:
        assert self.send(data) == len(data), "a fresh wire has room for a first message"

    def sendmsg(self, buffers: Iterable[Any], ancdata: Iterable[Any] = (), /) -> int:
        fds: list[int] = []
        for level, kind, data in ancdata:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds += list(data)
        end = self.end
        travelling = [self._descriptors.send_off(fd) for fd in fds]
        try:
            return end.send(b"".join(map(bytes, buffers)), travelling)
        except OSError:
            end.kernel.lose(travelling)
            raise

    def recv_into(self, buffer: Any, /) -> int:
        data, _ = self.end.read(len(buffer), takes_fds=False)
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        (buffer,) = buffers
        data, travelling = self.end.read(len(buffer), takes_fds=True)
        memoryview(buffer)[: len(data)] = data
        fds = [self._descriptors.receive(fd) for fd in travelling]
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds).tobytes())] if fds else []
        return len(data), ancillary, 0, None

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._descriptors.close(fd)


class VirtualDescriptors:
    """The descriptors of one process. Also counts them: none may be left when it has ended."""

    def __init__(self, process: VirtualProcess, kernel: Kernel) -> None:
        self._process = process
        self._kernel = kernel
        self.open: dict[int, End] = {}

    def end_of(self, fd: int) -> End:
        end = self.open.get(fd)
        if end is None:
            raise OSError(errno.EBADF, f"descriptor {fd} is not open in {self._process.name}")
        return end

    def dup(self, fd: int, /) -> int:
        return os.dup(fd) if fd < FIRST_FD else self._new(self.end_of(fd))

    def close(self, fd: int, /) -> None:
        if fd < FIRST_FD:
            os.close(fd)
            return
        if self._process.ended and fd not in self.open:
            return  # code that unwinds after the kernel has closed all
        end = self.end_of(fd)
        del self.open[fd]
        end.fds.pop(fd, None)
        end.let_go()

    def pair(self) -> tuple[VirtualWire, VirtualWire]:
        world = self._process.world
        name = f"{self._process.name}#{len(self.open)}"
        one, other = End(world, self._kernel, f"{name}a"), End(world, self._kernel, f"{name}b")
        one.other, other.other = other, one
        return VirtualWire(self, self._new(one)), VirtualWire(self, self._new(other))

    def wire(self, fd: int, /) -> VirtualWire:
        self.end_of(fd)
        return VirtualWire(self, fd)

    def close_everything(self) -> float:
        """As the kernel does for a process that ends. When the last of what it wrote arrives."""
        arrives_at = max((end.other.arriving_at for end in self.open.values()), default=0.0)
        for fd in list(self.open):
            self.close(fd)
        return arrives_at

    # -- passing on ------------------------------------------------------------------------------

    def send_off(self, fd: int) -> int:
        if fd < FIRST_FD:
            return os.dup(fd)
        number = self._kernel.number()
        end = self.end_of(fd)
        end.refs += 1
        self._kernel.travelling[number] = end
        return number

    def receive(self, travelling: int) -> int:
        if travelling < FIRST_FD:
            return travelling
        end = self._kernel.travelling.pop(travelling)
        fd = self._new(end)
        end.refs -= 1
        end.name = f"{self._process.name}:{end.name.partition(':')[2] or end.name}"
        return fd

    def _new(self, end: End) -> int:
        fd = self._kernel.number()
        end.refs += 1
        self.open[fd] = end
        return fd


class VirtualPoller:
    """epoll of one process, level-triggered. Real descriptors are asked of a real one."""

    def __init__(self, process: VirtualProcess) -> None:
        self.wakeup = -2
        self._process = process
        self._masks: dict[int, int] = {}
        #: Those that something happened to since they were last found quiet, in that order.
        self._marked: dict[int, None] = {}
        self._woken = False
        self._real: select.epoll | None = None

    def register(self, fd: int, mask: int, /) -> None:
        if fd < FIRST_FD:
            if self._real is None:
                self._real = select.epoll()
            self._real.register(fd, mask)
            return
        assert fd not in self._masks, f"descriptor {fd} is registered twice"
        self._masks[fd] = mask
        self._process.descriptors.end_of(fd).fds[fd] = self._process
        self.mark(fd)

    def modify(self, fd: int, mask: int, /) -> None:
        if fd < FIRST_FD:
            assert self._real is not None
            self._real.modify(fd, mask)
            return
        self._masks[fd] = mask
        self.mark(fd)

    def unregister(self, fd: int, /) -> None:
        if fd < FIRST_FD:
            assert self._real is not None
            self._real.unregister(fd)
            return
        self._masks.pop(fd, None)
        self._marked.pop(fd, None)
        if not self._process.ended:  # else the kernel has closed it
            self._process.descriptors.end_of(fd).fds.pop(fd, None)

    def mark(self, fd: int) -> None:
        self._marked[fd] = None
        self._process.turn_soon()

    def poll(self, timeout_s: float | None = None, /) -> list[tuple[int, int]]:
        """What is ready; never waits: the world comes back when something is."""
        found: list[tuple[int, int]] = []
        if self._woken:
            found.append((self.wakeup, select.EPOLLIN))
        for fd in list(self._marked):
            events = self._process.descriptors.end_of(fd).events(self._masks[fd])
            if events:
                found.append((fd, events))
            else:
                del self._marked[fd]
        if self._real is not None:
            found += sorted(self._real.poll(0))
        return found

    @property
    def has_marked(self) -> bool:
        return bool(self._marked)

    def wake(self) -> None:
        self._woken = True
        self._process.turn_soon()

    def drain(self) -> None:
        self._woken = False

    def close(self) -> None:
        self._masks.clear()
        self._marked.clear()
        if self._real is not None:
            self._real.close()
            self._real = None
