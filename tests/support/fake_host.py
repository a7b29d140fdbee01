"""The part of a raylet that has to do with processes, without any: a factory that is a list, real pipes."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from beamlet.base.ids import NodeId, WorkerId
from beamlet.base.resources import from_floats
from beamlet.protocol import factory, node
from beamlet.protocol.message import Message
from beamlet.raylet.members import Member
from beamlet.raylet.node_services import NodeConfig, NodeServices
from beamlet.raylet.output_service import OutputService
from beamlet.raylet.performer import Performer
from beamlet.raylet.worker_record import Announce, Found, NotFound, Want
from beamlet.raylet.worker_service import WorkerService
from support.fake_node import FakeDescriptors, FakeLine
from support.hand_loop import HandLoop
from support.jobs import a_job


class PipeLoop(HandLoop):
    """One that also says when a descriptor can be read, when it is asked to look."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: int, on_readable: Callable[[], None]) -> None:
        assert fd not in self.readers, "read twice"
        self.readers[fd] = on_readable

    def remove_reader(self, fd: int) -> None:
        self.readers.pop(fd, None)

    def look(self) -> None:
        """Until nothing can be read."""
        while self.readers and (ready := select.select(list(self.readers), [], [], 0)[0]):
            for fd in ready:
                if fd in self.readers:
                    self.readers[fd]()
            self.settle()


class FakeFactory:
    """Keeps what it was asked, and the write ends of the pipes that came with it, as a fork would."""

    def __init__(self) -> None:
        self.asked: list[Message] = []
        self.pipes: dict[WorkerId, list[int]] = {}

    def send(self, message: Message, *fds: int) -> None:
        self.asked.append(message)
        if isinstance(message, factory.ForkWorker):
            _link, out, err = fds
            self.pipes[message.worker_id] = [os.dup(out), os.dup(err)]

    def flush(self) -> None: ...

    def write(self, worker: WorkerId, data: bytes, is_stderr: bool = False) -> None:
        os.write(self.pipes[worker][is_stderr], data)

    def close_pipes(self, worker: WorkerId) -> None:
        for fd in self.pipes.pop(worker):
            os.close(fd)


class FakeLog:
    def __init__(self) -> None:
        self.text = b""

    def write(self, data: bytes) -> None:
        self.text += data

    def close(self) -> None: ...


class FakeLogs:
    def __init__(self) -> None:
        self.files: dict[str, FakeLog] = {}

    def open(self, name: str) -> FakeLog:
        return self.files.setdefault(name, FakeLog())


class FakeHost:
    """``found`` and ``refused``: how wants were answered; ``deaths``: what was announced."""

    def __init__(self) -> None:
        self.loop = PipeLoop()
        self.factory = FakeFactory()
        self.logs = FakeLogs()
        self.descriptors = FakeDescriptors()
        self.no_room: OSError | None = None
        self.found: dict[int, WorkerId] = {}
        self.refused: dict[int, str] = {}
        self.deaths: list[Announce] = []
        self.contained: list[BaseException] = []
        ids = count(1)
        config = NodeConfig(
            NodeId(b"n" * 28), Path("/s"), "node.sock", from_floats({"CPU": 2.0}), 0, 10.0,
            "127.0.0.1", "h", "1.0", "3.11",
        )  # fmt: skip
        performer = Performer(lambda error, where: self.contained.append(error))
        self.services = NodeServices.build(
            config,
            self.loop,
            self.descriptors,
            performer,
            self,
            lambda: WorkerId(b"%028d" % next(ids)),  # type: ignore[arg-type]
        )
        performer.on(Found, lambda effect: self.found.update({effect.ticket: effect.worker}))
        performer.on(NotFound, lambda effect: self.refused.update({effect.ticket: effect.reason}))
        performer.on(Announce, self._announced)
        self.output = OutputService(
            self.logs,
            self.services.members,
            performer,
            self.loop,
            lambda worker: self.workers.drained(worker),
        )
        self.workers = WorkerService(
            self.services, self.output, self.factory, lambda _: FakeLine(), self._check_room
        )

    def send(self, message: Message) -> None:
        raise AssertionError(f"nothing here tells the GCS anything: {message}")

    def _check_room(self) -> None:
        if self.no_room is not None:
            raise self.no_room

    def _announced(self, death: Announce) -> None:
        self.output.finish(death.worker)
        self.deaths.append(death)

    # -- what happens ----------------------------------------------------------------------------

    def driver(self, number: int = 1) -> Member:
        """One that listens to its workers."""
        member = self.services.members.join(self.services.new_id(), FakeLine(), self.loop.now())
        member.is_driver = True
        self.services.members.drives(member, a_job(number))
        self.output.router.listen(a_job(number).job_id)
        return member

    def want(self, ticket: int, **more: Any) -> None:
        self.services.perform(self.services.pool.want(Want(ticket, a_job(1), **more), self.loop.now()))

    def asked(self, kind: type[Message]) -> list[Any]:
        """What the factory was asked of this kind; it is forgotten."""
        found = [each for each in self.factory.asked if isinstance(each, kind)]
        self.factory.asked = [each for each in self.factory.asked if not isinstance(each, kind)]
        return found

    def born(self, pid: int = 4711) -> WorkerId:
        """The one fork that was asked for succeeds, and its process reports."""
        (fork,) = self.asked(factory.ForkWorker)
        worker: WorkerId = fork.worker_id
        self.workers.on_factory(factory.Forked(worker, pid))
        self.workers.ready(self.member(worker), node.WorkerReady(worker, pid))
        return worker

    def exits(self, worker: WorkerId, code: int = -1, signal: int = -1) -> None:
        self.workers.on_factory(factory.ChildExited(worker, 4711, code, signal, 1 << 20))

    def member(self, worker: WorkerId) -> Member:
        found = self.services.members.worker(worker)
        assert found is not None
        return found

    def close(self) -> None:
        for worker in list(self.factory.pipes):
            self.factory.close_pipes(worker)
        self.output.close()
        assert not self.loop.readers, "a pipe is still listened to"
        assert not self.contained, self.contained


@contextmanager
def fake_host() -> Iterator[FakeHost]:
    """Fails if it leaves descriptors behind."""
    before = len(os.listdir("/proc/self/fd"))
    host = FakeHost()
    yield host
    host.close()
    assert len(os.listdir("/proc/self/fd")) == before
