"""Errors of actors and their handles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from beamlet.exceptions.root import RayError, WithErrorMessage, Worded
from beamlet.exceptions.task_error import RayTaskError

if TYPE_CHECKING:
    from beamlet.base.death import DeathCertificate


class RayActorError(RayError):
    """An actor call failed because of the actor, not because of the method's code."""

    BASE_ERROR_MSG = "The actor failed before this call was finished."

    def __init__(
        self,
        actor_id: str | None = None,
        error_msg: str = BASE_ERROR_MSG,
        actor_init_failed: bool = False,
        preempted: bool = False,
    ) -> None:
        super().__init__(actor_id, error_msg, actor_init_failed, preempted)
        self.actor_id = actor_id
        self.error_msg = error_msg
        self._actor_init_failed = actor_init_failed
        self._preempted = preempted

    @property
    def preempted(self) -> bool:
        """Whether the actor's node was taken away by its provider."""
        return self._preempted

    @property
    def actor_init_failed(self) -> bool:
        """Whether ``__init__`` raised, so that the actor never lived."""
        return self._actor_init_failed

    def __str__(self) -> str:
        return self.error_msg + (" Its node was preempted." if self._preempted else "")


class ActorDiedError(RayActorError):
    """The actor is dead and will not come back.

    cause: what ``__init__`` raised, the certificate of its last process, a text that says why, or None.
    who: which actor that is, in more words than its name and id.
    """

    BASE_ERROR_MSG = "The actor died before this call was finished."

    def __init__(
        self,
        cause: BaseException | DeathCertificate | str | None = None,
        *,
        actor_id: str | None = None,
        actor_name: str = "",
        preempted: bool = False,
        who: str = "",
    ) -> None:
        failed_init = isinstance(cause, BaseException)
        if actor_id is None and isinstance(cause, RayTaskError):
            actor_id = cause.actor_id
        who = who[:1].upper() + who[1:] or _name_actor(actor_name, actor_id)
        text = _why_actor_died(cause, who, self.BASE_ERROR_MSG)
        super().__init__(actor_id, text, failed_init, preempted)
        self.cause = cause
        self.certificate = None if isinstance(cause, BaseException | str) else cause

    @classmethod
    def from_task_error(cls, task_error: RayTaskError) -> Self:
        """The error of every call to an actor whose ``__init__`` raised."""
        return cls(task_error)


class ActorUnavailableError(RayActorError):
    """The actor cannot be reached now; it may come back. Its text says whether the call may have run.

    was_sent: False if that cannot be.
    """

    def __init__(self, error_message: str, actor_id: bytes | None, was_sent: bool = True) -> None:
        shown = actor_id.hex() if actor_id else None
        ran = "The call may have run or not" if was_sent else "The call was never sent: it has not run"
        super().__init__(shown, f"Actor {shown or '<unknown>'} cannot be reached: {error_message}. {ran}.")


class ActorAlreadyExistsError(ValueError, WithErrorMessage):
    """The name is taken in this namespace."""


class ActorHandleNotFoundError(ValueError, WithErrorMessage):
    """The handle belongs to an earlier session."""


class ActorUnschedulableError(WithErrorMessage):
    """No node may ever hold the actor."""

    def __str__(self) -> str:
        return f"The actor cannot be scheduled: {self.error_message}"


class ActorPlacementGroupRemoved(Worded):
    """The group that the actor lived in is gone."""

    _default = "The placement group of this actor was removed, and the actor with it."


class PendingCallsLimitExceeded(RayError):
    """More than ``max_pending_calls`` calls of this handle are unanswered."""


class AsyncioActorExit(RayError):
    """How ``exit_actor()`` leaves an async method."""


class ActorClassInheritanceException(TypeError):
    """A class derives from an actor class; derive from the plain class and decorate the result."""


def _name_actor(name: str, actor_id: str | None) -> str:
    return " ".join(["The actor", *([name] if name else []), *([f"({actor_id})"] if actor_id else [])])


def _why_actor_died(cause: BaseException | DeathCertificate | str | None, actor: str, default: str) -> str:
    if cause is None:
        return default
    if isinstance(cause, str):
        # Who died is what most of the GCS's stories begin with.
        tells_who = cause.startswith("actor ")
        return cause[0].upper() + cause[1:] if tells_who else f"{actor} is dead: {cause}"
    if isinstance(cause, RayTaskError):
        return f"{actor} could not be created, because its __init__ raised:\n{cause.with_notes()}"
    if isinstance(cause, BaseException):
        return f"{actor} could not be created, because an argument of its __init__ is an error:\n{cause}"
    return f"{actor} is dead: {cause.describe()}"
