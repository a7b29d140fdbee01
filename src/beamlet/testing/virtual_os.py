"""What is the operating system's in production, and the world's in a simulation: clock, chance, pids, ends.

``virtual_os(world)`` puts them in place for as long as the simulation runs, in every module of ours: names
that were bound by ``from time import monotonic`` too.  References become ``VirtualRef``.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import logging
import os
import pkgutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, NoReturn

import beamlet
from beamlet.api import backend
from beamlet.api.object_ref import ObjectRef
from beamlet.processes.prompt_thread import PromptThread
from beamlet.testing.virtual_refs import VirtualRef
from beamlet.testing.world import ProcessEnded, World, sleep

#: The first virtual second is this wall-clock time.
_EPOCH_S = 1_700_000_000
_BOUND_BY_NAME = ("monotonic", "perf_counter", "sleep", "time", "time_ns")
_NOT_OURS = ("beamlet.testing", "beamlet.cli", "beamlet.__main__", "beamlet.head.__main__")


def load_everything() -> None:
    """Import every module of ours, so that none comes later with the real clock in it."""
    for found in pkgutil.walk_packages(beamlet.__path__, "beamlet."):
        if not found.name.startswith(_NOT_OURS):
            importlib.import_module(found.name)


@contextmanager
def virtual_os(world: World) -> Iterator[None]:
    """Meanwhile our modules see ``world``'s time, chance and processes. The garbage collector is manual."""
    load_everything()
    undo: list[tuple[Any, str, Any]] = []

    def put(target: Any, name: str, value: Any) -> None:
        undo.append((target, name, getattr(target, name)))
        setattr(target, name, value)

    virtual_time = _time_of(world)
    virtual_threads = _threads_of(world)
    bound = {name: (getattr(time, name), getattr(virtual_time, name)) for name in _BOUND_BY_NAME}
    for name, module in list(sys.modules.items()):
        if not name.startswith("beamlet.") or name.startswith("beamlet.testing"):
            continue
        for key, value in list(vars(module).items()):
            if value is time:
                put(module, key, virtual_time)
            elif value is threading and name.startswith("beamlet.core_worker."):
                put(module, key, virtual_threads)
            elif value is PromptThread and name.startswith("beamlet.core_worker."):
                put(module, key, virtual_threads.Thread)
            elif value is ObjectRef:
                put(module, key, VirtualRef)
            elif key in bound and value is bound[key][0]:
                put(module, key, bound[key][1])
    put(os, "urandom", world.random_bytes)
    put(os, "_exit", lambda code: _active(world).exit(code))
    put(os, "killpg", lambda group, number: _end_by_signal(world, number))
    put(os, "getpid", lambda: world.active.pid if world.active is not None else _REAL_PID)
    put(signal, "pthread_kill", lambda thread, number: _active(world).interrupt(thread))
    put(backend, "_auto_init", partial(_start_no_cluster, world))
    put(logging.root.manager, "disable", logging.CRITICAL)
    put(atexit, "_run_exitfuncs", lambda: None)
    if (title := sys.modules.get("setproctitle")) is not None:
        put(title, "setproctitle", lambda text: None)
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    World.current = world
    try:
        yield
    finally:
        World.current = None
        for target, name, value in reversed(undo):
            setattr(target, name, value)
        if was_enabled:
            gc.enable()


_REAL_PID = os.getpid()


def _time_of(world: World) -> SimpleNamespace:
    """The ``time`` module, as far as ours may use it."""
    wall_s = _EPOCH_S - world.time_s
    return SimpleNamespace(
        monotonic=world.now,
        perf_counter=world.now,
        time=lambda: wall_s + world.time_s,
        time_ns=lambda: int((wall_s + world.time_s) * 1e9),
        sleep=sleep,
        strftime=time.strftime,
        localtime=time.localtime,
        gmtime=time.gmtime,
    )


def _threads_of(world: World) -> SimpleNamespace:
    """The ``threading`` module, as far as core workers use it: threads are fibers."""

    def thread(
        target: Callable[..., None], args: Sequence[Any] = (), name: str = "thread", daemon: bool = True
    ) -> SimpleNamespace:
        process = _active(world)
        return SimpleNamespace(start=lambda: process.start_fiber(name, partial(target, *args)))

    def main_thread() -> SimpleNamespace:
        return SimpleNamespace(ident=_active(world).main_thread_id)

    return SimpleNamespace(
        Thread=thread,
        main_thread=main_thread,
        current_thread=lambda: SimpleNamespace(ident=threading.get_ident()),
        get_ident=threading.get_ident,
        RLock=threading.RLock,
        Lock=threading.Lock,
    )


def _active(world: World) -> Any:
    assert world.active is not None, "only a process exits"
    return world.active


def _start_no_cluster(world: World) -> NoReturn:
    """Code that catches everything goes on a little in a process that has ended: no real cluster starts."""
    assert _active(world).ended, "a process that lives is connected"
    raise ProcessEnded


def _end_by_signal(world: World, number: int) -> NoReturn:
    _active(world)._end(-1, number)
    raise ProcessEnded
