"""A factory with real processes, and what a test needs to be its raylet and to look after its workers.

Every process a test starts writes its pid into a pipe; "gone" is judged by /proc, with a deadline.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from beamlet.base.ids import WorkerId
from beamlet.processes.factory import FactoryProcess, WorkerBoot, fork_factory
from beamlet.protocol.factory import ChildExited, FactoryMessage, Forked, ForkWorker
from beamlet.protocol.message import Message
from beamlet.rpc.connection import encode_frame
from beamlet.rpc.framing import Deframer

DEADLINE_S = 10.0
#: Where a program that a test starts finds this module.
TESTS = Path(__file__).parents[1]


# --- the raylet's part ----------------------------------------------------------------------------


class Worker:
    """A worker as the raylet sees it."""

    def __init__(self, worker_id: WorkerId) -> None:
        self.worker_id = worker_id
        self.link, self._their_link = socket.socketpair()
        self.link.settimeout(DEADLINE_S)
        self.stdout, self._stdout_write = os.pipe()
        self.stderr, self._stderr_write = os.pipe()

    @property
    def given(self) -> list[int]:
        return [self._their_link.fileno(), self._stdout_write, self._stderr_write]

    def gave(self) -> None:
        self._their_link.close()
        os.close(self._stdout_write)
        os.close(self._stderr_write)

    def close(self) -> None:
        self.link.close()
        os.close(self.stdout)
        os.close(self.stderr)

    def read_all(self, fd: int) -> str:
        """Everything until the last holder of the write end is gone."""
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
        return b"".join(chunks).decode()


class Raylet:
    def __init__(self, process: FactoryProcess) -> None:
        self.process = process
        self.process.link.settimeout(DEADLINE_S)
        self._deframer = Deframer()
        self._decoder = msgspec.msgpack.Decoder(list[FactoryMessage])
        self._inbox: list[Message] = []
        self.workers: list[Worker] = []

    def send(self, *messages: Message, fds: Sequence[int] = ()) -> None:
        socket.send_fds(self.process.link, [bytes(encode_frame(list(messages)))], fds)

    def receive(self) -> Message:
        while not self._inbox:
            data = self.process.link.recv(65536)
            assert data, "the factory closed its link"
            for header in self._deframer.feed(memoryview(data)):
                self._inbox += self._decoder.decode(header)
        return self._inbox.pop(0)

    def ask_for(self, count: int = 1) -> list[Worker]:
        """All in one frame, with all descriptors in one sendmsg."""
        workers = [Worker(WorkerId(b"worker%d" % (len(self.workers) + i))) for i in range(count)]
        self.workers += workers
        self.send(*(ForkWorker(w.worker_id) for w in workers), fds=[fd for w in workers for fd in w.given])
        for worker in workers:
            worker.gave()
        return workers

    def fork(self) -> tuple[Worker, int]:
        [worker] = self.ask_for()
        answer = self.receive()
        assert isinstance(answer, Forked), answer
        assert answer.worker_id == worker.worker_id
        return worker, answer.pid

    def death(self) -> ChildExited:
        message = self.receive()
        assert isinstance(message, ChildExited), message
        return message

    def end(self) -> int:
        """Close the link; the factory's exit code."""
        self.process.link.close()
        for worker in self.workers:
            worker.close()
        return wait_for_exit(self.process.pid)


def wait_for_exit(pid: int) -> int:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail(f"the factory did not end within {DEADLINE_S} s")


@contextlib.contextmanager
def factory(child_main: Callable[[WorkerBoot], None], preload: Sequence[str] = ()) -> Iterator[Raylet]:
    raylet = Raylet(fork_factory(child_main, preload))
    try:
        yield raylet
    finally:
        assert raylet.end() == 0


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def assert_all_gone(pids: Sequence[int], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while alive := [pid for pid in pids if not is_gone(pid)]:
        if time.monotonic() > deadline:
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"{what}: {alive} of {pids} still alive after {DEADLINE_S} s")
        time.sleep(0.005)


# --- what workers do ------------------------------------------------------------------------------


def obey(boot: WorkerBoot) -> None:
    """Run what comes over the link as Python, answer with repr(answer)."""
    link = socket.socket(fileno=boot.link)
    while code := link.recv(65536):
        scope = {"boot": boot, "answer": None}
        exec(code.decode(), scope)
        link.sendall(repr(scope["answer"]).encode())


def tell(worker: Worker, code: str) -> object:
    worker.link.sendall(code.encode())
    answer: object = eval(worker.link.recv(65536).decode())
    return answer


#: Each prints the pids it has started; all of them try to escape.
ESCAPES = {
    "own session": """if True:
        import subprocess
        answer = [subprocess.Popen(['sleep', '100'], start_new_session=True).pid]""",
    "own session and an empty environment": """if True:
        import subprocess
        answer = [subprocess.Popen(['/bin/sleep', '100'], start_new_session=True, env={}).pid]""",
    "double-forked daemon": """if True:
        import os, time
        r, w = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.write(w, b'%d' % os.getpid())
                time.sleep(100)
            os._exit(0)
        os.wait()
        answer = [int(os.read(r, 20))]""",
    "bomb of depth 3": """if True:
        import os, time
        r, w = os.pipe()
        def burst(depth):
            for _ in range(3):
                if os.fork() == 0:
                    os.setsid()
                    os.write(w, b'%d ' % os.getpid())
                    if depth > 1:
                        burst(depth - 1)
                    time.sleep(100)
        burst(3)
        seen = b''
        while seen.count(b' ') < 3 + 9 + 27:
            seen += os.read(r, 1000)
        answer = [int(pid) for pid in seen.split()]""",
}
