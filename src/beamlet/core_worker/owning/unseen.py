"""Errors of tasks that nobody asks for: told once the last reference to them is gone, or at the end.

A program that drops its references, or only waits for them, would otherwise never learn that its tasks fail.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence

import msgspec

from beamlet.base.ids import ObjectId
from beamlet.core_worker.owning.object_record import FREED, ObjectRecord
from beamlet.exceptions import CallSite, RayTaskError, TaskCancelledError
from beamlet.processes.prompt_thread import PromptThread, can_start
from beamlet.serialization.remote_error import peek

logger = logging.getLogger("beamlet")

#: References of a ``get`` that raised; what their tasks raise later is part of the same story.
_EXCUSED_MAX = 10_000
#: Told one by one at the end of a program; the rest is counted.
_TOLD_AT_END_MAX = 10
#: Errors looked at in one go when nothing says that they are due.
_LOOKED_AT_ONCE = 2000


class UnseenError(msgspec.Struct, eq=False):
    """One failed task's error, until someone sees it."""

    name: str
    payload: bytes
    records: Sequence[ObjectRecord]
    site: CallSite | None
    is_seen: bool = False


class UnseenErrors:
    """Guarded by the core worker's lock, but for ``seen``, which is atomic."""

    def __init__(self) -> None:
        #: By every return value of the failed task.
        self.errors: dict[ObjectId, UnseenError] = {}
        #: To be looked at: new ones, and those of whose references one was let go.
        self.due: list[ObjectId] = []
        #: What is left of a round through all: records are freed in more ways than that.
        self._round: list[ObjectId] = []
        self._excused: set[ObjectId] = set()
        self._silent = any(
            os.environ.get(f"{prefix}_IGNORE_UNHANDLED_ERRORS") == "1" for prefix in ("BEAMLET", "RAY")
        )

    def failed(
        self, name: str, ids: Sequence[ObjectId], records: Sequence[ObjectRecord], payload: bytes
    ) -> None:
        """The error ``payload`` has become the value of all of ``ids``, results of task ``name``."""
        if self._silent or not ids or any(object_id in self._excused for object_id in ids):
            self._excused.difference_update(ids)
            return
        error = UnseenError(name, payload, records, records[0].call_site)
        self.errors.update(dict.fromkeys(ids, error))
        self.due.append(ids[0])  # its references may be gone already

    def tell_no_more(self) -> None:
        """The cluster is gone, which was said: that tasks fail for it is no news."""
        self._silent = True

    def seen(self, object_id: ObjectId) -> None:
        """The value was looked at, or handed to someone else."""
        error = self.errors.pop(object_id, None)
        if error is not None:
            error.is_seen = True

    def excuse(self, object_ids: Iterable[ObjectId]) -> None:
        """A ``get`` of all these raised the error of one."""
        if len(self._excused) > _EXCUSED_MAX:
            self._excused.clear()
        for object_id in object_ids:
            if object_id in self.errors:
                self.seen(object_id)
            else:
                self._excused.add(object_id)

    def let_go(self, object_ids: Iterable[ObjectId]) -> None:
        """A reference to each of these died here."""
        self.due += object_ids

    def look_round(self) -> None:
        """Now and then: a part of all, also of those that were let go elsewhere, with a value around them."""
        if self.errors and not self._round:
            self._round = list(self.errors)
        self.due += self._round[-_LOOKED_AT_ONCE:]
        del self._round[-_LOOKED_AT_ONCE:]
        self.sweep()

    def sweep(self) -> None:
        """Tell of the errors whose references are all gone, as far as they are due to be looked at."""
        if not self.due:
            return
        due, self.due = self.due, []
        done: dict[ObjectId, UnseenError] = {}
        for object_id in due:
            error = self.errors.get(object_id)
            if error is None:
                continue
            if error.is_seen:
                del self.errors[object_id]
            elif all(record.state == FREED for record in error.records):
                del self.errors[object_id]
                error.is_seen = True
                done[object_id] = error
        if not done:
            return
        # Handlers of logging are code of users: not here, under the lock.
        if not can_start(PromptThread(target=_tell, args=(list(done.values()),), name="beamlet-errors")):
            for error in done.values():  # to be told when there is a thread for it, or at the end
                error.is_seen = False
            self.errors |= done

    def tell_all(self) -> None:
        """The program ends: nobody will ask any more. Without the lock."""
        errors = list({id(e): e for e in self.errors.copy().values() if not e.is_seen}.values())
        self.errors.clear()
        _tell(errors[:_TOLD_AT_END_MAX])
        if len(errors) > _TOLD_AT_END_MAX:
            logger.error("and %d more tasks failed unseen", len(errors) - _TOLD_AT_END_MAX)


def _tell(errors: list[UnseenError]) -> None:
    for unseen in errors:
        error = peek(unseen.payload)
        if isinstance(error, TaskCancelledError):
            continue
        if isinstance(error, RayTaskError) and unseen.site is not None:
            error.called_from(unseen.site)
        name = error.function_name if isinstance(error, RayTaskError) else unseen.name
        where = f", submitted at {unseen.site}," if unseen.site else ""
        text = error.with_notes() if isinstance(error, RayTaskError) else error
        logger.error("%s%s failed, and nobody asked for its result: %s", name, where, text)
