"""Descriptors that travel with the messages of one connection: copies that are to go, and those that came."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable
from mmap import mmap

from beamlet.rpc.descriptors import Descriptors, Wire, descriptors_in
from beamlet.rpc.limits import DescriptorMissing

#: What one frame may bring; the kernel's limit for one message is 253.
FDS_MAX = 64
_FD_SPACE = socket.CMSG_SPACE(FDS_MAX * 4)


class Luggage:
    """Who takes one out must close it; what is left is closed with the connection."""

    __slots__ = ("_came", "_descriptors", "going", "is_lost")

    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors
        #: To go with the next frame.
        self.going: list[int] = []
        #: In the order of the messages that they belong to.
        self._came: deque[int] = deque()
        #: The kernel could not deliver some: nobody knows which.
        self.is_lost = False

    def add(self, fds: tuple[int, ...]) -> None:
        """Copies of these go with the next frame. Raises OSError (too many open files): then none does."""
        copies: list[int] = []
        try:
            for fd in fds:
                copies.append(self._descriptors.dup(fd))  # noqa: PERF401  closed below if one fails
        except OSError:
            self.close_all(copies)
            raise
        self.going += copies

    def take_going(self) -> list[int]:
        fds = self.going.copy()
        self.going.clear()
        return fds

    def receive(self, sock: Wire, buffer: mmap) -> int:
        """As ``recv_into``; what comes along is kept."""
        size, ancillary, flags, _ = sock.recvmsg_into([buffer], _FD_SPACE, socket.MSG_CMSG_CLOEXEC)
        self._came += descriptors_in(ancillary)
        if flags & socket.MSG_CTRUNC:
            self.is_lost = True
        return size

    def take(self) -> int:
        """The next of those that came. Raises DescriptorMissing."""
        if not self._came:
            why = "too many open files here (ulimit -n)" if self.is_lost else "it was not sent"
            raise DescriptorMissing(f"a message came without its descriptor: {why}")
        return self._came.popleft()

    def drop_unfit(self) -> None:
        """Between two frames: what the kernel did not deliver is missing somewhere, the rest fits nobody."""
        self.is_lost = False
        self.close_all(self._came)
        self._came.clear()

    def close(self) -> None:
        for fds in (self._came, self.going):
            self.close_all(fds)
            fds.clear()

    def close_all(self, fds: Iterable[int]) -> None:
        for fd in fds:
            self._descriptors.close(fd)
