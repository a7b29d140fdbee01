"""What tells others, by being open, that this process may still read or write the arena: a descriptor.

Whoever may do so holds the ``Lifeline``: the ``Arena`` itself, each view of it, each write.  With the last
holder the descriptor closes.  A forked child has copies of all that: there it is open for the child's views.
"""

from __future__ import annotations

import os


class Lifeline:
    __slots__ = ("_close", "_fd", "_file", "_stat")

    def __init__(self, fd: int) -> None:
        """Takes ownership of ``fd``."""
        self._fd = fd
        # Bound here: the interpreter may be ending when they are needed.
        self._close, self._stat = os.close, os.fstat
        self._file = self._identity()

    def __del__(self) -> None:
        try:
            if self._identity() == self._file:
                self._close(self._fd)
        except OSError:
            pass  # the program has closed descriptors that it does not know (and so let go of the arena)

    def _identity(self) -> tuple[int, int]:
        """Of what is open there: after such a closing the number may be another file's."""
        found = self._stat(self._fd)
        return found.st_dev, found.st_ino
