"""A worker that becomes an actor: when it says that it has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from beamlet.base.ids import ActorId, Address, FunctionKey, ObjectId, TaskId
from beamlet.base.invariants import InvariantBroken
from beamlet.core_worker.context import Contexts, TaskContext
from beamlet.core_worker.executing.actor_process import ActorProcess
from beamlet.core_worker.owning.borrowing import ArgumentsGuard
from beamlet.exceptions import ObjectLostError, RayTaskError
from beamlet.protocol.gcs import ActorSpec, ActorStarted, StartActor
from beamlet.protocol.node import JobDescription
from beamlet.protocol.peer import AddBorrower
from beamlet.rpc.connection import encode_frame
from beamlet.serialization.arguments import NO_ARGUMENTS
from beamlet.serialization.remote_error import peek
from support.executing import JOB, Worker

OWNER = Address(b"o" * 32)
GIVEN = ObjectId(b"g" * 28)


def start(worker: Worker, constructor: Any, detached: bool, lost: Exception | None = None) -> list[Any]:
    """What it says once ``constructor`` has run, which was given a reference of another process.

    lost: what its arguments are instead.
    """

    def decode(payload: bytes, deps: Any, guard: ArgumentsGuard) -> Any:
        if lost is not None:
            raise lost
        worker.refs.found_in_arguments(guard, [(GIVEN, OWNER)])
        return (), {}

    worker.runner.decode = decode  # type: ignore[method-assign]
    worker.output.announce = lambda: None
    worker.execution.serve_with = lambda *_: None  # type: ignore[method-assign]
    functions: Any = SimpleNamespace(fetch=lambda *_: constructor)
    leaving: Any = None
    process = ActorProcess(
        reactor=worker.reactor,
        link=worker.link,
        functions=functions,
        refs=worker.refs,
        releases=worker.releases,
        work=worker.work,
        execution=worker.execution,
        runner=worker.runner,
        leaving=leaving,
        output=worker.output,
        contexts=Contexts(TaskContext(TaskId(b"t" * 24))),
    )
    job = JobDescription(JOB, "", [], b"", b"", {}, False, Address(b""))
    key = FunctionKey(b"A")
    spec = ActorSpec(
        ActorId(b"a" * 16), job, OWNER, key, "A", NO_ARGUMENTS, [], [], {}, {}, detached=detached
    )
    process.start(StartActor(spec, 0))
    return worker.link.take()  # type: ignore[no-any-return]


class Keeps:
    pass


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr("beamlet.core_worker.executing.actor_process.set_title", lambda title: None)
    return Worker()


def test_a_detached_actor_says_so_when_owners_know_what_it_has_kept(worker: Worker) -> None:
    """When it hears that it lives its creator may end, and with it what was kept for the constructor."""
    (add,) = start(worker, Keeps, detached=True)
    assert isinstance(add, AddBorrower)
    worker.refs.registered(add.token)
    worker.releases.perform()
    (started,) = worker.link.take()
    assert isinstance(started, ActorStarted)
    assert not started.init_error


def test_one_whose_references_are_those_of_a_dead_process_does_not_wait_for_it(worker: Worker) -> None:
    start(worker, Keeps, detached=True)
    worker.refs.peer_gone(OWNER)
    worker.releases.perform()
    assert [type(message) for message in worker.link.take()] == [ActorStarted]


def test_one_that_kept_nothing_says_so_at_once(worker: Worker) -> None:
    def forgets() -> Keeps:
        worker.refs.release_many([GIVEN])
        return Keeps()

    assert [type(message) for message in start(worker, forgets, detached=True)] == [ActorStarted]


def test_one_that_lives_no_longer_than_its_owner_says_so_at_once(worker: Worker) -> None:
    assert [type(message) for message in start(worker, Keeps, detached=False)] == [AddBorrower, ActorStarted]


@pytest.mark.parametrize("detached", [False, True])
def test_a_detached_actor_whose_arguments_went_with_their_owner_says_what_to_do(
    worker: Worker, detached: bool
) -> None:
    lost = ObjectLostError(GIVEN.hex(), OWNER.hex(), "")
    lost.add_note("why exactly")
    (started,) = start(worker, Keeps, detached, lost)
    error = peek(started.init_error)
    assert isinstance(error, RayTaskError)
    text = error.with_notes()
    assert GIVEN.hex() in text
    assert "why exactly" in text
    assert ("owned it has exited" in text) is detached
    assert ("passed as values, together up to 4 MiB, stay with the actor" in text) is detached


class ShowsItself:
    def __init__(self, shown: str) -> None:
        self._shown = shown

    def __repr__(self) -> str:
        return self._shown


@pytest.mark.parametrize("shown", ["Reader(caf\udce9)", "x" * (200 << 20)])
def test_whatever_its_repr_says_it_can_say_that_it_lives(worker: Worker, shown: str) -> None:
    """Nobody else would: calls wait until it has."""
    messages = start(worker, lambda: ShowsItself(shown), detached=False)
    assert isinstance(messages[-1], ActorStarted)
    assert len(encode_frame(messages)) < 1 << 10
    assert worker.runner.actor_repr is not None
    assert worker.runner.actor_repr[:17] == shown[:17]
    assert len(worker.runner.actor_repr) < 1 << 10


def test_one_whose_constructor_raised_something_large_says_so_in_few_words(worker: Worker) -> None:
    """A message that the raylet does not take would cost the process, and the user what was raised."""

    def fails() -> None:
        raise ValueError(bytes(8 << 20))

    (started,) = start(worker, fails, detached=True)
    assert len(encode_frame([started])) < 4 << 20
    assert r"ValueError: b'\x00\x00" in str(peek(started.init_error))


def test_one_whose_constructor_raised_says_so_at_once(worker: Worker) -> None:
    def fails() -> None:
        raise ValueError("no")

    (started,) = start(worker, fails, detached=True)
    assert isinstance(started, ActorStarted)
    assert started.init_error


def test_a_process_that_cannot_begin_its_actor_ends(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a mistake of ours: its callers would wait for a report that never comes."""

    def show_devices(accelerators: Any) -> None:
        raise OSError("nowhere to be seen")

    module = "beamlet.core_worker.executing.actor_process.show_devices"
    monkeypatch.setattr(module, show_devices)
    with pytest.raises(InvariantBroken, match="the actor did not begin: OSError: nowhere to be seen"):
        start(worker, object, detached=False)
