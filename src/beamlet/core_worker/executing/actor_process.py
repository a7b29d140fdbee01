"""A worker that has become an actor: its instance, its threads or its asyncio loop, its end."""

from __future__ import annotations

import gc
from time import monotonic
from typing import Any, NoReturn

from beamlet.base.ids import actor_creation_task_id
from beamlet.base.invariants import InvariantBroken
from beamlet.core_worker.context import Contexts, TaskContext, current_task
from beamlet.core_worker.executing.devices import show_devices
from beamlet.core_worker.executing.execution import Execution
from beamlet.core_worker.executing.execution_queue import ExecutionQueue
from beamlet.core_worker.executing.interruptible import interruptible
from beamlet.core_worker.executing.leaving import Leaving, run_hooks, tell_hook_failed
from beamlet.core_worker.executing.output import Output
from beamlet.core_worker.executing.runner import ActorExit, Runner
from beamlet.core_worker.executing.work import READY, TERMINATE, Work
from beamlet.core_worker.functions import FunctionTable
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.owning.borrowing import ArgumentsGuard
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.core_worker.peers import Peer
from beamlet.exceptions import ObjectLostError, OwnerDiedError
from beamlet.processes.forked_child import set_title
from beamlet.protocol.gcs import ActorSpec, ActorStarted, StartActor
from beamlet.protocol.peer import CallActor
from beamlet.rpc.turns import SharedReactor, Waiter
from beamlet.serialization.arguments import NO_ARGUMENTS
from beamlet.serialization.remote_error import for_the_head
from beamlet.serialization.values import DETACHED_INLINE_MAX_BYTES, pack, serialize_error

_OUTLIVED = (
    "It is an argument of this detached actor's constructor. Those passed as values, together up to "
    f"{DETACHED_INLINE_MAX_BYTES >> 20} MiB, stay with the actor; larger ones, and those passed as "
    "references, go with the process that owns them, and the actor cannot be started again. Let the "
    "constructor load or make what is larger, or create this one and what it needs in a detached actor."
)
#: Each line that it prints, and each of its errors, is signed with so much of its repr() at most.
_REPR_CHARACTERS = 1000
#: How often a leaving actor looks whether its other threads are done.
_LOOK_AGAIN_S = 0.005


