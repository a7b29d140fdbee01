"""A worker that has become an actor: its instance, its threads or its asyncio loop, its end."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import Any

from beamlet.base.ids import actor_creation_task_id
from beamlet.core_worker.context import Contexts, TaskContext, current_task
from beamlet.core_worker.executing.execution import Execution
from beamlet.core_worker.executing.execution_queue import ExecutionQueue
from beamlet.core_worker.executing.output import Output
from beamlet.core_worker.executing.runner import ActorExit, Runner, show_devices
from beamlet.core_worker.executing.work import Work
from beamlet.core_worker.functions import FunctionTable
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.core_worker.peers import Peer
from beamlet.processes.forked_child import set_title
from beamlet.protocol.gcs import ActorSpec, ActorStarted, StartActor
from beamlet.protocol.node import ExitedOnPurpose
from beamlet.protocol.peer import CallActor
from beamlet.rpc.turns import SharedReactor
from beamlet.serialization.values import pack, serialize_error


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
        self._output = output
        self._contexts = contexts
        self.instance: Any = None
        #: What its output and its errors are signed with.
        self.shown_as = ""
        self._methods: dict[str, Any] = {}

    # -- birth -----------------------------------------------------------------------------------

    def start(self, message: StartActor) -> None:
        """Construct the instance and report; then the process serves its calls."""
        spec = self._work.spec = message.spec
        self._work.incarnation = message.incarnation
        self._work.is_constructing = True
        self.shown_as = spec.class_name
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
        try:
            cls = self._functions.fetch(spec.class_key, None)
            guard = self._runner.new_guard(spec.nested)
            args, kwargs = self._runner.decode(spec.args, spec.deps, guard)
            if spec.is_async:
                self._become_async(spec)
            self.instance = cls(*args, **kwargs)
            self._work.is_constructing = False
            del args, kwargs
            with self._lock:
                self._releases.drain()
                self._refs.task_finished(guard)
                self._releases.perform()
            self.shown_as = _own_repr(self.instance) or spec.class_name
            self._runner.actor_repr = _own_repr(self.instance)
        except ActorExit:
            self.leave("exit_actor() in the constructor")
        except SystemExit:
            raise
        except BaseException as raised:
            error = pack(serialize_error(self._runner.init_error(context, raised)))
        finally:
            current_task.reset(token)
        self._output.flush()
        if not error:
            self._start_threads(spec)
        with self._lock:
            self._link.send(ActorStarted(spec.actor_id, message.incarnation, error, self.shown_as))
            self._reactor.flush()

    def _start_threads(self, spec: ActorSpec) -> None:
        """The main thread serves one call at a time; the others are helpers beside it."""
        if spec.is_async:
            return
        for group, limit in spec.concurrency_groups.items():
            queue = self._work.groups[group] = ExecutionQueue()
            self._start_helpers(queue, limit, group)
        self._start_helpers(self._work.queue, spec.max_concurrency - 1, "default")

    def _start_helpers(self, queue: ExecutionQueue, count: int, group: str) -> None:
        for number in range(count):
            name = f"beamlet-{group}-{number}"
            threading.Thread(target=self._execution.serve, args=(queue,), name=name, daemon=True).start()

    def _become_async(self, spec: ActorSpec) -> None:
        from beamlet.core_worker.executing.async_actor import (
            AsyncCalls,  # asyncio: 10 ms and 2 MB others need not pay
        )

        self._work.loop = AsyncCalls(self._reactor, self._work, self._runner, self, spec)

    # -- life ------------------------------------------------------------------------------------

    def run_call(self, sender: Peer, call: CallActor) -> None:
        """One call in the calling thread. ActorExit ends the process."""
        spec = self._work.spec
        assert spec is not None
        try:
            method = self.method(call.method)
            self._runner.run_call(sender, call, method, f"{spec.class_name}.{call.method}")
        except ActorExit:
            self.leave("exit_actor()")

    def method(self, name: str) -> Any:
        method = self._methods.get(name)
        if method is None:
            method = _implicit(self, name) or getattr(self.instance, name)
            self._methods[name] = method
        return method

    # -- end -------------------------------------------------------------------------------------

    def leave(self, reason: str) -> None:
        """End the process on purpose: hooks run, what was answered goes out first."""
        with self._lock:
            self._link.send(ExitedOnPurpose(reason))
            self._reactor.flush()
        shut_hook(self.instance)
        leave_process(self._output, 0)


def leave_process(output: Output, code: int) -> None:
    """An orderly end from any thread: atexit handlers, buffered output, then the process is gone."""
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    output.flush()
    os._exit(code)


def shut_hook(instance: Any) -> None:
    """The clean-up methods a class may define, Ray's name or ours. Its errors are shown, not obeyed."""
    for name in ("__beamlet_shutdown__", "__ray_shutdown__"):
        hook = getattr(instance, name, None)
        if hook is not None:
            try:
                hook()
            except BaseException as error:
                print(f"{name} of {type(instance).__name__} raised {error!r}", file=sys.stderr)


def _own_repr(instance: Any) -> str | None:
    """repr() if the class took the trouble to define one."""
    if getattr(type(instance), "__repr__", None) is object.__repr__:
        return None
    try:
        return str(repr(instance))
    except Exception:
        return None


def _implicit(actor: ActorProcess, name: str) -> Any:
    """Methods that every actor has."""
    if name == "__ray_ready__":
        return lambda: True
    if name == "__ray_call__":
        return lambda function, *args, **kwargs: function(actor.instance, *args, **kwargs)
    if name == "__ray_terminate__":
        return lambda: actor.leave("__ray_terminate__()")
    return None
