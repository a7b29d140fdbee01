"""Errors of objects: lost, freed, unknown, or miscounted."""

from __future__ import annotations

from typing import Final

from beamlet.base.error_type import ErrorType
from beamlet.exceptions.root import RayError


class ObjectLostError(RayError):
    """Every copy of the object is gone."""

    _why = "every copy is gone, and it cannot be made again"

    def __init__(self, object_ref_hex: str, owner_address: str | None, call_site: str) -> None:
        super().__init__(object_ref_hex, owner_address, call_site)
        self.object_ref_hex = object_ref_hex
        self.owner_address = owner_address
        self.call_site = call_site

    def __str__(self) -> str:
        made = f" (created at {self.call_site})" if self.call_site else ""
        return f"Object {self.object_ref_hex}{made} cannot be fetched: {self._why}."


class ObjectFetchTimedOutError(ObjectLostError):
    """Nobody could say where a copy is."""

    _why = "no node reported a copy in time"


class OwnerDiedError(ObjectLostError):
    """The process that created the ref is gone, and with it the knowledge of where the value is."""

    _why = "the process that owned it has exited, and only the owner knew where the value was"


class ObjectReconstructionFailedError(ObjectLostError):
    """The object was lost and running its task again is impossible; ``reason`` says why."""

    REASON_MESSAGES: Final[dict[ErrorType, str]] = {
        ErrorType.OBJECT_UNRECONSTRUCTABLE_MAX_ATTEMPTS_EXCEEDED: "its task has used up max_retries",
        ErrorType.OBJECT_UNRECONSTRUCTABLE_LINEAGE_EVICTED: "its task description was dropped to save memory",
        ErrorType.OBJECT_UNRECONSTRUCTABLE_PUT: "it was made by put(), which nothing can repeat",
        ErrorType.OBJECT_UNRECONSTRUCTABLE_RETRIES_DISABLED: "its task has max_retries=0",
        ErrorType.OBJECT_UNRECONSTRUCTABLE_BORROWED: "only its owner, not this borrower, can make it again",
        ErrorType.OBJECT_UNRECONSTRUCTABLE_REF_NOT_FOUND: "its owner no longer knows it",
        ErrorType.OBJECT_UNRECONSTRUCTABLE_TASK_CANCELLED: "its task was cancelled",
        ErrorType.OBJECT_UNRECONSTRUCTABLE_LINEAGE_DISABLED: "making lost objects again is switched off",
    }

    def __init__(
        self,
        object_ref_hex: str,
        reason: ErrorType | None = None,
        reason_message: str | None = None,
        owner_address: str | None = None,
        call_site: str = "",
    ) -> None:
        super().__init__(object_ref_hex, owner_address, call_site)
        self.reason = reason
        known = self.REASON_MESSAGES.get(reason) if reason else None
        self.reason_message = reason_message or known or "no reason was recorded"

    def __str__(self) -> str:
        made = f" (created at {self.call_site})" if self.call_site else ""
        code = f" [{self.reason.name}]" if self.reason else ""
        lost = f"Object {self.object_ref_hex}{made} was lost and cannot be made again"
        return f"{lost}: {self.reason_message}.{code}"


class ObjectFreedError(ObjectLostError):
    """Someone freed the object by hand."""

    _why = "it was freed by an explicit free(); free only what nobody will read again"


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was deleted while a ref to it lived: a bug of Beamlet's."""

    _why = "it was deleted although this ref is alive, which is a bug in Beamlet; please report it"


class PlasmaObjectNotAvailable(RayError):
    """The object is not in this node's store."""


class OufOfBandObjectRefSerializationException(RayError):
    """A ref was pickled where Beamlet cannot count it. (The spelling is Ray's.)"""


class ObjectRefStreamEndOfStreamError(RayError):
    """A streaming task has yielded its last item."""
