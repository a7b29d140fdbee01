"""Whether a driver that we do not talk to any more may still read and write in the store.

A driver's *lifeline* is a pair of wires over which nothing is said: one end is ours, the other goes to the
driver with its welcome.  Ours ends when nobody has the other any more: the driver has ended, or let go of it
because no array of the store is left there; so have processes forked from it that see its arrays.

    tied ──driver gone──▶ cut off ──lifeline ends──▶ its pins, slabs and unfinished objects are free
       └──lifeline ends──▶ let go ──driver gone──▶ the same, at once

No pid is asked, so it does not matter in which namespace the driver lives and who has its number later; and a
pidfd would know nothing of forks.  Workers need none: they have ended, or got SIGKILL, before that is told.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from msgspec import Struct

from beamlet.base.ids import Address
from beamlet.base.say import say
from beamlet.object_store.full_report import human_bytes
from beamlet.raylet.members import Member
from beamlet.raylet.store_service import StoreService
from beamlet.rpc.alarm import Cancellable, Clock
from beamlet.rpc.descriptors import Descriptors, Wire

#: A process that ends does so within this; of one that has not by then, and uses memory, the log tells.
_SAY_AFTER_S = 1.0


class Loop(Clock, Protocol):
    """What is used of the reactor."""

    def add_reader(self, fd: int, on_readable: Callable[[], None], /) -> None: ...
    def remove_reader(self, fd: int, /) -> None: ...


class _Lifeline(Struct):
    ours: Wire
    timer: Cancellable | None = None


class Lifelines:
    def __init__(self, descriptors: Descriptors, loop: Loop, store: StoreService) -> None:
        self._descriptors = descriptors
        self._loop = loop
        self._store = store
        self._tied: dict[Address, _Lifeline] = {}

    def pair(self) -> tuple[Wire, Wire]:
        """Our end, for ``tie``, and the driver's, for the caller to pass on and close. Raises OSError."""
        return self._descriptors.pair()

    def tie(self, driver: Address, ours: Wire) -> None:
        """Raises OSError; then the driver must not be welcomed, and ``ours`` is closed."""
        ours.setblocking(False)
        try:
            self._loop.add_reader(ours.fileno(), partial(self._readable, driver))
        except OSError:  # the kernel watches no more descriptors for us
            ours.close()
            raise
        self._tied[driver] = _Lifeline(ours)

    def outlived_by(self, driver: Member, reason: str) -> str:
        """The driver is gone for us: who may still use the store, in words; "" if nobody does."""
        lifeline = self._tied.get(driver.address)
        if lifeline is None:
            return ""
        who = f"process {driver.pid} (a driver; {reason})"
        lifeline.timer = self._loop.call_later(_SAY_AFTER_S, partial(self._say, driver, who))
        return who

    def close(self) -> None:
        for driver in list(self._tied):
            self._cut(driver)

    def _readable(self, driver: Address) -> None:
        if _has_ended(self._tied[driver].ours):
            self._cut(driver)
            self._store.let_go(driver)

    def _cut(self, driver: Address) -> None:
        lifeline = self._tied.pop(driver)
        if lifeline.timer is not None:
            lifeline.timer.cancel()
        self._loop.remove_reader(lifeline.ours.fileno())
        lifeline.ours.close()

    def _say(self, driver: Member, who: str) -> None:
        if size := self._store.kept_for(driver.number):
            say(
                f"{human_bytes(size)} of the object store stay as they are for {who}: it, or a process "
                "forked from it, lives on and may use them. They are free when that has ended"
            )


def _has_ended(ours: Wire) -> bool:
    """Or the event was meant for who had its number before, and was closed in the same pass of the loop."""
    try:
        return not ours.recv_into(bytearray(1))
    except BlockingIOError:
        return False
    except OSError:
        return True
