"""Tasks and links for tests of the submitters: nothing is pickled, nothing is sent."""

from __future__ import annotations

from beamlet.base.ids import FunctionKey, TaskId
from beamlet.core_worker.submitting.pending import Pending, PendingCall, PendingTask
from beamlet.core_worker.submitting.task_spec import (
    CallSpec,
    MethodTemplate,
    SchedulingKey,
    TaskSpec,
    TaskTemplate,
)
from beamlet.protocol.message import Message
from beamlet.protocol.peer import CallActor, PushTask

ONE_CPU = SchedulingKey((("CPU", 10_000),))


def a_task(name: str, key: SchedulingKey = ONE_CPU) -> PendingTask:
    template = TaskTemplate(FunctionKey(b"f"), name, 1, key, dict(key.resources), 0, False)
    return Pending(TaskSpec(template, id_of(name), b"", None, TaskId(b"")), ())


def a_call(name: str, retries: int = 0, unresolved: int = 0) -> PendingCall:
    method = MethodTemplate(name, 1, retries, shown_as=name)
    return Pending(CallSpec(method, id_of(name), b""), (), retries, unresolved=unresolved)


def id_of(name: str) -> TaskId:
    return TaskId(name.encode().rjust(24, b"."))


class SentMessages:
    """A link that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def names(self) -> list[str]:
        """Of the tasks and calls sent, in order."""
        return [message.name for message in self.sent if isinstance(message, PushTask | CallActor)]

    def take(self) -> list[Message]:
        taken, self.sent = self.sent, []
        return taken


class LeaseDesk:
    """A raylet that writes down what it is asked, and answers when the test says so."""

    def __init__(self) -> None:
        self.asked: dict[int, SchedulingKey] = {}
        self.cancelled: list[int] = []
        #: (lease id, dispose), as they came back.
        self.returned: list[tuple[int, bool]] = []
        self.backlogs: list[int] = []
        self._count = 0

    def request_lease(self, key: SchedulingKey, name: str, backlog: int) -> int:
        self._count += 1
        self.asked[self._count] = key
        self.backlogs.append(backlog)
        return self._count

    def cancel_lease_request(self, req: int) -> None:
        self.cancelled.append(req)

    def return_lease(self, lease_id: int, dispose: bool) -> None:
        self.returned.append((lease_id, dispose))

    def open_requests(self) -> list[int]:
        return [req for req in self.asked if req not in self.cancelled]
