"""Waits of running calls: watched for circles (deadlocks.py), timed when they block an event loop.

The shell of the deadlock detector: what this process knows of its own calls, timers, messages.  A wait comes
here only once it has lasted a millisecond, so none of this is on a hot path.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from beamlet.base.ids import ActorId, Address, ObjectId, TaskId, actor_creation_task_id, task_of_object
from beamlet.base.our_folder import OUR_FOLDER
from beamlet.core_worker.context import Contexts, TaskContext
from beamlet.core_worker.executing.work import Work
from beamlet.core_worker.owning.object_record import PENDING, ObjectRecord
from beamlet.core_worker.owning.ports import Peers
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.submitting.actor_submitter import ActorLink, LinkState
from beamlet.core_worker.submitting.actors import ActorAccess
from beamlet.core_worker.submitting.pending import Pending, PendingCall
from beamlet.core_worker.submitting.submission import Submission
from beamlet.core_worker.submitting.task_submitter import TaskSubmitter
from beamlet.core_worker.waiting.deadlocks import Blocker, DeadlockDetector, Lead, Wait
from beamlet.exceptions import CallSite
from beamlet.protocol.peer import BlockedOn
from beamlet.rpc.turns import SharedReactor, Waiter

#: When a wait sends its first probe, and how long until the next one; the last interval repeats.
_PROBE_AFTER_S = (0.7, 1.0, 2.0, 5.0)


class Waits:
    """What a process knows of who waits for whom. Guarded by the core worker's lock.

    A driver's own waits are in no circle, for nothing waits for a driver; but it is asked where its objects
    are made.
    """

    def __init__(
        self,
        reactor: SharedReactor,
        peers: Peers,
        refs: ReferenceCounter,
        submitter: TaskSubmitter[Peer],
        submission: Submission,
        actors: ActorAccess,
    ) -> None:
        self._reactor = reactor
        self._peers = peers
        self._refs = refs
        self._submitter = submitter
        self._submission = submission
        self._actors = actors
        self.detector = DeadlockDetector(refs.self_address, self)

    def received(self, message: BlockedOn) -> None:
        self.detector.received(message)
        self._carry_out()

    def _carry_out(self) -> None:
        outbox, self.detector.outbox = self.detector.outbox, []
        for address, message in outbox:
            self._peers.get(address).send(message)

    # -- what the detector asks (under the lock) -------------------------------------------------

    def leads(self, objects: Sequence[ObjectId]) -> list[Lead]:
        """Follows tasks that wait for arguments to those that do not: chains of them may be long."""
        found: list[Lead] = []
        seen: set[ObjectId] = set()
        ahead = list(objects)
        while ahead:
            calls: dict[ActorId, set[TaskId]] = {}
            for object_id in ahead:  # grows
                record = self._refs.objects.get(object_id)
                if object_id in seen or record is None or record.state != PENDING:
                    continue
                seen.add(object_id)
                task_id = task_of_object(object_id)
                if record.owner:
                    found.append(Lead(Address(record.owner), object_id=object_id))
                elif task_id in self._submission.tasks:
                    ahead += self._follow_task(task_id, found)
                else:
                    calls.setdefault(ActorId(object_id[8:24]), set()).add(task_id)
            ahead = []
            for actor_id, task_ids in calls.items():
                ahead += self._follow_calls(actor_id, task_ids, found)
        return found

    def _follow_task(self, task_id: TaskId, found: list[Lead]) -> list[ObjectId]:
        """Adds to ``found`` where the task is, or returns the arguments that it waits for."""
        task = self._submission.tasks[task_id]
        if task.unresolved:
            return unresolved_of(task, self._refs.objects)
        worker = self._submitter.worker_of(task)
        if worker is not None:
            found.append(Lead(Address(worker.address), task_id, task.spec.name))
        return []  # if it waits for a worker, that is no circle: blocked calls lend theirs

    def _follow_calls(self, actor_id: ActorId, task_ids: set[TaskId], found: list[Lead]) -> list[ObjectId]:
        """The same for calls of one actor."""
        link = self._actors.links.get(actor_id)
        if link is None:
            return []
        flying = [call for call in link.in_flight.values() if call.spec.task_id in task_ids]
        if link.ordered:
            flying = flying[-1:]  # whoever waits for the last one waits for all before it
        found += [Lead(link.address, call.spec.task_id, call_name(link, call)) for call in flying]
        queued = [call for call in link.waiting() if call.spec.task_id in task_ids]
        if queued and link.ordered:
            queued = link.waiting()[:1]
        arguments: list[ObjectId] = []
        for call in queued:
            if call.unresolved:
                arguments += unresolved_of(call, self._refs.objects)
            elif link.state is LinkState.WAITING and self._is_own(actor_id):
                found.append(
                    Lead(self._refs.self_address, actor_creation_task_id(actor_id), call_name(link, call))
                )
        return arguments

    def _is_own(self, actor_id: ActorId) -> bool:
        """Whether this process is that actor."""
        return False

    def blocker(self, task_id: TaskId) -> Blocker | None:
        return None


class CallWaits(Waits):
    """The same, and all waits of the calls that run in this worker."""

    def __init__(
        self,
        reactor: SharedReactor,
        peers: Peers,
        refs: ReferenceCounter,
        submitter: TaskSubmitter[Peer],
        submission: Submission,
        actors: ActorAccess,
        contexts: Contexts,
        work: Work,
    ) -> None:
        super().__init__(reactor, peers, refs, submitter, submission, actors)
        self._contexts = contexts
        self._work = work
        #: Thread that waits, and whom to wake, by the wait's number.
        self._threads: dict[int, tuple[int, Waiter]] = {}

    # -- the waiting thread (no lock) ------------------------------------------------------------

    @contextmanager
    def entered(self, waiter: Waiter, objects: Sequence[ObjectId]) -> Iterator[Wait | None]:
        """Around a wait that only ``objects`` can end; when they never will, it ends with a verdict."""
        wait = self._register(waiter, objects)
        if wait is None:
            yield None
            return
        try:
            yield wait
        finally:
            with self._reactor.lock:
                self.detector.ended(wait)
                del self._threads[wait.number]

    def _register(self, waiter: Waiter, objects: Sequence[ObjectId]) -> Wait | None:
        """None: nothing can wait for the waiting thread, so it is in no circle."""
        if not objects:
            return None
        thread = threading.get_ident()
        with self._reactor.lock:
            context = self._call_of_thread(thread)
            if context is None:
                return None
            site = str(user_site() or "?")
            wait = self.detector.began(context.task_id, context.name, site, monotonic(), tuple(objects))
            self._threads[wait.number] = thread, waiter
            self._probe_later(wait)
        return wait

    def _call_of_thread(self, thread: int) -> TaskContext | None:
        """The call that ends when the code of this thread does; helpers that users start have none."""
        context = self._contexts.current()
        on_main_thread = thread == threading.main_thread().ident
        running = self._work.running.get(context.task_id)
        if running is not None:
            # What blocks a coroutine blocks the loop's thread.
            on_loop = running.thread == 0 and on_main_thread
            return context if running.thread == thread or on_loop else None
        return context if on_main_thread and self._work.is_creation(context.task_id) else None

    def wait_of(self, task_id: TaskId) -> Wait | None:
        """The wait that the call is in, if only its objects can end it. Under the lock."""
        return next((wait for wait in self.detector.waits.values() if wait.task_id == task_id), None)

    # -- probes (under the lock) -----------------------------------------------------------------

    def _probe_later(self, wait: Wait) -> None:
        delay = _PROBE_AFTER_S[min(wait.round, len(_PROBE_AFTER_S) - 1)]
        self._reactor.call_later(delay, lambda: self._probe(wait))

    def _probe(self, wait: Wait) -> None:
        if wait.number in self.detector.waits and not wait.verdict:
            self.detector.probe(wait)
            self._carry_out()
            self._probe_later(wait)

    def _carry_out(self) -> None:
        super()._carry_out()
        doomed, self.detector.doomed = self.detector.doomed, []
        for wait in doomed:
            _, waiter = self._threads[wait.number]
            waiter.complete(waiter.remaining)

    # -- what the detector asks (under the lock) -------------------------------------------------

    def _is_own(self, actor_id: ActorId) -> bool:
        spec = self._work.spec
        return spec is not None and spec.actor_id == actor_id

    def blocker(self, task_id: TaskId) -> Blocker | None:
        for wait in self.detector.waits.values():
            if wait.task_id == task_id:
                via = "cannot start before the constructor ends" if self._is_creation(task_id) else ""
                return Blocker(wait.number, via)
        for wait in self.detector.waits.values():
            thread, _ = self._threads[wait.number]
            if thread == threading.main_thread().ident and (why := self._queues_behind(task_id, wait)):
                return Blocker(wait.number, why)
        return None

    def _is_creation(self, task_id: TaskId) -> bool:
        return task_id[:8] == b"\x00" * 8

    def _queues_behind(self, task_id: TaskId, wait: Wait) -> str:
        """How the call is kept up by ``wait``, which holds the main thread; "" if it is not."""
        work = self._work
        if work.spec is None:
            return ""  # a worker that waits hands back the tasks queued behind
        if work.loop is not None:
            waits = task_id in work.running or work.loop.is_queued(task_id)
            return f"needs the event loop that {wait.name} blocks" if waits else ""
        if work.spec.max_concurrency != 1 or work.spec.concurrency_groups:
            return ""  # other threads may serve it
        is_queued = work.find(task_id) is not None
        return f"queues behind {wait.name} on the same actor (max_concurrency=1)" if is_queued else ""


def unresolved_of(work: Pending[Any], objects: Mapping[ObjectId, ObjectRecord]) -> list[ObjectId]:
    """The arguments that ``work`` still waits for."""
    arguments = work.held[: len(work.spec.deps)]
    return [i for i in arguments if (record := objects.get(i)) is not None and record.state == PENDING]


def call_name(link: ActorLink[Peer], call: PendingCall) -> str:
    method = call.spec.method
    return method.shown_as or f"{link.name}.{method.name}"


def user_site() -> CallSite | None:
    """The innermost line of the calling thread that is not ours."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(OUR_FOLDER) or "contextlib" in frame.f_code.co_filename:
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return CallSite(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
