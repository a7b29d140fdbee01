"""● Habits that make programs slow, recognised as they happen: what to say, and when it is certain enough.

    SerialGets          each task's result is awaited before the next task is submitted
    SmallTasks          tasks that take less time than sending them
    RepeatedArguments   the same large argument sent by value again and again

Each says its piece once per line of user code, and only when the loss is worth a person's attention; whatever
might have a good reason (results that feed the next call, arguments that change) is left alone.
``advising.py`` feeds these and shows what they say.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import msgspec

#: Serial gets: this many in a row that took this long together.
_SERIAL_MIN = 10
_SERIAL_LOST_S = 1.0
#: From here on arguments are looked at: do they depend on the last result?
_SERIAL_WATCH = 3
#: Small tasks: so many calls of one function, so short, with so much of their time spent on the way.
_SMALL_MIN_CALLS = 10_000
_SMALL_MAX_US = 100.0
_SMALL_MIN_OVERHEAD = 0.7
#: Repeated arguments: how large one must be to be looked at, how often it was sent, and how much that was.
LARGE_BYTES = 1 << 20
_REPEATED_MIN = 5
_REPEATED_MIN_BYTES = 20 << 20
#: Large arguments remembered.
_REMEMBERED_MAX = 64

_ATOMS = frozenset({int, str, bytes, bool, type(None)})


class SerialGets:
    """``for x in xs: get(f.remote(x))``: one task at a time, although others could run meanwhile."""

    def __init__(self) -> None:
        self._site: Hashable = None
        self._count = 0
        self._lost_s = 0.0
        #: Of what users handed us nothing is kept but atoms and ids: a reference held here would keep an
        #: object in the store, an array its pages.
        self._last_value: Any = None
        self._last_arguments: list[int] = []
        self._told: set[Hashable] = set()

    @property
    def is_suspicious(self) -> bool:
        """Whether ``got`` and ``submitted`` want to be called."""
        return self._count >= _SERIAL_WATCH

    def waited(self, site: Hashable, seconds: float, is_alone: bool) -> bool:
        """A ``get`` of one task submitted at ``site`` waited; ``is_alone``: no other task was unanswered.

        True when it is time to say so (once per site).
        """
        if site != self._site or not is_alone or site in self._told:
            self._site, self._count, self._lost_s = site, 0, 0.0
            self._last_arguments.clear()
        if not is_alone or site in self._told:
            return False
        self._count += 1
        self._lost_s += seconds
        if self._count < _SERIAL_MIN or self._lost_s < _SERIAL_LOST_S:
            return False
        self._told.add(site)
        return True

    def got(self, value: Any) -> None:
        """What the ``get`` returned."""
        self._last_value = value if type(value) in _ATOMS else None

    def submitted(self, arguments: Iterable[Any]) -> None:
        """The next call's arguments: a call that may build on the last result must come after it."""
        given = list(arguments)
        if any(self._may_depend(arg, i) for i, arg in enumerate(given)):
            self._told.add(self._site)
            self._count = 0
        self._last_arguments = [id(arg) for arg in given]

    def _may_depend(self, arg: Any, position: int) -> bool:
        if type(arg) in _ATOMS:
            return arg is not None and type(arg) is type(self._last_value) and bool(arg == self._last_value)
        before = self._last_arguments
        return bool(before) and not (position < len(before) and before[position] == id(arg))

    def text(self, cpus: float) -> str:
        lost = self._lost_s * (1 - 1 / cpus)
        return (
            f"each get waits for the task submitted just before it, so {self._count} tasks ran one after "
            f"another (~{lost:.1f} s lost on {cpus:g} CPUs). Submit them all first, then beamlet.get(refs)."
        )


class SmallTasks:
    """Tasks so short that sending them takes most of the time."""

    def __init__(self) -> None:
        self._calls: dict[str, int] = {}

    def reviewed(self, name: str, calls: int, average_us: float, cost_us: float) -> str:
        """``calls`` more of ``name`` took ``average_us`` each, one every ``cost_us``. What to say, or ""."""
        before = self._calls.get(name, 0)
        total = self._calls[name] = before + calls
        overhead = 1 - average_us / cost_us if cost_us > 0 else 0.0
        if total < _SMALL_MIN_CALLS or average_us > _SMALL_MAX_US or overhead < _SMALL_MIN_OVERHEAD:
            return ""
        self._calls[name] = -(1 << 60)
        return (
            f"{name} took {max(1.0, average_us):.0f} µs or less on average over {total:,} calls; "
            f"{overhead:.0%} of the time went into sending them. Give each call a batch of items."
        )


class LargeArgument(msgspec.Struct):
    """One value that was sent, and how often."""

    fingerprint: int
    size: int
    count: int = 1
    is_told: bool = False


class RepeatedArguments:
    """The same object with the same contents, sent by value again and again."""

    def __init__(self) -> None:
        self._sent: dict[int, LargeArgument] = {}

    def sent(self, identity: int, size: int, fingerprint: int) -> LargeArgument | None:
        """``fingerprint``: of its contents, so that a new object at an old address is not mistaken for it.

        The argument, when it is time to speak of it (once).
        """
        known = self._sent.pop(identity, None)
        if known is None or known.size != size or known.fingerprint != fingerprint:
            known = LargeArgument(fingerprint, size)
        else:
            known.count += 1
        self._sent[identity] = known
        if len(self._sent) > _REMEMBERED_MAX:
            del self._sent[next(iter(self._sent))]
        enough = known.count >= _REPEATED_MIN and known.count * size >= _REPEATED_MIN_BYTES
        if known.is_told or not enough:
            return None
        known.is_told = True
        return known


def repeated_text(what: str, function: str, argument: LargeArgument) -> str:
    """``what``: the variable's name, or "an argument"."""
    put = what if what.isidentifier() else "…"
    return (
        f"{what} ({_mb(argument.size)}) was sent to {function} {argument.count} times "
        f"({_mb(argument.size * argument.count)}). ref = beamlet.put({put}) once, and pass ref."
    )


def fingerprint(parts: Iterable[Any]) -> int:
    """A number that changes with the contents of buffers, most likely: four samples of each."""
    samples = []
    for part in parts:
        size = len(part)
        step = max(1, size // 4)
        samples.append(b"".join(bytes(part[start : start + 256]) for start in range(0, size, step)))
    return hash(tuple(samples))


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
