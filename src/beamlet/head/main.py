"""The head process: GCS and raylet in one loop. The composition root of a single-node cluster.

Order matters.  The factory is forked while this process has one thread and no loop, and has loaded little:
it loads what workers need while our own parts are loaded and built.  Then the socket listens, and one line on
standard output says so.  At the end: workers (with the factory), then the socket and the session's files, and
last, by exiting, the drivers' connections: a driver that sees its connection close knows that nothing is
left.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from beamlet.base.ids import NodeId, new_node_id
from beamlet.base.invariants import InvariantBroken
from beamlet.base.resources import from_floats
from beamlet.base.say import say, say_block
from beamlet.head.node_facts import NodeFacts
from beamlet.head.options import ITS_PYTHONPATH, HeadOptions, HeadReady
from beamlet.object_store.arena import Arena
from beamlet.processes.factory import FactoryProcess, WorkerBoot, fork_factory
from beamlet.processes.fate_sharing import become_subreaper, end_children, sweep_and_wait, wake_with_parent
from beamlet.processes.host import raise_fd_limit
from beamlet.processes.session import HEAD_LOG, SessionDirectory, publish_current
from beamlet.processes.session_lock import SessionLock

#: An owner that has not joined by then is not going to.
OWNER_JOINS_S = 30.0
#: How long the factory may take to end all workers before it is killed.
_FACTORY_ENDS_S = 6.0
_ORPHANS_END_S = 2.0


def main(arguments: list[str]) -> int:
    """Be the head until its owner leaves or a signal says stop. Returns the exit status."""
    # Whoever started us may ignore or block signals; what it thinks of its children is not for ours.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        options = msgspec.json.decode(arguments[1], type=HeadOptions)
    except (IndexError, msgspec.DecodeError) as error:
        sys.stderr.write(f"beamlet.head wants one argument, HeadOptions as JSON: {error}\n")
        return 2
    if options.owned:
        wake_with_parent()  # its connection will be closed; stopped for good, we would outlive it
    return run_head(options)


def run_head(options: HeadOptions) -> int:
    """Returns the exit status, or raises what the head itself did wrong; both are in its log."""
    report = _take_over_output(Path(options.session_dir) / "logs" / HEAD_LOG)
    try:
        head = Head(options, report)
        if not options.owned:
            head.announce(report, options.turn_fd)
    except Exception as error:
        _say_the_rest()
        _tell(report, HeadReady(os.getpid(), error=f"{type(error).__name__}: {error}"))
        raise
    _tell(report, HeadReady(os.getpid(), address=str(head.session.socket)))
    if options.owned:
        head.await_owner(report)
    else:
        os.close(report)
    head.run()
    return 0


class Head:
    """All parts of the process, built in order."""

    def __init__(self, options: HeadOptions, report: int) -> None:
        """``report``: the pipe to whoever started us; it must not live on in our forks."""
        self.session = SessionDirectory(Path(options.session_dir))
        if options.lock_fd >= 0:
            os.set_inheritable(options.lock_fd, False)
            self.session.lock = SessionLock(options.lock_fd)
        only_ours = [fd for fd in (report, options.turn_fd) if fd >= 0]
        for fd in only_ours:
            os.set_inheritable(fd, False)
        self._owner_pid = os.getppid()
        self._owned = options.owned
        self._ending = ""
        self._failed = False
        #: The pipe to an owner that has not let go of it yet.
        self._report = -1
        os.environ["BEAMLET_SESSION"] = self.session.marker
        _restore_python_path()
        raise_fd_limit()
        # What a killed factory leaves falls to us, and is swept at the end.
        become_subreaper()
        node_id = new_node_id()
        self._arena = Arena.create(options.object_store_bytes)
        worker_main = _WorkerMain(options, node_id, self._arena)
        self._factory: FactoryProcess = fork_factory(
            worker_main,
            options.preload,
            close_in_factory=[*(functools.partial(os.close, fd) for fd in only_ours), worker_main.load],
            at_end=self.session.disarm,
        )
        # Loaded after the fork: workers need none of it, and the factory loads what they do need meanwhile.
        from beamlet.gcs.gcs import Gcs
        from beamlet.head.session_keeper import SessionKeeper
        from beamlet.object_store.store import ObjectStore
        from beamlet.processes.log_writer import LogStream, LogWriter
        from beamlet.protocol import cluster
        from beamlet.raylet.node_services import NodeConfig
        from beamlet.raylet.raylet import Raylet
        from beamlet.rpc.containment import Containment
        from beamlet.rpc.listener import Listener
        from beamlet.rpc.loopback import loopback
        from beamlet.rpc.reactor import Reactor

        self._reactor = Reactor()
        self._logs = LogWriter(self.session.logs, self._on_log_trouble)
        # From here on nobody in the loop waits for the disk, neither for workers' logs nor for its own.
        sys.stderr = LogStream(self._logs.open(HEAD_LOG, stands_for=(1, 2)))
        self._reactor.containment = Containment(say_block)
        self._gcs = Gcs(
            self._reactor,
            self._reactor.containment.contain,
            session_dir=options.session_dir,
            validate=options.validate,
        )
        accepted = (cluster.FromGcs, cluster.ToGcs) if options.validate else ()
        to_gcs, to_raylet = loopback(self._reactor, *accepted)
        self._gcs.attach(to_raylet)
        config = NodeConfig(
            node_id=node_id,
            session_dir=self.session.path,
            socket_path=str(self.session.socket),
            resources=from_floats(options.resources),
            warm_workers=options.warm_worker_count,
            infeasible_grace_s=options.infeasible_grace_s,
            node_ip=options.node_ip,
            hostname=options.hostname,
            version=options.version,
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            owned=options.owned,
        )
        store = ObjectStore(options.object_store_bytes, options.store_full_timeout_s)
        self._raylet = Raylet(
            self._reactor, config, self._factory.link, self._arena, store, to_gcs, self._end, self._logs
        )
        self._reactor.containment.on_broken = self._broken
        to_gcs.listen(self._raylet.on_gcs_message)
        self._raylet.start()
        secret = self.session.secret()

        def listen() -> Listener:
            path = str(self.session.socket)
            return Listener(path, secret, self._reactor, self._raylet.on_connection)

        self._keeper = SessionKeeper(
            self.session,
            secret,
            self._reactor,
            listen,
            self._raylet.warn_drivers,
            is_current=not options.owned,
        )
        self.session.describe(str(self.session.socket))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda received, _: self._end(_told_by(received)))

    def run(self) -> None:
        """Serve until told to end; then leave nothing behind."""
        # What exists now lives as long as the process: no collection needs to look at it again.
        gc.collect()
        gc.freeze()
        gc.enable()
        try:
            self._reactor.run_forever()
        except BaseException:
            self._failed = True
            raise
        finally:
            self._close()

    def _broken(self, error: InvariantBroken) -> None:
        """Our own books are wrong; what they are and how it came about is in the log already."""
        self._failed = True
        self._end(f"the head's own books are wrong: {error}")

    def _end(self, reason: str) -> None:
        """Idempotent; the first reason is kept."""
        self._ending = self._ending or reason
        self._reactor.stop()

    def _on_log_trouble(self, text: str) -> None:
        """In any thread."""
        self._reactor.call_soon_threadsafe(lambda: self._raylet.warn_drivers(text))

    def announce(self, report: int, turn_fd: int) -> None:
        """Be the cluster to be joined; end if who started us was killed meanwhile: nobody would expect us.

        Others begin after that: see ``HeadOptions.turn_fd``.
        """
        if _is_read(report):
            publish_current(self.session)
        else:
            self._end("the command that started this head was killed")
        if turn_fd >= 0:
            os.close(turn_fd)

    def await_owner(self, report: int) -> None:
        """The owner keeps its end of ``report`` open until it joined; killed before, it takes us along.

        Until then it may be told there why we end, before it finds nobody to join.
        """
        self._report = report

        def let_go() -> None:
            self._report = -1
            self._reactor.remove_reader(report)
            os.close(report)
            late.cancel()
            if not self._raylet.driver_has_joined:
                self._end("the driver that started this head ended before it joined")

        def too_late() -> None:
            if not self._raylet.driver_has_joined:
                self._failed = True
                self._end(f"the driver that started this head did not join within {OWNER_JOINS_S:.0f} s")

        self._reactor.add_reader(report, let_go)
        late = self._reactor.call_later(OWNER_JOINS_S, too_late)

    def _close(self) -> None:
        """In order: new visitors, workers, files. Connections close with the process, after everything."""
        say(f"ends: {self._ending or 'an error of its own, see below'}")
        if self._report >= 0:
            _tell(self._report, HeadReady(os.getpid(), error=self._ending or "an error of its own"))
        left_behind = self._raylet.has_drivers
        self._keeper.close()
        self._raylet.close(self._ending or "an error of the head's own")
        os.kill(
            self._factory.pid, signal.SIGCONT
        )  # not reaped yet, so it is there; stopped, it would not end
        status = _await_exit(self._factory.pid, _FACTORY_ENDS_S)
        if status is None:
            os.kill(self._factory.pid, signal.SIGKILL)
            _await_exit(self._factory.pid, _FACTORY_ENDS_S)
        # Nothing, if the factory ended in order; else all it left has fallen to us, and what it could not
        # leave to us a sweep finds by the session's mark.
        if not end_children(_ORPHANS_END_S) or status != 0:
            sweep_and_wait(self.session.marker)
        self._arena.close()
        _say_the_rest()
        has_reported = self._failed or self._reactor.containment.count > 0
        # Its own end with status 0 is in order, whoever asked for it; else our log holds its last words.
        self.session.remove(keep_logs=has_reported or status != 0 or left_behind or self._owner_lives_on())

    def _owner_lives_on(self) -> bool:
        """It did not leave us and is not dead: we closed its connection, and its errors name our log."""
        return self._owned and not self._raylet.owner_left and os.getppid() == self._owner_pid


def _told_by(number: int) -> str:
    name = signal.Signals(number).name
    return f"the cluster was told to end ({name}, as `beamlet stop` sends it)" if name == "SIGTERM" else name


class _WorkerMain:
    """What a forked worker does. Named in the options: the head does not know what a core worker is."""

    def __init__(self, options: HeadOptions, node_id: NodeId, arena: Arena) -> None:
        self._name = options.worker_main
        self._lock_fd = options.lock_fd
        self._facts = NodeFacts(node_id, options.session_dir, options.node_ip, arena.fd, arena.capacity)
        self._main: Callable[[WorkerBoot, NodeFacts], None] | None = None

    def load(self) -> None:
        """In the factory, while the head builds itself: import and prepare what all workers need."""
        module, _, name = self._name.partition(":")
        loaded = importlib.import_module(module)
        self._main = getattr(loaded, name)
        prepare = getattr(loaded, "prepare", None)
        if prepare is not None:
            prepare(self._facts)

    def __call__(self, boot: WorkerBoot) -> None:
        assert self._main is not None, "the factory loads it before it forks"
        if self._lock_fd >= 0:
            os.close(self._lock_fd)  # the head and the factory keep the session alive, and nobody else
        self._main(boot, self._facts)


def _restore_python_path() -> None:
    """Programs that tasks start may be of another Python, which must not find the packages of this one."""
    before = os.environ.pop(ITS_PYTHONPATH, None)
    if before:
        os.environ["PYTHONPATH"] = before
    elif before is not None:
        os.environ.pop("PYTHONPATH", None)


def _take_over_output(log: Path) -> int:
    """Standard output and error go to the head's log from now on; returns a duplicate of the old stdout."""
    report = os.dup(1)
    os.set_inheritable(report, False)
    try:
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:  # a full disk: the thread that writes logs says so when it fails too
        fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    os.close(null)
    return report


def _say_the_rest() -> None:
    """What was said goes to the disk now, and what is still to be said without a thread between."""
    from beamlet.processes.log_writer import LogStream

    if isinstance(sys.stderr, LogStream):
        sys.stderr.end()


def _tell(report: int, ready: HeadReady) -> None:
    """Tell whoever started us."""
    try:
        os.write(report, msgspec.json.encode(ready) + b"\n")
    except BrokenPipeError:
        say("whoever started this head is gone")


def _is_read(pipe: int) -> bool:
    """Whether anybody is left who could read what we write."""
    poll = select.poll()
    poll.register(pipe, 0)
    return not poll.poll(0)


def _await_exit(pid: int, seconds: float) -> int | None:
    """Reap our child ``pid`` and return its wait status; None if it still runs after ``seconds``."""
    pidfd = os.pidfd_open(pid)
    try:
        waiter = select.poll()
        waiter.register(pidfd, select.POLLIN)
        return os.waitpid(pid, 0)[1] if waiter.poll(seconds * 1000) else None
    finally:
        os.close(pidfd)
