"""Errors of tasks and of asking for their results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beamlet.exceptions.root import RayError, WithErrorMessage, Worded

if TYPE_CHECKING:
    from beamlet.base.death import DeathCertificate


class TaskCancelledError(RayError):
    """Someone called ``cancel`` on the task (or on its parent)."""

    def __init__(self, task_id: str | None = None, error_message: str | None = None) -> None:
        super().__init__(task_id, error_message)
        self.task_id = task_id
        self.error_message = error_message

    def __str__(self) -> str:
        task = f"Task {self.task_id}" if self.task_id else "This task"
        return f"{task} was cancelled" + (f": {self.error_message}" if self.error_message else "")


class GetTimeoutError(RayError, TimeoutError):
    """``get(..., timeout=)`` ran out before all values were there."""


class UserCodeException(RayError):
    """A library's wrapper around its user's error; ``retry_exceptions`` looks at ``__cause__``."""


class UnserializableException(RayError):
    """An error arrived whose class cannot be rebuilt here; its original text is below."""

    def __init__(self, original_stack_trace: str) -> None:
        super().__init__(original_stack_trace)
        self._original_stack_trace = original_stack_trace

    def __str__(self) -> str:
        return f"An exception could not be unpickled in this process. It was:\n{self._original_stack_trace}"


class WorkerCrashedError(Worded):
    """The process running the task died, and no retries were left."""

    _default = "The worker process died while running this task, and no retries were left."

    def __init__(self, *args: object, certificate: DeathCertificate | None = None) -> None:
        super().__init__(*args)
        self.certificate = certificate

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n{_sentence(self.certificate)}" if self.certificate else text


class TaskUnschedulableError(WithErrorMessage):
    """No node may ever run the task: its affinity or labels exclude all that live."""

    def __str__(self) -> str:
        return f"The task cannot be scheduled: {self.error_message}"


class TaskPlacementGroupRemoved(Worded):
    """The group that the task was to run in is gone."""

    _default = "The placement group of this task was removed before the task could run in it."


class InfeasibleError(RayError):
    """The request asks for more than any node has; waiting would not help."""


class DeadlockError(RayError):
    """Calls wait for one another in a circle."""


class BlockingInAsyncError(RayError):
    """An async method blocked its event loop, and with it every other call of the actor."""


def _sentence(certificate: DeathCertificate) -> str:
    text = certificate.describe()
    return text[:1].upper() + text[1:]
