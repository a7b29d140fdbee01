"""Tasks and calls on their way out: ``.remote()`` → arguments → a submitter (sans-IO) → a peer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from beamlet.base.ids import FIRST_RETURN, ObjectId, TaskId, return_id
from beamlet.base.stack_room import FOR_A_CALL
from beamlet.core_worker.context import Contexts
from beamlet.core_worker.owning.object_record import ObjectRecord
from beamlet.core_worker.owning.own_slab import Place
from beamlet.core_worker.owning.ports import MakeRef, Ref
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.core_worker.owning.store_client import StoreClient
from beamlet.core_worker.owning.streams import DYNAMIC, STREAMING, Stream, Streams
from beamlet.core_worker.peers import Peer, PeerTable
from beamlet.core_worker.submitting.actor_submitter import ActorLink
from beamlet.core_worker.submitting.actors import ActorAccess
from beamlet.core_worker.submitting.arguments import Arguments, FailedArgument, Prepared
from beamlet.core_worker.submitting.outcomes import Outcomes
from beamlet.core_worker.submitting.pending import Pending, PendingCall, PendingTask
from beamlet.core_worker.submitting.ports import MakeGenerator
from beamlet.core_worker.submitting.task_spec import CallSpec, MethodTemplate, TaskSpec, TaskTemplate
from beamlet.core_worker.submitting.task_submitter import TaskSubmitter
from beamlet.exceptions import CallSite
from beamlet.rpc.turns import SharedReactor
from beamlet.serialization.arguments import NO_ARGUMENTS, dumps_plain
from beamlet.serialization.refs import released

#: Dropped references are collected before they are counted down, so that counting is paid per batch.
_RELEASE_BATCH = 128
#: Tasks that wait when we say so: 150 MB of them.
MANY = 200_000
#: What a queued task without arguments takes, its reference included; measured.
_BYTES_PER_TASK = 750

logger = logging.getLogger("beamlet")


class Submission:
    """What ``.remote()`` does. Called by users' threads without the core worker's lock."""

    def __init__(
        self,
        reactor: SharedReactor,
        refs: ReferenceCounter,
        releases: Releases,
        contexts: Contexts,
        streams: Streams,
        arguments: Arguments,
        outcomes: Outcomes,
        submitter: TaskSubmitter[Peer],
        actors: ActorAccess,
        make_ref: MakeRef,
        make_generator: MakeGenerator,
        peers: PeerTable,
        store: StoreClient,
    ) -> None:
        self._reactor = reactor
        self._bare_lock = reactor.bare_lock
        self._is_in_the_middle = reactor.is_in_the_middle
        self._refs = refs
        self.address = refs.self_address
        self._releases = releases
        self._contexts = contexts
        self._streams = streams
        self._arguments = arguments
        self._outcomes = outcomes
        #: Unanswered tasks.
        self.tasks = outcomes.tasks
        self._submitter = submitter
        self._actors = actors
        self._make_ref = make_ref
        self._make_generator = make_generator
        self._peers = peers
        self._store = store
        self._result_sizes = outcomes.result_sizes
        #: So many unanswered tasks, or calls that wait for one actor, are worth a word.
        self._told_at = MANY

    # -- tasks -----------------------------------------------------------------------------------

    def submit_task(
        self,
        template: TaskTemplate,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        call_site: CallSite | None = None,
    ) -> Any:
        """Have a function run somewhere; its reference(s): one, a list, or None for num_returns 0."""
        reactor = self._reactor
        if FOR_A_CALL.may_lack():
            FOR_A_CALL.demand()
        in_the_middle = self._is_in_the_middle()
        lends = not in_the_middle
        prepared = self._arguments.prepare(args, kwargs, template.name, template.parameters, lends)
        with self._bare_lock:
            try:
                if len(released) > _RELEASE_BATCH and not in_the_middle:
                    self._releases.drain()
                children = self._contexts.children()
                task_id = children.next_task()
                if template.num_returns == 1:
                    object_id = ObjectId(task_id + FIRST_RETURN)
                    record = self._refs.new_owned(object_id)
                    record.call_site = call_site
                    returns: Sequence[ObjectRecord] = (record,)
                    refs: Any = self._make_ref(object_id, self.address)
                else:
                    refs, returns = self._new_returns(task_id, template.num_returns, call_site)
                if prepared.deps or prepared.nested or prepared.placed:
                    deps, nested = prepared.dep_ids(), prepared.nested
                    spec = TaskSpec(
                        template, task_id, prepared.payload, call_site, children.parent, deps, nested
                    )
                else:
                    spec = TaskSpec(template, task_id, prepared.payload, call_site, children.parent)
                task = Pending(spec, returns, template.max_retries)
                if template.num_returns == STREAMING:
                    refs = self._new_stream(task, template.stream_limit, refs)
                if in_the_middle:
                    reactor.put_off(partial(self._begin_task, task, prepared))
                    return refs
                self.tasks[task_id] = task
                worker = None
                if self._result_sizes and template.num_returns == 1:
                    self._give_room(task, self._result_sizes.get(template.function))
                if spec.deps or spec.nested or prepared.placed:
                    self._push_when_complete(task, prepared.placed)
                else:
                    worker = self._submitter.submit(task)
            finally:
                if not in_the_middle:
                    reactor.leave()
        if self._peers.full and worker is not None:
            self._peers.wait_for_room(worker.link)
        if len(self.tasks) >= self._told_at:
            self._tell_many(f"{len(self.tasks):,} tasks")
        return refs

    def _begin_task(self, task: PendingTask, prepared: Prepared) -> None:
        """One that was put off. prepared: keeps the arguments alive until they are counted."""
        self.tasks[task.spec.task_id] = task
        if prepared.deps or prepared.nested:
            self._push_when_complete(task, ())
        else:
            self._push_task(task)

    def _push_when_complete(self, task: PendingTask, placed: Sequence[tuple[Place, int]]) -> None:
        failed = self._arguments.hold(task, self._push_task, self._task_failed, placed)
        if failed is not None:
            self._task_failed(task, failed)
            self._releases.perform()
        elif not task.unresolved:
            self._push_task(task)

    def _push_task(self, task: PendingTask) -> None:
        self._submitter.submit(task)

    def _task_failed(self, task: PendingTask, failed: FailedArgument) -> None:
        self._outcomes.fail_for(task, failed)

    # -- calls -----------------------------------------------------------------------------------

    def submit_call(
        self,
        link: ActorLink[Peer],
        method: MethodTemplate,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        call_site: CallSite | None = None,
    ) -> Any:
        """Have an actor's method run; as ``submit_task``."""
        if FOR_A_CALL.may_lack():
            FOR_A_CALL.demand()
        reactor = self._reactor
        payload = NO_ARGUMENTS
        prepared: Prepared | None = None
        if args or kwargs:
            plain = dumps_plain(args, kwargs)
            if plain is None:
                name = method.shown_as or f"{link.name}.{method.name}"
                lends = not self._is_in_the_middle()
                prepared = self._arguments.prepare(args, kwargs, name, method.parameters, lends)
                payload = prepared.payload
            else:
                payload = plain
        in_the_middle = self._is_in_the_middle()
        with self._bare_lock:
            try:
                if len(released) > _RELEASE_BATCH and not in_the_middle:
                    self._releases.drain()
                task_id = self._contexts.children().next_call(link.actor_id)
                if method.num_returns == 1:
                    object_id = ObjectId(task_id + FIRST_RETURN)
                    record = self._refs.new_owned(object_id)
                    record.call_site = call_site
                    returns: Sequence[ObjectRecord] = (record,)
                    refs: Any = self._make_ref(object_id, self.address)
                else:
                    refs, returns = self._new_returns(task_id, method.num_returns, call_site)
                if prepared is None:
                    spec = CallSpec(method, task_id, payload)
                else:
                    spec = CallSpec(method, task_id, payload, prepared.dep_ids(), prepared.nested)
                call = Pending(spec, returns, method.max_task_retries)
                if method.num_returns == STREAMING:
                    refs = self._new_stream(call, method.stream_limit, refs)
                if in_the_middle:
                    reactor.put_off(partial(self._begin_call, link, call, prepared))
                    return refs
                if prepared is not None and not self._held(link, call, prepared.placed):
                    return refs
                if link.result_sizes and method.num_returns == 1:
                    self._give_room(call, link.result_sizes.get(method.name))
                if not link.holds_handle:
                    self._actors.hold_handle(link)
                if not link.submit(call):
                    self._actors.refuse(link, call)
            finally:
                if not in_the_middle:
                    reactor.leave()
        if self._peers.full and link.link is not None:
            self._peers.wait_for_room(link.link)
        if link.queue and len(link.queue) >= self._told_at:
            self._tell_many(f"{len(link.queue):,} calls of actor {link.name}")
        return refs

    def _begin_call(self, link: ActorLink[Peer], call: PendingCall, prepared: Prepared | None) -> None:
        """One that was put off; as ``_begin_task``."""
        if prepared is not None and not self._held(link, call, ()):
            return
        if not link.holds_handle:
            self._actors.hold_handle(link)
        if not link.submit(call):
            self._actors.refuse(link, call)

    def _held(self, link: ActorLink[Peer], call: PendingCall, placed: Sequence[tuple[Place, int]]) -> bool:
        """Count what the arguments refer to. False if one is an error: the call has failed."""
        drain = partial(self._drain, link)
        failed = self._arguments.hold(call, drain, partial(self._call_failed, link), placed)
        if failed is not None:
            self._outcomes.fail_for(call, failed)
            self._releases.perform()
        return failed is None

    def _drain(self, link: ActorLink[Peer], call: PendingCall) -> None:
        link.resolved(call)

    def _call_failed(self, link: ActorLink[Peer], call: PendingCall, failed: FailedArgument) -> None:
        link.drop(call)
        self._outcomes.fail_for(call, failed)
        self._actors.settle(link)

    # -- both ------------------------------------------------------------------------------------

    def _give_room(self, work: PendingTask | PendingCall, size: int | None) -> None:
        """The last result of its kind took ``size`` bytes: offer a place for as many, if there is one."""
        if size is None:
            return
        place = self._store.own.take(size)
        if place is None:
            self._store.perform()
        else:
            work.room = place
            work.places = [*(work.places or ()), place]

    def _tell_many(self, what: str) -> None:
        """Once: a loop that only submits fills this process's memory, and nothing else would say so."""
        self._told_at = sys.maxsize
        logger.warning(
            "%s were submitted and are not done; each keeps about %d bytes here, beside its arguments. Wait "
            "for some results (beamlet.wait) before you submit more.",
            what,
            _BYTES_PER_TASK,
        )

    def _new_returns(
        self, task_id: TaskId, count: int, call_site: CallSite | None
    ) -> tuple[Any, Sequence[ObjectRecord]]:
        refs, records = [], []
        indices = range(1, count + 1)
        if count == STREAMING:  # the items come later; this one says that it is over
            indices = range(1)
        elif count == DYNAMIC:
            indices = range(1, 2)
        for index in indices:
            object_id = return_id(task_id, index)
            record = self._refs.new_owned(object_id)
            record.call_site = call_site
            records.append(record)
            refs.append(self._make_ref(object_id, self.address))
        return (refs[0] if len(refs) == 1 and count <= 1 else refs if count else None), records

    def _new_stream(self, work: PendingTask | PendingCall, limit: int, completion: Ref) -> Any:
        task_id = work.spec.task_id
        stream = self._outcomes.streams[task_id] = Stream(task_id, limit, work)
        return self._make_generator(self._streams, stream, completion)