class ActorProcess:
    """Becomes the actor of a StartActor; lives as long as the process."""

    def __init__(
        self,
        *,
        reactor: SharedReactor,
        link: NodeLink,
        functions: FunctionTable,
        refs: ReferenceCounter,
        releases: Releases,
        work: Work,
        execution: Execution,
        runner: Runner,
        leaving: Leaving,
        output: Output,
        contexts: Contexts,
    ) -> None:
        self._reactor = reactor
        self._lock = reactor.lock
        self._link = link
        self._functions = functions
        self._refs = refs
        self._releases = releases
        self._work = work
        self._execution = execution
        self._runner = runner
        self._leaving = leaving
        self._output = output
        self._contexts = contexts
        self.instance: Any = None
        self.class_name = ""
        #: What its output and its errors are signed with.
        self.shown_as = ""
        #: By name, those that were called: what to call, and how users know it.
        self.methods: dict[str, tuple[Any, str]] = {}
        #: Items in hand that wait for the others to be done.
        self._leaving_items = 0

    # -- birth -----------------------------------------------------------------------------------

    def start(self, message: StartActor) -> None:
        """Construct the instance and report; then the process serves its calls, or ends."""
        try:
            self._begin(message)
        except Exception as error:  # ours: what users' code raises is reported
            raise InvariantBroken(f"the actor did not begin: {type(error).__name__}: {error}") from error

    def _begin(self, message: StartActor) -> None:
        spec = self._work.spec = message.spec
        self._work.incarnation = message.incarnation
        self._work.is_constructing = True
        self.class_name = self.shown_as = spec.class_name
        self._runner.actor_id = spec.actor_id.hex()
        set_title(f"beamlet::{spec.class_name}")
        show_devices(message.accelerators)
        context = TaskContext(
            actor_creation_task_id(spec.actor_id),
            f"{spec.class_name}.__init__",
            f"{spec.class_name}.__init__",
            spec.lifetime_resources,
            message.incarnation,
        )
        self._contexts.base = context
        token = current_task.set(context)
        error = b""
        guard = self._runner.new_guard(spec.nested)
        self._output.announce()
        try:
            cls = self._functions.fetch(spec.class_key, None, message.class_pickle)
            args, kwargs = self._arguments(spec, guard)
            if spec.is_async:
                self._become_async(spec)
            self.instance = cls(*args, **kwargs)
            self._work.is_constructing = False
            del args, kwargs
            self._runner.actor_repr = _own_repr(self.instance)
            self.shown_as = self._runner.actor_repr or spec.class_name
        except ActorExit:
            self.leave("exit_actor() in the constructor")
        except SystemExit:
            raise
        except BaseException as raised:
            error = for_the_head(pack(serialize_error(self._runner.captured(context, raised))))
        finally:
            current_task.reset(token)
        self._output.announce()
        started = ActorStarted(spec.actor_id, message.incarnation, error)
        if error:
            self._work.loop = None  # what comes now is the order to end
        else:
            self._allow_threads(spec)
        with self._lock:
            if error or self._is_free(guard) or not spec.detached:
                self._link.send(started)
            else:  # when it hears this its creator may end, and with it the references we were given
                self._runner.answers.hold(guard.reply, self._link, started)
            self._reactor.flush()

    def _arguments(self, spec: ActorSpec, guard: ArgumentsGuard) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Of the constructor. Raises ObjectLostError, for a detached actor with what to do."""
        try:
            values = self._runner.decode(spec.args, spec.deps, guard)
        except ObjectLostError as error:
            if not spec.detached:
                raise
            gone = OwnerDiedError(error.object_ref_hex, error.owner_address, error.call_site)
            for note in (*getattr(error, "__notes__", ()), _OUTLIVED):
                gone.add_note(note)
            raise gone from None
        spec.args = NO_ARGUMENTS  # they may be large, and the GCS has them
        return values

    def _is_free(self, guard: ArgumentsGuard) -> bool:
        """Register for the references that the constructor has kept; whether their owners know already."""
        self._releases.drain()
        try:
            return self._refs.task_finished(guard)
        finally:
            self._releases.perform()

    def _allow_threads(self, spec: ActorSpec) -> None:
        """The main thread serves the default group; further threads come when there is work for them."""
        work, execution = self._work, self._execution
        if work.loop is not None:
            return
        work.takes_turns = not spec.concurrency_groups and spec.max_concurrency == 1
        for group, limit in spec.concurrency_groups.items():
            queue = work.groups[group] = ExecutionQueue()
            execution.serve_with(queue, limit, f"beamlet-{group}")
        execution.serve_with(work.queue, spec.max_concurrency - 1, "beamlet-default")
        if not work.takes_turns:
            work.system = ExecutionQueue()
            execution.serve_with(work.system, 1, "beamlet-system")

    def _become_async(self, spec: ActorSpec) -> None:
        from beamlet.core_worker.executing.async_actor import (
            AsyncCalls,  # asyncio: 10 ms and 2 MB others need not pay
        )

        self._work.loop = AsyncCalls(self._reactor, self._work, self._runner, self, spec)
        self._work.takes_turns = False

    # -- life ------------------------------------------------------------------------------------

    def run_call(self, sender: Peer, call: CallActor) -> None:
        """One call in the calling thread. ActorExit and SystemExit end the process, in any thread."""
        try:
            known = self.methods.get(call.method)
            method, shown_as = known if known is not None else self.method(call.method)
            self._runner.run_call(sender, call, method, shown_as)
        except ActorExit:
            self.leave("exit_actor()")
        except SystemExit as exit_:
            self._leaving.end_as_asked(exit_)

    def method(self, name: str) -> tuple[Any, str]:
        """What a call of that name calls, and how users know it: "Class.method".

        An instance that refuses it fails the call, not the process.
        """
        found = self.methods.get(name)
        if found is None:
            shown_as = f"{self.class_name}.{name}"
            try:
                found = _implicit(self, name) or interruptible(getattr(self.instance, name)), shown_as
            except Exception as error:
                return _Failing(error), shown_as
            self.methods[name] = found
        return found

    # -- end -------------------------------------------------------------------------------------

    def leave(self, reason: str) -> NoReturn:
        """End the process on purpose: hooks run, what was answered goes out first."""
        self._leaving.tell(reason)
        for name, _ in run_hooks(self.instance):
            error = TypeError("it is a coroutine, and this actor has no event loop to run it on")
            tell_hook_failed(name, self.instance, error)
        self._end()

    def leave_when_done(self, reason: str) -> NoReturn:
        """The same once what other threads have in hand is answered. Called by what a thread has in hand."""
        work = self._work
        with self._lock:
            self._leaving_items += 1
        while work.in_hand > self._leaving_items or any(queue.items for queue in work.groups.values()):
            self._reactor.wait(Waiter(), monotonic() + _LOOK_AGAIN_S)
        self.leave(reason)

    async def leave_from_loop(self, reason: str) -> NoReturn:
        """The same on the event loop, where hooks may be coroutines."""
        self._leaving.tell(reason)
        for name, unfinished in run_hooks(self.instance):
            try:
                await unfinished
            except BaseException as error:
                tell_hook_failed(name, self.instance, error)
        self._end()

    def _end(self) -> NoReturn:
        """Let the instance go, as Python does with what nobody needs any more: its ``__del__`` runs."""
        self.methods.clear()
        self.instance = None
        gc.collect()
        self._leaving.end(0)


class _Failing:
    """Stands in for a method that could not be had."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise self._error


def _own_repr(instance: Any) -> str | None:
    """repr() if the class took the trouble to define one; the beginning of a long one."""
    if getattr(type(instance), "__repr__", None) is object.__repr__:
        return None
    try:
        shown = str(repr(instance))
    except Exception:
        return None
    return shown if len(shown) <= _REPR_CHARACTERS else f"{shown[:_REPR_CHARACTERS]}…"


def _implicit(actor: ActorProcess, name: str) -> Any:
    """Methods that every actor has."""
    if name == READY:
        return lambda: True
    if name == "__ray_call__":
        return lambda function, *args, **kwargs: function(actor.instance, *args, **kwargs)
    if name == TERMINATE:
        return lambda: actor.leave_when_done("__ray_terminate__()")
    return None
