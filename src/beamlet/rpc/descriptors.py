"""What the loop and its connections need of the kernel, as narrow ports: a simulation puts its own in.

``Wire`` is the part of a socket that a Connection uses, ``Descriptors`` makes and copies descriptors,
``Poller`` says which of them are ready.  ``Kernel*`` are the real ones.
"""

from __future__ import annotations

import os
import select
import socket
from array import array
from collections.abc import Iterable
from typing import Any, Protocol


class Wire(Protocol):
    """A connected stream socket that never blocks. Raises what sockets raise: BlockingIOError, OSError."""

    def fileno(self) -> int: ...
    def setblocking(self, flag: bool, /) -> None: ...
    def send(self, data: Any, /) -> int: ...
    def sendmsg(self, buffers: Iterable[Any], ancdata: Iterable[Any] = ..., /) -> int: ...
    def recv_into(self, buffer: Any, /) -> int: ...
    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = ..., flags: int = ..., /
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]: ...
    def close(self) -> None: ...


class Descriptors(Protocol):
    """All of them may raise OSError (EMFILE: too many open files), but for ``close``."""

    def dup(self, fd: int, /) -> int: ...
    def close(self, fd: int, /) -> None: ...
    def pair(self) -> tuple[Wire, Wire]:
        """Two connected wires, for two processes."""
        ...

    def wire(self, fd: int, /) -> Wire:
        """The wire behind a descriptor that was received; it belongs to the wire from now on."""
        ...


class KernelDescriptors:
    dup = staticmethod(os.dup)
    close = staticmethod(os.close)

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    @staticmethod
    def wire(fd: int, /) -> socket.socket:
        return socket.socket(fileno=fd)


def send_with(wire: Wire, data: memoryview, fds: list[int]) -> int:
    """Send ``data``, as much as fits, and with it copies of ``fds``."""
    return wire.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))])


def descriptors_in(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with what ``recvmsg`` read."""
    found: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(data) - len(data) % 4
            found += (int.from_bytes(data[i : i + 4], "little") for i in range(0, whole, 4))
    return found


class Poller(Protocol):
    """Readiness, and a way to end a ``poll`` from another thread: then ``wakeup`` is among the events."""

    wakeup: int

    def register(self, fd: int, mask: int, /) -> None: ...
    def modify(self, fd: int, mask: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...
    def poll(self, timeout_s: float | None = None, /) -> list[tuple[int, int]]: ...
    def wake(self) -> None: ...
    def drain(self) -> None: ...
    def close(self) -> None: ...


class KernelPoller:
    """epoll and an eventfd. Its methods *are* epoll's: the reactor polls some 100,000 times a second."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.register = self._epoll.register
        self.modify = self._epoll.modify
        self.unregister = self._epoll.unregister
        self.poll = self._epoll.poll
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self.wakeup, select.EPOLLIN)

    def wake(self) -> None:
        if self.wakeup >= 0:
            os.eventfd_write(self.wakeup, 1)

    def drain(self) -> None:
        try:
            os.eventfd_read(self.wakeup)
        except BlockingIOError:
            pass  # drained in an earlier pass

    def close(self) -> None:
        """Idempotent; ``wake`` does nothing afterwards."""
        wakeup, self.wakeup = self.wakeup, -1
        if wakeup >= 0:
            self._epoll.close()
            os.close(wakeup)


#: The real ones.
KERNEL: Descriptors = KernelDescriptors()
