"""In the factory, before it forks: a worker's life played through, so that workers find everything in place.

What CPython does the first time costs pages: a class gets its version and the names of its instances'
fields, method lookups are cached by name (and drop the names that importing left there), code is adapted to
what it meets.  Done by each worker, these small writes are spread over the whole heap, and each copies a
shared page of 4 KB.  Here they are done once, for all.

Nothing of it is seen outside: the raylet and the caller are the far ends of socket pairs, what streams say
goes to nobody.  No thread is started: the process is about to fork.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ClassVar

from beamlet.base.ids import ActorId, Address, FunctionKey, JobId, TaskId, new_worker_id
from beamlet.core_worker.functions import dump
from beamlet.core_worker.worker_main import OMP_THREADS, Worker
from beamlet.processes.factory import FACTORY_TITLE
from beamlet.protocol.gcs import ActorSpec, KvValue, StartActor
from beamlet.protocol.node import AssignJob, JobDescription, JobLogging, PeerIntroduced, WorkerReady
from beamlet.protocol.peer import CallActor, PushTask
from beamlet.rpc.connection import encode_frame
from beamlet.serialization.arguments import NO_ARGUMENTS

#: CPython adapts code that has run eight times.
TIMES = 9
#: What is sent through a socket pair is there at once.
PATIENCE_S = 5.0
#: Tasks and actors give their process its title: whoever looks meanwhile sees what this process is.
_NAME = FACTORY_TITLE.removeprefix("beamlet::")
_JOB_ID = JobId(bytes(4))
_ACTOR_ID = ActorId(bytes(16))
_TASK_ID = TaskId(bytes(24))
_CALLER = Address(bytes(56))
_KEY = FunctionKey(bytes(20))


def rehearse(compose: Callable[[socket.socket], Worker], times: int = TIMES) -> None:
    """``compose(link)``: a worker that has not begun to serve. Raises RuntimeError when it got stuck."""
    sys._clear_type_cache()
    try:
        with _unchanged_process() as said:
            for _ in range(times):
                with ExitStack() as stack:
                    stage = _Stage.current = _Stage(compose, stack)
                    stage.play()
                if not stage.is_over:
                    raise RuntimeError(f"a rehearsal of a worker got stuck; it said: {_text(said)}")
    finally:
        _Stage.current = None
        gc.collect()


class _Stage:
    """A worker, and around it whom it talks to. It runs a task, becomes an actor and is called."""

    current: ClassVar[_Stage | None] = None

    def __init__(self, compose: Callable[[socket.socket], Worker], stack: ExitStack) -> None:
        placeholder, self._raylet = socket.socketpair()
        self._raylet.close()
        link, self._raylet = socket.socketpair()
        stack.callback(self._raylet.close)
        self._near, self._caller = socket.socketpair()
        stack.callback(self._near.close)
        stack.callback(self._caller.close)
        self._core = compose(placeholder).core
        self._core.be_born(new_worker_id(), link.detach())
        stack.callback(self._core.shut)
        self.is_over = False

    def play(self) -> None:
        core = self._core
        # A worker that loses its raylet, or is broken, ends its process, which is not one here.
        core._on_raylet_lost = lambda reason: None
        core.reactor.containment.on_broken = lambda broken: core.reactor.shut()
        core.reactor.call_later(PATIENCE_S, core.reactor.shut)
        core.reactor.add_reader(self._raylet.fileno(), self._answer)
        with core.lock:
            core.link.send(WorkerReady(core.identity.worker_id, os.getpid()))
        self._raylet.sendall(encode_frame([AssignJob(_job())]))
        socket.send_fds(self._raylet, [encode_frame([PeerIntroduced(_CALLER)])], [self._near.fileno()])
        self._caller.sendall(encode_frame([PushTask(1, _TASK_ID, _KEY, _NAME, 1, NO_ARGUMENTS)]))
        core.execution.serve(core.work.queue)

    def _answer(self) -> None:
        """It asks for the function. What is no answer to a question is ignored."""
        self._raylet.recv(1 << 16)
        self._raylet.sendall(encode_frame([KvValue(1, _FUNCTION)]))

    def become_actor(self) -> None:
        self._raylet.sendall(encode_frame([StartActor(_actor(), 0, {}, _CLASS)]))

    def call(self) -> None:
        self._caller.sendall(encode_frame([CallActor(2, _TASK_ID, "end", 1, NO_ARGUMENTS)]))

    def end(self) -> None:
        self.is_over = True
        self._core.reactor.shut()


def _stage() -> _Stage:
    assert _Stage.current is not None
    return _Stage.current


def _task() -> None:
    _stage().become_actor()


class _Actor:
    def __init__(self) -> None:
        _stage().call()

    def end(self) -> None:
        _stage().end()


_FUNCTION, _CLASS = dump(_task), dump(_Actor)


def _job() -> JobDescription:
    here = [os.fsencode(place) for place in sys.path]
    return JobDescription(
        _JOB_ID, "", here, b"", b"", {}, False, _CALLER, logging=JobLogging(configure=False)
    )


def _actor() -> ActorSpec:
    return ActorSpec(_ACTOR_ID, _job(), _CALLER, _KEY, _NAME, NO_ARGUMENTS, [], [], {}, {})


@contextmanager
def _unchanged_process() -> Iterator[int]:
    """What a worker changes of its process leaves no trace in this one; what it says is in the file."""
    chosen = OMP_THREADS in os.environ
    said = os.memfd_create("rehearsal")
    kept = os.dup(1), os.dup(2)
    try:
        os.dup2(said, 1)
        os.dup2(said, 2)
        yield said
    finally:
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for fd in (*kept, said):
            os.close(fd)
        if not chosen:
            os.environ.pop(OMP_THREADS, None)


def _text(file: int) -> str:
    return os.pread(file, 1 << 16, 0).decode(errors="replace")
