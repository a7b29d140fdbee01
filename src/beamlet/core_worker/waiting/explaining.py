"""Why something is not there yet: what a wait waits for, who holds it up, since when.

    our own tables   which task, which actor, not sent yet or where it is
    its executor     running since when, or behind what (AskProgress → Progress)
    our raylet       what a lease or an actor's seat waits for (WhyPending)

Used when ``get`` times out, and by a hint once a driver's wait has lasted HINT_S: a warning when the wait is
for something that makes no headway, else a line at INFO.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from time import monotonic
from typing import Any

import msgspec

from beamlet.base.ids import ActorId, Address, ObjectId, TaskId, return_id, short, task_of_object
from beamlet.core_worker.executing.work import Work
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.owning.object_record import PENDING, ObjectRecord
from beamlet.core_worker.owning.objects import GetWaiter
from beamlet.core_worker.owning.ports import Peers, Ref, Sends
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.peers import Peer
from beamlet.core_worker.submitting.actor_submitter import ActorLink, LinkState
from beamlet.core_worker.submitting.actors import ActorAccess
from beamlet.core_worker.submitting.pending import Pending, PendingTask
from beamlet.core_worker.submitting.submission import Submission
from beamlet.core_worker.submitting.task_submitter import TaskSubmitter
from beamlet.core_worker.waiting.waits import CallWaits, call_name, unresolved_of, user_site
from beamlet.protocol.node import WhyPending, WhyPendingAnswer
from beamlet.protocol.peer import AskProgress, Progress
from beamlet.rpc.turns import SharedReactor, Waiter

logger = logging.getLogger("beamlet")

#: A wait of a driver is explained after this long, once.
HINT_S = 5.0
#: Programs that poll with short timeouts catch GetTimeoutError often: then others are not asked.
_ASK_FROM_S = 0.5
#: How long others may take to answer: they are asked so long before it is told.
_ANSWER_S = 0.2
_LOOKED_AT_MAX = 20
_SHOWN_MAX = 4
_DEPTH_MAX = 5


class Cause(msgspec.Struct):
    """What one object waits for, and whom to ask for more. As text: ``what how``."""

    what: str
    how: str
    #: Something runs that will bring it about.
    progresses: bool = True
    executor: tuple[Address, TaskId] | None = None
    #: The raylet knows: of this lease request, or of a seat for this actor.
    lease_req: int = 0
    actor: ActorId = ActorId(b"")

    def __str__(self) -> str:
        return f"{self.what} {self.how}"


class _Inquiry:
    """What others are asked about some objects, and what they answered in time."""

    def __init__(self, object_ids: Sequence[ObjectId]) -> None:
        self.object_ids = object_ids
        #: The questions: to executors by token, to the raylet by what they are about.
        self.tokens: dict[int, tuple[Address, TaskId]] = {}
        self.requests: dict[tuple[ActorId, int], int] = {}
        self.progress: dict[tuple[Address, TaskId], Progress] = {}
        self.reasons: dict[tuple[ActorId, int], str] = {}

    def why_came(self, seat: tuple[ActorId, int], answer: WhyPendingAnswer | None) -> None:
        if answer is not None and answer.reasons:
            self.reasons[seat] = answer.reasons[0]


class Explaining:
    """Handlers run under the core worker's lock, the rest in the thread that waits, without it."""

    def __init__(
        self,
        reactor: SharedReactor,
        link: NodeLink,
        peers: Peers,
        refs: ReferenceCounter,
        submitter: TaskSubmitter[Peer],
        submission: Submission,
        actors: ActorAccess,
    ) -> None:
        self._reactor = reactor
        self._link = link
        self._peers = peers
        self._refs = refs
        self._submitter = submitter
        self._submission = submission
        self._actors = actors
        self._tokens = itertools.count(1)
        #: Who waits for which answer.
        self._asking: dict[int, _Inquiry] = {}
        #: Of gets whose time is over, for ``timeout_text``.
        self._inquiries: dict[Waiter, _Inquiry] = {}
        #: Lines of user code whose waits were explained: once each.
        self._hinted: set[str] = set()

    # -- waiting -----------------------------------------------------------------------------------

    def wait(self, waiter: Waiter, deadline: float | None, refs: Sequence[Ref], began: float) -> bool:
        """Wait as the reactor does, with a hint when it takes long."""
        hint_at = began + HINT_S
        if refs and (deadline is None or deadline > hint_at):
            inquiry = self._wait_and_ask(waiter, hint_at, refs)
            if inquiry is None:
                return True
            if not self._reactor.is_closing:
                self._hint(inquiry)
        return self.wait_until(waiter, deadline, refs, began)

    def wait_until(self, waiter: Waiter, deadline: float | None, refs: Sequence[Ref], began: float) -> bool:
        """Wait as the reactor does. If it is a get, what ``timeout_text`` will want to know is asked ahead:
        then it is here at the deadline, or is done without.
        """
        if deadline is None or not isinstance(waiter, GetWaiter) or deadline - began < _ASK_FROM_S:
            return self._reactor.wait(waiter, deadline)
        inquiry = self._wait_and_ask(waiter, deadline, refs)
        if inquiry is None:
            return True
        self._inquiries[waiter] = inquiry
        return False

    def _wait_and_ask(self, waiter: Waiter, until: float, refs: Sequence[Ref]) -> _Inquiry | None:
        """Wait until ``until``, asking others shortly before. None: it is over."""
        if self._reactor.wait(waiter, until - _ANSWER_S):
            return None
        inquiry = _Inquiry([ref._id for ref in refs])
        try:
            if not self._link.connection.closed:
                self._ask(inquiry)
            return None if self._reactor.wait(waiter, until) else inquiry
        finally:
            self._stop_asking(inquiry)

    def _hint(self, inquiry: _Inquiry) -> None:
        site = str(user_site() or "")
        if site in self._hinted:
            return
        causes = self._causes(inquiry)
        if not causes:
            return
        stuck = [cause for cause in causes if not cause.progresses]
        if stuck:
            self._hinted.add(site)
        logger.log(
            logging.WARNING if stuck else logging.INFO,
            "%s has been waiting for %.0f s: %s",
            site or "a wait",
            HINT_S,
            "; ".join(_grouped(stuck or causes)),
        )

    def timeout_text(self, waiter: Waiter, object_ids: Sequence[ObjectId], timeout_s: float) -> str:
        """The message of a GetTimeoutError. Asks nobody: the time is over."""
        inquiry = self._inquiries.pop(waiter) if waiter in self._inquiries else _Inquiry(object_ids)
        causes = self._causes(inquiry)
        what = "some objects" if len(object_ids) > 1 else "the object"
        text = f"Get timed out: some object(s) not ready. After {timeout_s:g} s {what} had no value"
        return "\n  ".join([f"{text}:", *_grouped(causes)]) if causes else f"{text}."

    # -- causes ------------------------------------------------------------------------------------

    def _causes(self, inquiry: _Inquiry) -> list[Cause]:
        """As our own tables have it now, with what others answered."""
        with self._reactor.lock:
            causes = self._own_causes(inquiry.object_ids)
        for cause in causes:
            answer = inquiry.progress.get(cause.executor) if cause.executor is not None else None
            if answer is not None and answer.text:
                cause.how, cause.progresses = answer.text, answer.is_running
            reason = inquiry.reasons.get((cause.actor, cause.lease_req), "")
            if reason and cause.actor:
                cause.how, cause.progresses = f"waits to be placed: {reason}", False
            elif reason:
                cause.how += f": {reason}"
            if ": actor" in cause.how and "held" in cause.how:
                cause.how += ". Let go of one, or give actors that are mostly idle num_cpus=0"
        return causes

    def _own_causes(self, object_ids: Sequence[ObjectId]) -> list[Cause]:
        objects = self._refs.objects
        pending = [i for i in object_ids if (r := objects.get(i)) is not None and r.state == PENDING]
        return [self.cause_of(i) for i in pending[:_LOOKED_AT_MAX]]

    def cause_of(self, object_id: ObjectId, depth: int = 0) -> Cause:
        """From our own tables. Under the lock."""
        record = self._refs.objects.get(object_id)
        if record is None or record.state != PENDING:
            return Cause("it", "is ready")
        if record.owner:
            asked = Address(record.owner), task_of_object(object_id)
            return Cause(f"object {short(object_id)}…", "is made for another process", executor=asked)
        task = self._submission.tasks.get(task_of_object(object_id))
        if task is not None:
            return self._cause_of_task(task, record, depth)
        link = self._actors.links.get(ActorId(object_id[8:24]))
        if link is None:
            return Cause(f"object {short(object_id)}…", "is on its way")
        return self._cause_of_call(link, task_of_object(object_id), record, depth)

    def _cause_of_task(self, task: PendingTask, record: ObjectRecord, depth: int) -> Cause:
        what = f"task {task.spec.name}{_submitted(record)}"
        if task.unresolved:
            return self._cause_of_argument(what, task, depth)
        worker = self._submitter.worker_of(task)
        if worker is not None:
            position = list(worker.in_flight).index(task.seq)
            how = f"is queued behind {position} others" if position else "is running"
            asked = Address(worker.address), task.spec.task_id
            return Cause(what, f"{how} on worker pid={worker.pid}", executor=asked)
        state = self._submitter.keys.get(task.spec.template.key)
        if state is None or task.seq:
            return Cause(what, "is about to be run again: its worker died")
        req = next(iter(state.requests), 0)
        return Cause(what, "waits for a worker", bool(state.workers), lease_req=req)

    def _cause_of_argument(self, what: str, work: Pending[Any], depth: int) -> Cause:
        unresolved = unresolved_of(work, self._refs.objects)
        count = f"{len(unresolved)} of its arguments" if len(unresolved) > 1 else "its argument"
        if depth >= _DEPTH_MAX or not unresolved:
            return Cause(what, f"waits for {count}")
        cause = self.cause_of(unresolved[0], depth + 1)
        cause.what = f"{what} waits for {count}: {cause.what}"
        return cause

    def _cause_of_call(
        self, link: ActorLink[Peer], task_id: TaskId, record: ObjectRecord, depth: int
    ) -> Cause:
        actor = self._actor_text(link)
        asked = self._actors.find_call(link, task_id)
        if asked is not None and asked.seq:
            what = f"{call_name(link, asked)}{_submitted(record)}"
            return Cause(what, f"is running or queued on {actor}", executor=(link.address, task_id))
        for call in link.waiting():
            if link.state is LinkState.READY and call.unresolved:
                what = f"{call_name(link, call)}{_submitted(record)}"
                return self._cause_of_argument(what, call, depth)
        if link.state is LinkState.WAITING:
            creation = self._actors.creation_of(link.actor_id)
            if creation is not None and creation.unresolved:
                return self._cause_of_argument(f"{actor} is not started: __init__", creation, depth)
            how = link.stumbled or "its __init__ is running, or its process is being started"
            return Cause(actor, f"is not ready: {how}", actor=link.actor_id)
        how = link.stumbled if link.state is LinkState.RESTARTING else ""
        return Cause(actor, f"cannot be reached: {how or link.state.value}", progresses=False)

    def _actor_text(self, link: ActorLink[Peer]) -> str:
        site = self._actors.created_at(link.actor_id)
        return f"actor {link.name} ({f'created at {site}' if site else link.actor_id.hex()[:8] + '…'})"

    # -- asking others -----------------------------------------------------------------------------

    def _ask(self, inquiry: _Inquiry) -> None:
        """Send the questions; answers that come before ``_stop_asking`` are noted in the inquiry."""
        with self._reactor.lock:
            for cause in self._own_causes(inquiry.object_ids):
                executor, seat = cause.executor, (cause.actor, cause.lease_req)
                asked = inquiry.tokens.values()
                if executor is not None and executor not in asked and len(asked) < _SHOWN_MAX:
                    token = next(self._tokens)
                    inquiry.tokens[token] = executor
                    self._asking[token] = inquiry
                    self._peers.get(executor[0]).send(AskProgress(token, executor[1]))
                if any(seat) and seat not in inquiry.requests and len(inquiry.requests) < _SHOWN_MAX:
                    question = WhyPending(0, *seat)
                    inquiry.requests[seat] = self._link.request(question, partial(inquiry.why_came, seat))

    def _stop_asking(self, inquiry: _Inquiry) -> None:
        with self._reactor.lock:
            for token in inquiry.tokens:
                self._asking.pop(token, None)
            for req in inquiry.requests.values():
                self._link.forget(req)

    def progress_came(self, answer: Progress) -> None:
        inquiry = self._asking.pop(answer.token, None)
        if inquiry is not None:
            inquiry.progress[inquiry.tokens[answer.token]] = answer

    # -- answering (under the lock) ----------------------------------------------------------------

    def asked(self, sender: Sends, question: AskProgress) -> None:
        text, running = self._progress_of(question.task_id)
        sender.send(Progress(question.token, text, running))

    def _progress_of(self, task_id: TaskId) -> tuple[str, bool]:
        """How far the task is; of one that is ours and runs elsewhere, what we know of that."""
        cause = self.cause_of(return_id(task_id, 1))
        return f"is made by another process: {cause}", cause.progresses


