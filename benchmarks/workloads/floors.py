"""What this machine can do at best without Ray or Beamlet: the figures that theirs are held against."""

from __future__ import annotations

import os
import pickle
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.catalog import CLUSTER_CPUS, Unit, floor
from benchmarks.cluster_processes import pss_bytes
from benchmarks.meter import Meter

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

LARGE_BYTES = 100_000_000
BATCH = 1000
REPEATS = 5
LENGTH = struct.Struct("!I")

#: About what any remote call must say: which function, which result, which arguments.
CALL: tuple[object, ...] = (b"f" * 16, b"t" * 24, "small", (), {})
REPLY = (b"t" * 24, b"ok")


def ok() -> bytes:
    """What the pool's processes run."""
    return b"ok"


@floor("pickle ping-pong over a Unix socket", Unit.PER_SECOND)
def ping_pong(meter: Meter) -> Sequence[float]:
    """Two processes, blocking sockets: pickle a call, send it, unpickle it, and the same for the reply."""
    with _echoing_child() as link:

        def call() -> None:
            _send(link, CALL)
            _receive(link)

        return meter.rate(call)


@floor("pickling a call and a reply", Unit.PER_SECOND)
def pickling(meter: Meter) -> Sequence[float]:
    """Pickle and unpickle both messages of a call, without sending them anywhere."""

    def round_trip() -> None:
        pickle.loads(pickle.dumps(CALL, protocol=5))
        pickle.loads(pickle.dumps(REPLY, protocol=5))

    return meter.rate(round_trip)


@floor("ProcessPoolExecutor sync", Unit.PER_SECOND)
def pool_sync(meter: Meter) -> Sequence[float]:
    """The standard library's process pool, one call at a time."""
    with _process_pool() as pool:
        return meter.rate(lambda: pool.submit(ok).result())


@floor("ProcessPoolExecutor async", Unit.PER_SECOND)
def pool_async(meter: Meter) -> Sequence[float]:
    """The standard library's process pool, 1000 calls submitted, then all results taken."""
    with _process_pool() as pool:

        def batch() -> None:
            for future in [pool.submit(ok) for _ in range(BATCH)]:
                future.result()

        return meter.rate(batch, BATCH)


@floor("memcpy of 100 MB", Unit.GIGABYTES_PER_SECOND)
def memcpy(meter: Meter) -> Sequence[float]:
    """Copy an array into another whose pages are there already."""
    import numpy

    source = numpy.full(LARGE_BYTES // 8, 1.5)
    target = numpy.full(LARGE_BYTES // 8, 0.5)
    return [rate * LARGE_BYTES / 1e9 for rate in meter.rate(lambda: numpy.copyto(target, source))]


@floor("pwrite of 100 MB to a fresh memfd", Unit.GIGABYTES_PER_SECOND)
def pwrite(meter: Meter) -> Sequence[float]:
    """Write into a new memory file: the kernel finds and fills pages that nobody has touched."""
    source = b"\x5a" * LARGE_BYTES

    def write() -> int:
        fd = os.memfd_create("floor")
        written = 0
        while written < LARGE_BYTES:
            written += os.pwrite(fd, memoryview(source)[written:], written)
        return fd

    return [rate * LARGE_BYTES / 1e9 for rate in meter.rate_making(write, os.close)]


@floor("interpreter start and end", Unit.SECONDS)
def interpreter(meter: Meter) -> Sequence[float]:
    """Run `python -c pass`."""
    return [meter.once(lambda: _run_python("pass")) for _ in range(REPEATS)]


@floor("interpreter start + fork", Unit.SECONDS)
def interpreter_and_fork(meter: Meter) -> Sequence[float]:
    """Run a Python program that forks a child and waits for it: what any cluster's start must cost."""
    program = "import os\nif os.fork() == 0: os._exit(0)\nos.wait()"
    return [meter.once(lambda: _run_python(program)) for _ in range(REPEATS)]


@floor("fork and wait", Unit.PER_SECOND)
def fork(meter: Meter) -> Sequence[float]:
    """Fork this small process and wait for the child, which ends at once."""

    def fork_once() -> None:
        if (pid := os.fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    return meter.rate(fork_once)


@floor("bare interpreter PSS", Unit.MEGABYTES)
def interpreter_memory(_meter: Meter) -> Sequence[float]:
    """A Python process that has imported nothing and waits for input."""
    program = "import sys; print('ready', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise RuntimeError("the bare interpreter ended before it was ready")
        size = pss_bytes([process.pid])
        process.communicate()
    return [size / 1e6]


def _process_pool() -> ProcessPoolExecutor:
    """As many forked processes as a cluster has CPUs.

    Imports are made here because every driver imports this file, and drivers' memory is measured.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    return ProcessPoolExecutor(CLUSTER_CPUS, mp_context=get_context("fork"))


def _run_python(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True)


@contextmanager
def _echoing_child() -> Iterator[socket.socket]:
    """A forked process that answers every CALL with REPLY until the socket closes."""
    ours, theirs = socket.socketpair()
    if (pid := os.fork()) == 0:
        ours.close()
        _echo_until_closed(theirs)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _echo_until_closed(link: socket.socket) -> None:
    try:
        while True:
            _receive(link)
            _send(link, REPLY)
    except EOFError:
        os._exit(0)
    finally:
        os._exit(1)


def _send(link: socket.socket, message: object) -> None:
    data = pickle.dumps(message, protocol=5)
    link.sendall(LENGTH.pack(len(data)) + data)


def _receive(link: socket.socket) -> object:
    """One message; a small one arrives whole in one `recv`, length first. Raises EOFError at the end."""
    data = link.recv(65536)
    if not data:
        raise EOFError
    (length,) = LENGTH.unpack_from(data)
    while len(data) < LENGTH.size + length:
        data += link.recv(65536)
    return pickle.loads(memoryview(data)[LENGTH.size :])
