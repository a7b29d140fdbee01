"""What storms found, each as the shortest story that shows it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

import beamlet as ray
from beamlet import exceptions
from beamlet.api import backend
from beamlet.core_worker.executing.runner import Runner
from beamlet.protocol.node import CreateObject
from beamlet.protocol.peer import Results
from beamlet.raylet.members import Member
from beamlet.testing.virtual_cluster import VirtualDriver
from beamlet.testing.world import sleep
from system.programs import far, runs
from system.stage import Stage


def test_a_call_of_an_actor_that_is_dead_already_holds_no_handle(stage: Stage) -> None:
    def script(_: VirtualDriver) -> None:
        counter = far.Counter.remote()
        assert ray.get(counter.up.remote()) == 1
        ray.kill(counter)
        with pytest.raises(exceptions.ActorDiedError):
            ray.get(counter.up.remote())
        sleep(0.1)
        with pytest.raises(exceptions.ActorDiedError):
            ray.get(counter.up.remote())

    stage.play(script)


def test_a_generator_run_again_goes_on_where_its_reader_is(stage: Stage) -> None:
    """Its second executor waits for reading, too, and must learn how far the program has read."""

    def script(_: VirtualDriver) -> None:
        items = iter(far.numbers.options(_generator_backpressure_num_objects=2).remote(6, 1))
        read = [ray.get(next(items))[-1] for _ in range(3)]
        stage.world.later(0.0, stage.worker_of("numbers").process.kill)
        read += [ray.get(ref)[-1] for ref in items]
        assert read == list(range(6))

    stage.play(script)


@pytest.mark.parametrize("limit", [1, 2, 4])
@pytest.mark.parametrize("of_an_actor", [False, True])
@pytest.mark.parametrize("pause_s", [0.0, 0.01], ids=["read late", "read before it fails"])
def test_a_generator_that_fails_and_is_retried_goes_on_where_its_reader_is(
    stage: Stage, limit: int, of_an_actor: bool, pause_s: float
) -> None:
    """By the same process: what was read is told to each attempt, once it knows what that is about."""

    def script(_: VirtualDriver) -> None:
        runs.clear()
        source: Any = far.numbers_at_last
        options: dict[str, Any] = {"_generator_backpressure_num_objects": limit}
        if of_an_actor:
            source = far.Counter.options(max_task_retries=9).remote().numbers_at_last
            options |= {"num_returns": "streaming", "retry_exceptions": True}
        items = source.options(**options).remote(7, 4, pause_s)
        assert [ray.get(ref) for ref in items] == list(range(7))
        assert len(runs) == 5

    stage.play(script)


@pytest.mark.parametrize("retries", [0, 1])
def test_a_result_that_was_stored_and_not_announced_is_deleted_or_found(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    _dies_after_storing(monkeypatch, 1)

    def script(_: VirtualDriver) -> None:
        ref = far.blob.options(max_retries=retries).remote(200_000, 7)
        if retries:
            assert ray.get(ref) == bytes([7]) * 200_000
        else:
            with pytest.raises(exceptions.WorkerCrashedError):
                ray.get(ref)
            sleep(0.1)
            assert not stage.cluster.head.store.usage().used_bytes, "though the error is still referred to"

    stage.play(script)


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("item", [1, 3])
def test_an_item_that_was_stored_and_not_announced_is_deleted_or_found(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, item: int, retries: int
) -> None:
    _dies_after_storing(monkeypatch, item)

    def script(_: VirtualDriver) -> None:
        read: list[int] = []
        try:
            items = far.numbers.options(max_retries=retries).remote(5, 150_000)
            read.extend(ray.get(ref)[-1] for ref in items)
        except exceptions.WorkerCrashedError:
            assert not retries
        assert read == list(range(5 if retries else item - 1))

    stage.play(script)


@pytest.mark.parametrize("is_call", [False, True])
def test_results_of_two_attempts_are_not_mixed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, is_call: bool
) -> None:
    """The first stored its large one, and died before it could say so."""
    runs.clear()
    make = Runner._results

    def making(self: Runner, *args: Any) -> Results:
        message = make(self, *args)
        if len(message.items) == 2 and len(runs) == 1:
            sleep(0.05)  # its seal arrives
            os._exit(3)
        return message

    monkeypatch.setattr(Runner, "_results", making)

    def script(_: VirtualDriver) -> None:
        if is_call:
            actor = far.Counter.options(max_restarts=1, max_task_retries=1).remote()
            large, small = actor.number_twice.options(num_returns=2).remote(200_000)
        else:
            large, small = far.number_twice.options(max_retries=1).remote(200_000)
        assert ray.get([large, small]) == [bytes([2]) * 200_000, 2]

    stage.play(script)


def test_what_a_cancelled_task_had_stored_is_deleted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    _dies_after_storing(monkeypatch, 1, how=lambda: sleep(100.0))

    def script(_: VirtualDriver) -> None:
        ref = far.blob.remote(200_000, 7)
        sleep(0.5)
        assert stage.cluster.head.store.usage().used_bytes
        ray.cancel(ref, force=True)
        with pytest.raises(exceptions.TaskCancelledError):
            ray.get(ref)

    stage.play(script)


@pytest.mark.parametrize("seal_takes_s", [0.001, 0.02])
def test_a_result_of_a_worker_that_is_being_killed_is_in_the_store_if_it_was_announced(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, seal_takes_s: float
) -> None:
    """It ends its work between the decision to kill it and its death, which may be told before its seal."""
    monkeypatch.setattr(stage.world, "latency", lambda: 10e-6)
    head, factory = stage.cluster.head, stage.cluster.head.factory
    create = head.raylet._store.create

    def decide(sender: Member, message: CreateObject) -> None:
        create(sender, message)
        now = stage.world.time_s
        factory.process.stalled_until = now + 0.01
        head.raylet._node.perform(head.raylet._node.pool.kill(sender.worker_id, "a test", now))
        line: Any = sender.connection
        line._sock.end.arriving_at = now + seal_takes_s

    monkeypatch.setitem(head.raylet._handlers, CreateObject, decide)

    def script(_: VirtualDriver) -> None:
        ref = far.blob.options(max_retries=0).remote(200_000, 7)
        ray.wait([ref])
        sleep(0.1)
        assert not any(each.process.ended is False for each in stage.cluster.workers if each.worker), "killed"
        assert ray.get(ref) == bytes([7]) * 200_000

    stage.play(script)


def test_what_an_actor_does_for_a_caller_that_is_dead_is_kept_for_nobody(stage: Stage) -> None:
    """Calls that were queued when it died are run all the same; a generator among them waited for ever."""

    def script(_: VirtualDriver) -> None:
        counter = far.Counter.remote()
        assert ray.get(counter.up.remote()) == 1
        with pytest.raises(exceptions.WorkerCrashedError):
            ray.get(far.call_and_die.remote(counter))
        assert ray.get(counter.up.remote(), timeout=5) == 2
        sleep(1.0)
        cores = [each.worker.core for each in stage.cluster.workers if each.worker is not None]
        assert not [held for core in cores for held in core.refs.held_results.values()]
        owned = [kept for core in cores for kept in core.refs.objects]
        assert not owned

    stage.play(script)


def test_the_argument_of_a_refused_task_is_freed_though_its_driver_does_nothing(stage: Stage) -> None:
    """The raylet's answer to a request ends the task, too, not only its other messages."""

    def script(_: VirtualDriver) -> None:
        data = ray.put(bytes(200_000))
        refused = far.length.options(num_cpus=1000).remote(data)
        del data
        stage.world.later(15.0, lambda: used.append(stage.cluster.head.store.usage().used_bytes))
        sleep(20.0)
        assert used == [0]
        with pytest.raises(exceptions.InfeasibleError):
            ray.get(refused)

    used: list[int] = []
    stage.play(script)


