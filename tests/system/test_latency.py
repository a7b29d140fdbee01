"""Latency as behaviour: what a program asked for is on the wire when the call returns, with nobody waiting.

Virtual time stands still while a program runs, so no timer can have helped: either the bytes left, or they
would wait for one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import beamlet as ray
from beamlet import exceptions
from beamlet.core_worker.waiting.explaining import HINT_S, WorkerExplaining, _Inquiry
from beamlet.testing.virtual_cluster import VirtualDriver
from beamlet.testing.world import sleep
from system.programs import far
from system.stage import Stage

#: A line that sent nothing for this long is quiet.
QUIET_S = 0.01


def prepare_task() -> Callable[[], Any]:
    return lambda: far.add.remote(1, 2)


def prepare_task_on_a_lease() -> Callable[[], Any]:
    ray.get(far.add.remote(1, 1))
    return lambda: far.add.remote(1, 2)


def prepare_actor() -> Callable[[], Any]:
    return lambda: far.Counter.remote()


def prepare_call() -> Callable[[], Any]:
    counter = far.Counter.remote()
    ray.get(counter.up.remote())
    return lambda: counter.up.remote()


def prepare_cancel() -> Callable[[], Any]:
    ref = far.slow.remote(0.5, 1)
    sleep(0.1)
    return lambda: ray.cancel(ref)


def prepare_items() -> Callable[[], Any]:
    """Taking one tells a generator with a limit that it may go on."""
    items = far.numbers.options(_generator_backpressure_num_objects=1).remote(3, 1)
    sleep(0.1)
    return lambda: (next(items), items)


def prepare_argument_that_failed() -> Callable[[], Any]:
    """No message is due: the result is here, and needs no pass of the reactor to be seen."""
    failed = far.fail.remote(1)
    ray.wait([failed])
    counter = far.Counter.remote()
    ray.get(counter.up.remote())
    return lambda: counter.up.remote(far.add.remote(1, 1))


WAYS = {name[8:]: way for name, way in globals().items() if name.startswith("prepare_")}


@pytest.mark.parametrize("way", WAYS)
def test_it_left_without_a_timer(stage: Stage, way: str) -> None:
    def script(_: VirtualDriver) -> None:
        act = WAYS[way]()
        sleep(QUIET_S)
        sent, now = stage.cluster.kernel.sent_count, stage.world.now()
        kept = act()
        assert stage.world.now() == now, "the call itself must not wait"
        assert stage.cluster.kernel.sent_count > sent, "nothing left: it waits for a timer, or for a wait"
        sleep(1.0)
        del kept

    stage.play(script)


def test_a_burst_leaves_within_a_millisecond(stage: Stage) -> None:
    """What gathers behind the first call is flushed by the background thread, soon."""

    def script(_: VirtualDriver) -> None:
        counter = far.Counter.remote()
        ray.get(counter.up.remote())
        sleep(QUIET_S)
        refs = [counter.up.remote() for _ in range(30)]
        sleep(0.002)  # on the wire, that is: latencies come on top
        driver = stage.cluster.drivers[0]
        assert driver.core is not None
        assert not driver.core.reactor.dirty
        assert ray.get(refs)[-1] == 31

    stage.play(script)


def test_a_nested_task_starts_while_its_parent_computes(stage: Stage) -> None:
    """The parent does not wait, so only the promise to flush can bring the child out."""

    def script(_: VirtualDriver) -> None:
        assert ray.get(far.watch_a_child.remote()) < 0.2

    stage.play(script)


def test_what_depends_on_a_failure_fails_at_once(stage: Stage) -> None:
    """Row 24: 220 ms, because the error waited for somebody to dispatch."""

    def script(_: VirtualDriver) -> None:
        failed = far.fail.remote(1)
        ray.wait([failed])
        began = stage.world.now()
        dependent = far.add.remote(failed, 1)
        ray.wait([dependent])
        assert stage.world.now() - began < 0.002
        with pytest.raises(ValueError, match="no 1"):
            ray.get(dependent)

    stage.play(script)


def test_a_get_that_times_out_is_explained_soon_even_by_those_who_are_silent(stage: Stage) -> None:
    def script(_: VirtualDriver) -> None:
        ref = far.slow.remote(3.0, 1)
        sleep(0.2)
        stage.worker_of("slow").process.stalled_until = stage.world.now() + 2.0
        began = stage.world.now()
        with pytest.raises(ray.exceptions.GetTimeoutError, match="task slow"):
            ray.get(ref, timeout=0.6)
        assert stage.world.now() - began < 0.6 + 0.6, "explaining must not take long"
        for _ in range(20):
            with pytest.raises(ray.exceptions.GetTimeoutError):
                ray.get(ref, timeout=0)
        assert stage.world.now() - began < 2.0, "polling with short timeouts stays cheap"
        assert ray.get(ref) == 1

    stage.play(script)


def test_a_circle_of_waits_is_noticed_within_two_seconds(stage: Stage) -> None:
    def script(_: VirtualDriver) -> None:
        counter = far.Counter.remote()
        began = stage.world.now()
        with pytest.raises(ray.exceptions.DeadlockError, match=r"Counter\.call_self"):
            ray.get(counter.call_self.remote(counter))
        assert stage.world.now() - began < 2.0
        assert ray.get(counter.up.remote()) == 2, "the actor goes on"

    stage.play(script)


@pytest.mark.parametrize("answers", [True, False])
def test_a_timeout_is_kept_whether_the_executor_says_why_or_not(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """It cannot answer while its code never leaves C; the raylet may be as silent."""
    if not answers:
        monkeypatch.setattr(WorkerExplaining, "asked", lambda *_: None)
        monkeypatch.setattr(_Inquiry, "why_came", lambda *_: None)

    def script(_: VirtualDriver) -> None:
        running = [far.slow.remote(20.0, 1), far.slow.remote(20.0, 2)]
        sleep(0.5)
        waiting = [far.slow.options(num_cpus=n).remote(1.0, 2) for n in (1, 2)]
        for refs in (running, waiting):
            began = stage.world.now()
            with pytest.raises(exceptions.GetTimeoutError) as caught:
                ray.get(refs, timeout=1.0)
            assert stage.world.now() - began == pytest.approx(1.0, abs=0.002)
            assert ("has been running" in str(caught.value)) == (answers and refs is running)
            assert ("CPU" in str(caught.value)) == (answers and refs is waiting)
        for ref in (*running, *waiting):
            ray.cancel(ref, force=True)

    stage.play(script)


def test_a_value_that_comes_while_a_wait_is_explained_is_not_late(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkerExplaining, "asked", lambda *_: None)

    def script(_: VirtualDriver) -> None:
        began = stage.world.now()
        assert ray.get(far.slow.remote(HINT_S + 0.01, 3)) == 3
        assert stage.world.now() - began < HINT_S + 0.1

    stage.play(script)
