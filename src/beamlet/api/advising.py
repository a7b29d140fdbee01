"""Shows the advice of advice.py: watches what this process submits and waits for, and logs.

Off with ``BEAMLET_ADVICE=0`` and under ``compat="ray"``.  Notes are taken under the core worker's lock, said
in the user's thread without it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from beamlet.api import advice
from beamlet.base.deferring import is_from_handler
from beamlet.base.ids import ActorId, ObjectId, is_nil_actor
from beamlet.core_worker.waiting.waits import user_site
from beamlet.exceptions import CallSite, RaySystemError
from beamlet.serialization.values import Serialized

if TYPE_CHECKING:
    from beamlet.core_worker.core_worker import CoreWorker

logger = logging.getLogger("beamlet")


class Advisor:
    """One per connected process. ``core`` is its core worker."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self._serial = advice.SerialGets()
        self._small = advice.SmallTasks()
        self._repeated = advice.RepeatedArguments()
        self._notes: list[tuple[CallSite | None, str]] = []

    # -- called by the core worker ---------------------------------------------------------------

    def waited(self, refs: Sequence[Any], seconds: float) -> None:
        """A ``get`` has waited. Without the lock."""
        if self._notes:
            self._say_notes()
        if len(refs) == 1:
            self._waited_for_one(refs[0]._id, seconds)

    def _waited_for_one(self, object_id: ObjectId, seconds: float) -> None:
        if not is_nil_actor(ActorId(object_id[8:24])):
            return  # calls of one actor run one at a time anyway
        record = self._core.refs.objects.get(object_id)
        site = record.call_site if record is not None else None
        if site is not None and self._serial.waited(site, seconds, not self._core.submission.tasks):
            cpus = self._cpus()
            if cpus >= 2:
                _say(site, self._serial.text(cpus))
        _watch(self if self._serial.is_suspicious else None)

    def reviewed(
        self, name: str, site: CallSite | None, calls: int, average_us: float, cost_us: float
    ) -> None:
        """Under the lock."""
        text = self._small.reviewed(name, calls, average_us, cost_us)
        if text:
            self._notes.append((site, text))

    def large_argument(self, value: Any, data: bytes | Serialized, function: str) -> None:
        """An argument is about to be stored for one call. Without the lock."""
        parts = [data] if isinstance(data, bytes) else [data.inband, *data.buffers]
        size = sum(map(len, parts))
        if size < advice.LARGE_BYTES:
            return
        argument = self._repeated.sent(id(value), size, advice.fingerprint(parts))
        if argument is not None:
            _say(user_site(), advice.repeated_text(_name_of(value), function, argument))

    # -- called by the API while a loop looks serial ---------------------------------------------

    def got(self, value: Any) -> None:
        self._serial.got(value)

    def submitted(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._serial.submitted([*args, *kwargs.values()])
        _watch(self if self._serial.is_suspicious else None)

    # -- saying ----------------------------------------------------------------------------------

    def _say_notes(self) -> None:
        with self._core.lock:
            notes = self._notes.copy()
            self._notes.clear()
        for site, text in notes:
            _say(site, text)

    def _cpus(self) -> float:
        """0.0 if nobody can say: a ``get`` that has its value does not fail for want of advice."""
        from beamlet.api.cluster_state import cluster_resources

        try:
            return float(cluster_resources().get("CPU", 0.0))
        except (RaySystemError, TimeoutError) as error:
            if is_from_handler(error):
                raise
            return 0.0


#: Who wants to see arguments and results just now; read on the hot path.
watching: Advisor | None = None


def _watch(advisor: Advisor | None) -> None:
    global watching
    watching = advisor


def advise(core: CoreWorker, compat: str) -> None:
    """Give ``core`` an advisor, unless that is not wanted."""
    _watch(None)
    if compat != "ray" and os.environ.get("BEAMLET_ADVICE", "1") != "0":
        core.take_advice(Advisor(core))


def _say(site: CallSite | None, text: str) -> None:
    logger.warning("%s: %s", site or "advice", text)


def _name_of(value: Any) -> str:
    """What the calling code calls ``value``."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] != "beamlet":
            for name, each in [*frame.f_locals.items(), *frame.f_globals.items()]:
                if each is value and not name.startswith("_"):
                    return name
        frame = frame.f_back
    return "an argument"
