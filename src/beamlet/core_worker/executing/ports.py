"""What the executing side asks of the rest of its core worker, besides the objects it is given."""

from __future__ import annotations

from typing import Protocol

from beamlet.base.ids import TaskId


class OwnTasks(Protocol):
    """The tasks that this process itself has submitted. Under the lock."""

    def cancel_task(self, task_id: TaskId, force: bool, recursive: bool) -> None:
        """Stop one of them, wherever it is."""

    def cancel_children(self, parent: TaskId, force: bool) -> None:
        """Stop those that the running task ``parent`` has submitted, and theirs."""

    def is_needed(self, job_is_over: bool) -> bool:
        """Whether something would be lost with this process, idle as it is."""
