"""The fork server: a small single-threaded process that has imported everything and forks workers of itself.

    raylet ══ link ══ factory ──fork──▶ worker   own session and process group, dies with the factory
                         ▲                └── what tasks start: hangs below the worker (a subreaper),
                         └─── orphans ────────    falls to the factory when the worker is dead, and is killed

Carries out; decides nothing: whom to fork and kill, and what a death means, is the raylet's. Messages and
their order: protocol/factory.py.
No reactor: one poll on the link and on the pipe that signals write to.

Children of the factory are workers, or what a dead worker left: a worker is a subreaper itself, so nothing of
a living worker ever falls here. That makes "kill what is not a worker" exact, whatever sessions, process
groups and environments the orphan made for itself. Killing one re-parents its children to us, so that the
next pass gets them: no tree has to be walked, and none can escape by forking faster than a walk.
The price: a daemon that a task double-forks stays a zombie below its worker, once ended, until that dies.

Measured (Python 3.11, 2 shared cores, msgspec and cloudpickle imported): request → child_main entered 2.5 ms
at best, 3.6 ms at the median under load, of which bare fork 0.9–1.3 ms; the rest is first touches of pages.
An idle worker's own memory (Private_Dirty) is 1.75 MB, of which 0.6 MB is any fork's, 0.4 MB CPython's hooks
after fork. gc.freeze keeps it there: without it, a child's first full collection makes it 5.5 MB. Trimming
malloc before the fork changed nothing. What comes after, a core worker's life, is rehearsed before the first
fork: core_worker/rehearsal.py.
"""

from __future__ import annotations

import _signal
import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, NoReturn

import msgspec

from beamlet.base.ids import WorkerId
from beamlet.base.say import say
from beamlet.processes.dense_heap import fill_holes
from beamlet.processes.fate_sharing import become_subreaper, children, kill_group, wake_with_parent
from beamlet.processes.fork_failure import explain_fork_failure
from beamlet.processes.forked_child import (
    ChildMain,
    WorkerBoot,
    become_worker,
    install_streams,
    set_title,
)
from beamlet.processes.preload import preload as import_all
from beamlet.processes.standard_descriptors import hold_standard_descriptors
from beamlet.protocol.factory import (
    ChildExited,
    FactoryFails,
    Forked,
    ForkFailed,
    ForkWorker,
    KillWorker,
    LoadModule,
    Preloaded,
)
from beamlet.protocol.message import Message
from beamlet.rpc.connection import encode_frame
from beamlet.rpc.framing import Deframer, FramingError

__all__ = ["ChildMain", "FactoryProcess", "WorkerBoot", "fork_factory", "run_factory"]

FACTORY_TITLE = "beamlet::factory"
_FDS_PER_FORK = 3
#: The kernel's limit of descriptors in one sendmsg.
_MAX_FDS = 253
_RECEIVE_BYTES = 1 << 16
_WORDS_MAX = 1000
#: A head that still loads its own parts reads them then.
_HEARD_S = 5.0
#: How long the end may take: only what is stuck in the kernel (a dead network disk) survives SIGKILL so long.
_END_S = 5.0
_HANDLED: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_RAYLET_MESSAGES = ForkWorker | KillWorker | LoadModule


class FactoryProcess(NamedTuple):
    """What the head keeps of the factory it forked."""

    pid: int
    #: Its messages come and go here; closing it ends the factory and all workers.
    link: socket.socket


def fork_factory(
    child_main: ChildMain,
    preload: Sequence[str] = (),
    close_in_factory: Iterable[Callable[[], None]] = (),
    at_end: Callable[[], None] = lambda: None,
) -> FactoryProcess:
    """Fork the factory off this process, which must have one thread only. The caller reaps it.

    close_in_factory: called there first, to let go of what is the caller's alone (listeners, loops).
    at_end: called there when it ends, for what a caller that was killed could not do itself.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()  # what waits in a buffer would come out once more, in a worker's output
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return FactoryProcess(pid, ours)
    try:
        # What the parent has made is shared with it until a collection looks at it, and copies all pages.
        gc.freeze()
        # Until the loop listens for it: a head that is killed while we still load is cleaned up after, too.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: _end_early(at_end))
        signal.signal(signal.SIGCONT, lambda *_: os.getppid() == parent or _end_early(at_end))
        # A group of our own: who kills the head's leaves us, to clean up.
        os.setpgid(0, 0)
        # That the head is dead is told by SIGCONT, which nothing holds up: any other signal waits for as long
        # as we are stopped, and a stop that was sent before it and begins after it would be for ever.
        wake_with_parent()
        if os.getppid() != parent:  # it died between fork and prctl
            _end_early(at_end)
        ours.close()
        for close in close_in_factory:
            close()
        run_factory(theirs, child_main, preload, at_end)
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        with contextlib.suppress(OSError):  # nobody is there to hear it, or its socket is full
            _say_why(theirs, f"{type(error).__name__}: {error}"[:_WORDS_MAX])
    finally:
        os._exit(1)


def _say_why(link: socket.socket, reason: str) -> None:
    """Our last words; then listen until they were read: a head that writes to nobody would not read them."""
    link.setblocking(False)
    link.send(encode_frame([FactoryFails(reason)]))
    link.shutdown(socket.SHUT_WR)
    link.settimeout(_HEARD_S)
    while link.recv(_RECEIVE_BYTES):
        pass


def _end_early(at_end: Callable[[], None]) -> NoReturn:
    at_end()
    os._exit(0)


def run_factory(
    link: socket.socket,
    child_main: ChildMain,
    preload: Sequence[str] = (),
    at_end: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Be the factory until the link closes or SIGTERM comes; then end all workers and this process."""
    become_subreaper()
    hold_standard_descriptors()
    set_title(FACTORY_TITLE)
    # Ours: raised for each fork when an allow-listed module (numpy) has threads.
    warnings.filterwarnings(
        "ignore", message=r".*use of fork\(\) may lead to deadlocks", category=DeprecationWarning
    )
    sys.argv = [""]  # what modules see that are imported here; ours is the head's
    unfit = import_all(preload)
    install_streams()
    factory = Factory(link, child_main)  # kept to the end: to free its fillers would copy their pages
    factory.run([Preloaded([(each.module, each.reason) for each in unfit])] if preload else [])
    at_end()
    os._exit(0)


