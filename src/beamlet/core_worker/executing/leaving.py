"""How a worker's process ends in order: hooks of users run, what was answered and printed goes out first."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import os
import sys
from collections.abc import Awaitable
from time import monotonic
from typing import Any, NoReturn

from beamlet.core_worker.executing.answers import Answers
from beamlet.core_worker.executing.output import Output
from beamlet.core_worker.node_link import NodeLink
from beamlet.core_worker.peers import PeerTable
from beamlet.core_worker.submitting.leases import Leases
from beamlet.core_worker.task_events import TaskEventBuffer
from beamlet.protocol.node import ExitedOnPurpose
from beamlet.rpc.turns import SharedReactor, Waiter

#: Clean-up methods that a class may define: ours and Ray's name.
HOOKS = ("__beamlet_shutdown__", "__ray_shutdown__")

#: How long answers wait for the driver to show what their tasks printed.
_SHOWN_WITHIN_S = 1.0
#: How long the process stays for those who have not read what they were answered, and how often it looks.
_READ_WITHIN_S = 30.0
_LOOK_AGAIN_S = 0.005


class Leaving:
    """All methods are called without the lock, in any thread; those that end the process do not return."""

    def __init__(
        self,
        reactor: SharedReactor,
        link: NodeLink,
        peers: PeerTable,
        answers: Answers,
        output: Output,
        task_events: TaskEventBuffer,
        leases: Leases,
    ) -> None:
        self._leases = leases
        self._task_events = task_events
        self._reactor = reactor
        self._link = link
        self._peers = peers
        self._answers = answers
        self._output = output

    def tell(self, reason: str) -> None:
        """What was answered goes out, then the raylet learns that this process ends on purpose."""
        self._answers.send_all(_SHOWN_WITHIN_S)
        with self._reactor.lock:
            self._link.send(ExitedOnPurpose(reason))
            self._reactor.flush()

    def end(self, code: int) -> NoReturn:
        """Exit handlers, buffered output, leased workers that we do not use; then the process is gone.

        These have lives of their own: what they own others use, and with our leases they would end.
        """
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        self._output.flush()
        with self._reactor.lock:
            self._leases.submitter.return_idle(self._reactor.now())
            for batch in self._task_events.take():
                self._link.send(batch)
        self._until_read()
        os._exit(code)

    def _until_read(self) -> None:
        """What the kernel has no room for yet would die with the process."""
        deadline = monotonic() + _READ_WITHIN_S
        while True:
            with self._reactor.lock:
                self._reactor.flush()
                is_all_out = self._peers.is_all_out and not self._link.connection.backlog_bytes
            if is_all_out or self._reactor.is_closing or monotonic() >= deadline:
                return
            self._reactor.wait(Waiter(), monotonic() + _LOOK_AGAIN_S)

    def end_as_asked(self, exit_: SystemExit) -> NoReturn:
        """User code called sys.exit(): the process ends with that code, and those who wait learn it."""
        code = exit_.code
        if not isinstance(code, int):
            if code is not None:
                print(code, file=sys.stderr)
            code = 0 if code is None else 1
        self._answers.send_all(_SHOWN_WITHIN_S)
        self.end(code)


def run_hooks(instance: Any) -> list[tuple[str, Awaitable[Any]]]:
    """Call the clean-up methods of ``instance``; those that are coroutines, by name, are to be awaited.

    Their errors are shown, not obeyed.
    """
    unfinished: list[tuple[str, Awaitable[Any]]] = []
    for name in HOOKS:
        hook = getattr(instance, name, None)
        if hook is not None:
            try:
                result = hook()
            except BaseException as error:
                tell_hook_failed(name, instance, error)
            else:
                if inspect.isawaitable(result):
                    unfinished.append((name, result))
    return unfinished


def tell_hook_failed(name: str, instance: Any, error: BaseException) -> None:
    print(f"{name} of {type(instance).__name__} raised {error!r}", file=sys.stderr)
