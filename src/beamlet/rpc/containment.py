"""What becomes of an exception that a callback lets out: reported, counted, and the loop goes on.

One per reactor.  Who contains what is said in docs/architecture.md, "What happens when something raises".
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

from beamlet.base.invariants import InvariantBroken

#: Kinds of errors counted apart; beyond that they share one count.
_KINDS_MAX = 256


class Misuse(Exception):
    """The other side said what it must not say now. Costs its connection, and one line without traceback."""


class Containment:
    """``on_broken`` ends the process when its own books are wrong; unless set, it ends the loop."""

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._say = say or _say_on_stderr
        self.on_broken: Callable[[InvariantBroken], None] = _end_the_loop
        #: Why the process must end.
        self.broken: InvariantBroken | None = None
        #: Told of each error that is contained: simulations fail on them.
        self.on_contained: Callable[[BaseException], None] | None = None
        #: All errors that were contained.
        self.count = 0
        #: The same by place and kind.
        self.counts: dict[str, int] = {}

    def contain(self, error: BaseException, where: str, peer: str = "") -> None:
        """Called in an ``except`` block. ``where``: what was being done; ``peer``: with whose message.

        Raises nothing, unless the process's own books are wrong and ``on_broken`` does.
        """
        if isinstance(error, InvariantBroken):
            if self.broken is None:
                self.broken = error
                self._report(error, f"{where}: this process's own books are wrong", peer, 1)
            self.on_broken(error)
            return
        self.count += 1
        if self.on_contained is not None:
            self.on_contained(error)
        kind = f"{where}: {type(error).__name__}"
        if kind not in self.counts and len(self.counts) >= _KINDS_MAX:
            kind = "others"
        times = self.counts[kind] = self.counts.get(kind, 0) + 1
        if times & (times - 1) == 0:  # 1st, 2nd, 4th …: a flood of them must not fill a disk
            self._report(error, where, peer, times)

    def _report(self, error: BaseException, where: str, peer: str, times: int) -> None:
        title = f"beamlet (pid {os.getpid()}): {where}{f' from {peer}' if peer else ''}"
        if times > 1:
            title += f" ({times} times so far)"
        if isinstance(error, Misuse):
            self._say(f"{title}: {error}\n")
            return
        try:
            details = "".join(traceback.format_exception(error))
        except Exception as unprintable:  # a __str__ or a source file of the user's
            details = f"{type(error).__name__}, which cannot be printed: {type(unprintable).__name__}\n"
        self._say(f"{title}: an error was contained:\n{details}")


def _end_the_loop(error: InvariantBroken) -> None:
    raise error


def _say_on_stderr(text: str) -> None:
    try:
        os.write(2, text.encode(errors="backslashreplace"))
    except OSError:
        pass  # no standard error, or nobody who reads it: there is no other place to tell it