class WorkerExplaining(Explaining):
    """The same in a worker, which also knows what runs and queues here."""

    def __init__(
        self,
        reactor: SharedReactor,
        link: NodeLink,
        peers: Peers,
        refs: ReferenceCounter,
        submitter: TaskSubmitter[Peer],
        submission: Submission,
        actors: ActorAccess,
        work: Work,
        waits: CallWaits,
    ) -> None:
        super().__init__(reactor, link, peers, refs, submitter, submission, actors)
        self._work = work
        self._waits = waits

    def _progress_of(self, task_id: TaskId) -> tuple[str, bool]:
        context = self._work.running.get(task_id)
        if context is not None:
            return self._running_text(task_id, context.started)
        queued = self._work.position_of(task_id)
        if queued is not None:
            return self._queued_text(queued)
        if return_id(task_id, 1) in self._refs.objects:
            return super()._progress_of(task_id)
        return f"has run; its result is being stored or on its way (pid={os.getpid()})", True

    def _running_text(self, task_id: TaskId, started: float) -> tuple[str, bool]:
        text = f"has been running for {monotonic() - started:.1f} s (pid={os.getpid()})"
        wait = self._waits.wait_of(task_id)
        if wait is None:
            return text, True
        cause = self.cause_of(wait.objects[0], _DEPTH_MAX - 1)
        return f"{text} and waits at {wait.site}: {cause}", cause.progresses

    def _queued_text(self, position: int) -> tuple[str, bool]:
        what = "call" if self._work.spec is not None else "task"
        where = "of the actor" if self._work.spec is not None else f"of worker pid={os.getpid()}"
        behind = f"is queued behind {position} {what}{'s' if position != 1 else ''} {where}"
        running = list(self._work.running.values())
        if not running:
            return behind, True
        context = running[0]
        text, progresses = self._running_text(context.task_id, context.started)
        return f"{behind}: {context.name} {text}", progresses and monotonic() - context.started < HINT_S - 0.5


def _submitted(record: ObjectRecord) -> str:
    return f" (submitted at {record.call_site})" if record.call_site else ""


def _grouped(causes: list[Cause]) -> list[str]:
    """Their texts, equal ones once with a count, those shown first that most objects share."""
    counts = Counter(map(str, causes))
    lines = [f"{text} (×{count})" if count > 1 else text for text, count in counts.most_common(_SHOWN_MAX)]
    if len(counts) > _SHOWN_MAX:
        lines.append(f"and {len(counts) - _SHOWN_MAX} more")
    return lines