def test_a_reference_is_found_while_its_table_is_shrunk(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a moment it is there only for who holds the lock."""

    def script(_: VirtualDriver) -> None:
        core: Any = backend.current_or_none()
        # A virtual process has a lock of its own, and its bare one is still that of the reactor.
        locks = core.lock, type(core.reactor.bare_lock).__enter__.__self__

        class Shrinking(dict[Any, Any]):
            def get(self, key: Any, default: Any = None) -> Any:
                is_safe = any(lock.is_held_here for lock in locks)
                return super().get(key, default) if is_safe else default

        ref = ray.put(1)
        with monkeypatch.context() as patch:
            patch.setattr(core.refs, "objects", Shrinking(core.refs.objects))
            assert ray.get(ref) == 1
            added = far.add.remote(ref, 1)
            assert ray.get([added, ref]) == [2, 1]
            objects = dict(core.refs.objects)
        core.refs.objects.clear()
        core.refs.objects.update(objects)

    stage.play(script)


def _dies_after_storing(
    monkeypatch: pytest.MonkeyPatch, nth: int, how: Callable[[], object] = lambda: os._exit(3)
) -> None:
    """The process that stores the ``nth`` value on behalf of others ends before it can say so."""
    item = Runner._item
    stored: list[object] = []

    def storing(self: Runner, *args: Any) -> object:
        found = item(self, *args)
        stored.append(found)
        sleep(0.05)  # its seal arrives
        if len(stored) == nth:
            how()
        return found

    monkeypatch.setattr(Runner, "_item", storing)
