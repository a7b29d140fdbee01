"""A worker's executing side without sockets, threads or processes: messages gather where a test sees them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from beamlet.base.ids import Address, FunctionKey, JobId, NodeId, TaskId, WorkerId, make_address
from beamlet.core_worker.executing.answers import Answers
from beamlet.core_worker.executing.blocked import BlockedThreads
from beamlet.core_worker.executing.execution import Execution
from beamlet.core_worker.executing.execution_queue import Item
from beamlet.core_worker.executing.in_place import Lending, Uses
from beamlet.core_worker.executing.producers import Producers
from beamlet.core_worker.executing.runner import Runner
from beamlet.core_worker.executing.work import Work
from beamlet.core_worker.owning.own_slab import OwnSlab
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.core_worker.owning.unseen import UnseenErrors
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.task_events import TaskEventBuffer
from beamlet.protocol.message import Message
from beamlet.protocol.peer import CallActor, PushTask
from beamlet.rpc.containment import Containment
from beamlet.rpc.turns import Waiter
from beamlet.serialization.arguments import NO_ARGUMENTS
from support.tasks import SentMessages

NODE = NodeId(b"n" * 28)
JOB = JobId(b"\x01\0\0\0")


class StillReactor:
    """Nothing moves but what the test moves: ``meanwhile`` holds what happens during each wait, in order."""

    def __init__(self) -> None:
        self.lock = self.bare_lock = threading.RLock()
        self.quiet_s, self.gathered = 0.0, 1
        self.meanwhile: list[Callable[[], None]] = []
        self.flushes = 0
        #: Of each answer: whether it was to leave at once.
        self.left: list[bool] = []
        self.containment = Containment()

    def flush(self) -> None:
        self.flushes += 1

    def leave(self) -> None:
        self.left.append(True)

    def gather(self) -> None:
        self.left.append(False)

    def wait(self, waiter: Waiter, deadline: float | None = None) -> bool:
        while waiter.remaining > 0 and self.meanwhile:
            self.meanwhile.pop(0)()
        assert waiter.remaining <= 0 or deadline is not None, "it would wait for ever"
        return waiter.remaining <= 0

    def block_until(self, waiter: Waiter, deadline: float | None, *_: Any) -> bool:
        return self.wait(waiter, deadline)


class Silence:
    """An Output. ``printed``: the task that runs says something."""

    printed = False

    def take_printed(self) -> bool:
        printed, self.printed = self.printed, False
        return printed

    def flush(self) -> None:
        pass


class Children:
    """The tasks that this process submitted: what was cancelled of them."""

    def __init__(self) -> None:
        self.cancelled: list[Any] = []
        self.needed = False
        self.asked: list[bool] = []

    def cancel_task(self, task_id: TaskId, force: bool, recursive: bool) -> None:
        self.cancelled.append(("task", task_id))

    def cancel_children(self, parent: TaskId, force: bool) -> None:
        self.cancelled.append(("children of", parent))

    def is_needed(self, job_is_over: bool) -> bool:
        self.asked.append(job_is_over)
        return self.needed


class Worker:
    """The production classes of ``core_worker/executing``, put together. ``owner`` is who pushes to it."""

    def __init__(self) -> None:
        self.reactor: Any = StillReactor()
        self.link: Any = SentMessages()
        self.output: Any = Silence()
        self.children = Children()
        self.owner = a_peer(1)
        self.functions: dict[FunctionKey, Any] = {}
        self.orders: list[Any] = []
        self.work = Work()
        refs = self.refs = ReferenceCounter(make_address(NODE, WorkerId(b"w" * 28)))
        peer_book: Any = SimpleNamespace(get=lambda _: self.link)
        releases = self.releases = Releases(refs, peer_book, self.link, UnseenErrors(), OwnSlab())
        releases.on_reply_may_go = lambda name: self.answers.may_go(name)
        blocking: Any = self.reactor
        peers: Any = SimpleNamespace(full=set())
        self.blocked = BlockedThreads(self.reactor, self.link, self.work)
        self.answers = Answers(self.reactor, self.link, peers, refs, releases, self.work)
        self.producers = Producers(self.reactor, blocking, self.work)
        self.uses = Uses(self.link)
        self.execution = Execution(
            self.reactor,
            self.link,
            self.work,
            self.answers,
            self.producers,
            self.blocked,
            self.children,
            self._run,
        )
        table: Any = SimpleNamespace(loaded=self.functions)
        store: Any = None
        self.runner = Runner(
            reactor=self.reactor,
            node_id=NODE,
            node_ip="127.0.0.1",
            functions=table,
            store=store,
            refs=refs,
            releases=releases,
            work=self.work,
            answers=self.answers,
            peers=peers,
            producers=self.producers,
            lending=Lending(self.reactor, store, self.uses),
            output=self.output,
            events=TaskEventBuffer(b"w" * 28),
            put=lambda value: value,
        )
        self._seq = 0

    def _run(self, item: Item) -> None:
        sender, message = item
        if sender is None:
            self.orders.append(message)
        elif isinstance(message, PushTask):
            self.runner.run_task(sender, message)
        elif isinstance(message, CallActor):
            self.runner.run_call(sender, message, self.functions[FunctionKey(b"m")], f"A.{message.method}")

    def pushed(self, function: Callable[..., Any], num_returns: int = 1, **fields: Any) -> PushTask:
        """A task that has arrived from ``owner`` and waits to be run."""
        self._seq += 1
        key = FunctionKey(f"f{self._seq}".encode())
        self.functions[key] = function
        task_id = TaskId(f"t{self._seq}".encode().ljust(20, b".") + JOB)
        name = function.__name__
        task = PushTask(self._seq, task_id, key, name, num_returns, NO_ARGUMENTS, **fields)
        self.execution.task_arrived(self.owner, task)
        return task

    def answered(self) -> list[Message]:
        """What ``owner`` was sent since the last look."""
        sent, self.owner.queue = self.owner.queue, []
        return sent


def a_peer(number: int) -> Peer:
    """A core worker without a connection: what it is sent gathers in its queue."""
    return Peer(Address(make_address(NODE, WorkerId(bytes([number]) * 28))))