class Factory:
    """The loop and what it knows: its workers, and descriptors that came and wait for their fork."""

    def __init__(self, link: socket.socket, child_main: ChildMain) -> None:
        link.setblocking(True)
        self._link = link
        self._child_main = child_main
        self._pid = os.getpid()
        self._workers: dict[int, WorkerId] = {}
        self._pids: dict[WorkerId, int] = {}
        #: Children from before (a preloaded module's helper); they are nobody's orphans.
        self._helpers = frozenset(children(self._pid))
        self._received: deque[int] = deque()
        self._lost_descriptors = False
        #: Its children could not be looked for, and that was said.
        self._is_blind = False
        self._deframer = Deframer()
        self._decode = msgspec.msgpack.Decoder(list[_RAYLET_MESSAGES]).decode
        self._outbox: list[Message] = []
        #: Why the loop ends; "" while it runs.
        self._ending = ""

    def run(self, first_words: Sequence[Message] = ()) -> None:
        self._wake, wake_write = socket.socketpair()
        self._wake.setblocking(False)
        wake_write.setblocking(False)
        self._own_fds = (self._link.fileno(), self._wake.fileno(), wake_write.fileno())
        for number in _HANDLED:
            signal.signal(number, _noted_by_wakeup)
        # From here on the end of the link tells of the head's; a kernel's SIGCONT comes after it.
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        # What exists now lives as long as the factory: collections in children need not touch (and so copy)
        # its pages, and the factory itself makes no cycles.
        gc.collect()
        gc.disable()
        self._fillers = fill_holes()
        gc.freeze()
        self._outbox += first_words
        self._send()
        self._loop()
        self._end()

    def _loop(self) -> None:
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while not self._ending:
            for fd, _ in poll.poll():
                if fd == self._wake.fileno():
                    self._on_signals()
                else:
                    self._on_link()
            self._send()

    # -- the link --------------------------------------------------------------------------------

    def _on_link(self) -> None:
        try:
            data, ancillary, flags, _ = self._link.recvmsg(
                _RECEIVE_BYTES, socket.CMSG_SPACE(_MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError as error:
            self._ending = f"link to the raylet: {error}"
            return
        for _, _, packed in ancillary:
            self._received.extend(memoryview(packed)[: len(packed) // 4 * 4].cast("i"))
        self._lost_descriptors |= bool(flags & socket.MSG_CTRUNC)
        if not data:
            self._ending = "the raylet closed the link"
            return
        try:
            batches = [self._decode(header) for header in self._deframer.feed(memoryview(data))]
        except (FramingError, msgspec.DecodeError) as error:
            self._ending = f"the raylet sent what is no message of ours: {error}"
            _say(self._ending)
            return
        for batch in batches:
            for message in batch:
                try:
                    self._on_message(message)
                except Exception:  # one child's trouble is not the others'
                    _say(f"{type(message).__name__} could not be carried out:\n{traceback.format_exc()}")
            self._drop_unclaimed()

    def _on_message(self, message: ForkWorker | KillWorker | LoadModule) -> None:
        if isinstance(message, ForkWorker):
            self._on_fork(message.worker_id)
        elif isinstance(message, LoadModule):
            importlib.import_module(message.module)
            gc.freeze()  # see ``run``
        elif (
            pid := self._pids.get(message.worker_id)
        ) is not None:  # else it is dead and its ChildExited on the way
            kill_group(pid, message.signal)

    def _drop_unclaimed(self) -> None:
        """After a batch whose descriptors the kernel could not all deliver, the rest fits nobody."""
        if self._lost_descriptors:
            while self._received:
                os.close(self._received.popleft())
            self._lost_descriptors = False

    def _send(self) -> None:
        if not self._outbox:
            return
        frame, self._outbox = encode_frame(self._outbox), []
        try:
            self._link.sendall(frame)
        except ConnectionError as error:
            self._ending = self._ending or f"link to the raylet: {error}"

    # -- forking ---------------------------------------------------------------------------------

    def _on_fork(self, worker_id: WorkerId) -> None:
        if len(self._received) < _FDS_PER_FORK:
            reason = (
                f"the factory got {len(self._received)} of the {_FDS_PER_FORK} descriptors for the worker: "
                f"too many open files (limit: {os.sysconf('SC_OPEN_MAX')}). Raise the limit (ulimit -n)."
            )
            self._outbox.append(ForkFailed(worker_id, reason))
            return
        take = self._received.popleft
        received = take(), take(), take()
        try:
            pid = self._fork(worker_id, received)
        except OSError as error:
            self._outbox.append(ForkFailed(worker_id, explain_fork_failure(error)))
        except Exception as error:  # a hook that a preloaded module runs around forks, or no memory for them
            self._outbox.append(ForkFailed(worker_id, f"fork failed: {type(error).__name__}: {error}"))
        else:
            self._workers[pid] = worker_id
            self._pids[worker_id] = pid
            self._outbox.append(Forked(worker_id, pid))
            self._send()  # a fork takes longer than a message: the raylet need not wait for all of a batch
        finally:
            for fd in received:
                os.close(fd)

    def _fork(self, worker_id: WorkerId, received: tuple[int, int, int]) -> int:
        # Blocked, so that no signal meets our handlers in the child: there it would be lost.
        mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _HANDLED)
        try:
            pid = os.fork()
            if not pid:
                become_worker(
                    worker_id,
                    received,
                    self._child_main,
                    factory_pid=self._pid,
                    factory_fds=(*self._own_fds, *self._received),
                    handled_signals=_HANDLED,
                    signal_mask=mask,
                )
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        return pid

    # -- deaths ----------------------------------------------------------------------------------

    def _on_signals(self) -> None:
        try:
            numbers = self._wake.recv(4096)
        except BlockingIOError:
            return
        if signal.SIGTERM in numbers:
            self._ending = "SIGTERM"
        if signal.SIGCHLD in numbers:
            self._reap()

    def _reap(self) -> bool:
        """Collect everyone dead, report workers, kill what they left. Returns whether any child is left."""
        left, anyone_died = True, False
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                left = False
                break
            if not pid:
                break
            anyone_died = True
            worker_id = self._workers.pop(pid, None)
            if worker_id is not None:
                del self._pids[worker_id]
                kill_group(pid)
                self._outbox.append(_death(worker_id, pid, status, usage.ru_maxrss))
        if anyone_died and left:
            self._kill_orphans()
        return left

    def _kill_orphans(self) -> None:
        for pid in self._children():
            if pid not in self._workers and pid not in self._helpers:
                _kill(pid)

    def _children(self) -> list[int]:
        """All there are; none while they cannot be looked for, and the next death looks again."""
        try:
            found = children(self._pid)
        except OSError as error:  # too many open files
            if not self._is_blind:
                _say(f"what dead workers left cannot be looked for: {error}")
            self._is_blind = True
            return []
        self._is_blind = False
        return found

    def _end(self) -> None:
        """Kill everything below; wait until it is gone."""
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
        for pid in self._workers:
            kill_group(pid)
        deadline = time.monotonic() + _END_S
        while self._reap() and (rest_s := deadline - time.monotonic()) > 0:
            for pid in self._children():
                _kill(pid)
            if self._is_blind:
                self._make_room()
            select.select([self._wake], [], [], min(rest_s, 0.1))
            self._drain_wake()
        if survivors := self._children():
            _say(f"the factory ends ({self._ending}); SIGKILL did not end {survivors} within {_END_S:.0f} s")

    def _make_room(self) -> None:
        """What is open for work to come is not needed any more, and looking for children needs one."""
        self._link.close()
        while self._received:
            os.close(self._received.popleft())

    def _drain_wake(self) -> None:
        try:
            self._wake.recv(4096)
        except BlockingIOError:
            return


def _death(worker_id: WorkerId, pid: int, status: int, peak_rss_kib: int) -> ChildExited:
    killed = os.WIFSIGNALED(status)
    return ChildExited(
        worker_id=worker_id,
        pid=pid,
        exit_code=-1 if killed else os.WEXITSTATUS(status),
        signal=os.WTERMSIG(status) if killed else -1,
        peak_rss_bytes=peak_rss_kib * 1024,
    )


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    except PermissionError:
        _say(f"pid {pid}, left by a worker, changed its user and cannot be killed by us (uid {os.getuid()})")


def _noted_by_wakeup(number: int, frame: object) -> None:
    """A handler must exist for the wakeup descriptor to be written; the byte says the rest."""


def _say(text: str) -> None:
    say(text, "beamlet factory")
