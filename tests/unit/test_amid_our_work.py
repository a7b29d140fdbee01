"""Whatever strikes in the middle of a call of the API, at each line of ours: the books stay right.

A signal's handler that raises, a ``__del__`` that calls the API, the end of the stack.  Each call is made
again and again, and struck one step later each time, until it is through before the blow comes.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import pytest

from beamlet.base.deferring import deferred
from beamlet.base.our_folder import OUR_FOLDER
from beamlet.base.own_code import for_users
from beamlet.processes import interrupts
from beamlet.protocol.node import RequestLease
from beamlet.protocol.peer import CallActor, PushTask, Results
from beamlet.serialization.refs import note_contained, released
from beamlet.serialization.values import dumps
from support.owner import SELF, FakeRef
from support.submitting import Caller

NUMBER = 99
TOO_LONG = 20_000
LARGE = np.ones(20_000)


class Mine(Exception):
    """What the handler raises."""


class Scene:
    """A process with an actor that lives, a task that runs, values that are here and values to come."""

    def __init__(self) -> None:
        released.clear()
        self.caller = caller = Caller()
        self.actor = caller.actor()
        self.peer = caller.tell(self.actor, "ALIVE")
        self.workers = 0
        self.running = caller.task()
        caller.grant()
        self.queued = [caller.task() for _ in range(3)]
        self.ready = self.put("here")
        caller.owner.blocking.script = [self.finish] * 3
        self.made: list[Any] = []
        del self.queued[1]
        caller.owner.own.take(1)  # asks for a slab
        caller.owner.own.came(0, 1 << 20, 0)

    def put(self, value: Any) -> FakeRef:
        return FakeRef(self.caller.owner.objects.put(value), SELF)

    def finish(self) -> None:
        """All that was sent is answered, as often as it leads to more."""
        caller = self.caller
        caller.reactor.dispatch([])
        while caller.raylet.asked(RequestLease):
            self.workers += 1
            caller.grant(b"w%d" % self.workers)
        for _ in range(20):
            for peer in (self.peer, *caller.peers.by_address.values()):
                for work in caller.sent(peer):
                    if isinstance(work, PushTask | CallActor):
                        caller.answer_with(peer, Results(work.seq, [dumps(1)] * work.num_returns))
            caller.reactor.dispatch([])

    def end(self) -> None:
        """Everything is answered and let go; nothing may be left."""
        caller, made = self.caller, self.made
        self.finish()
        assert not caller.reactor.lock.is_held_here
        for ref in (self.running, *self.queued, self.ready, *made):
            assert not caller.is_pending(ref), "its answer came, and it did not notice"
        again = caller.task()
        call = caller.call(self.actor, 1)
        self.finish()
        assert caller.outcome(again) == 1, "work goes on"
        assert caller.outcome(call) == 1
        caller.check()
        for link in caller.actors.links.values():
            assert not link.in_flight
            assert not link.pending_count
        made.clear()
        del self.running, self.queued, self.ready, again, call, ref
        caller.owner.blocking.script.clear()
        with caller.reactor.lock:
            caller.owner.releases.drain()
        assert not caller.submission.tasks
        assert not len(caller.owner.own), "a place in our slab is taken for nobody"
        actors_own = {self.actor.handle_ref._id} if hasattr(self.actor, "handle_ref") else set()
        left = {i: r for i, r in caller.owner.refs.objects.items() if i not in actors_own and not r.watched}
        assert not left
        caller.close()


def a_task(scene: Scene) -> None:
    scene.made.append(scene.caller.task(1, 2))


def a_task_with_references(scene: Scene) -> None:
    scene.made.append(scene.caller.task(scene.ready, Holds(scene.ready), scene.running))


def several_results(scene: Scene) -> None:
    scene.made += scene.caller.task(num_returns=3)


def a_call(scene: Scene) -> None:
    scene.made.append(scene.caller.call(scene.actor, 1))


def a_call_with_references(scene: Scene) -> None:
    scene.made.append(scene.caller.call(scene.actor, scene.ready, Holds(scene.ready)))


def a_task_with_a_large_argument(scene: Scene) -> None:
    scene.made.append(scene.caller.task(LARGE, Holds(scene.ready)))


def a_call_with_a_large_argument(scene: Scene) -> None:
    scene.made.append(scene.caller.call(scene.actor, Holds(scene.ready), LARGE))


def a_put(scene: Scene) -> None:
    scene.made.append(scene.put("a value"))


def a_put_of_references(scene: Scene) -> None:
    scene.made.append(scene.put(Holds(scene.ready)))


def a_get(scene: Scene) -> None:
    scene.caller.owner.objects.get([scene.running, scene.ready], 10.0)


def a_get_of_one(scene: Scene) -> None:
    scene.caller.owner.objects.get_one(scene.running, 10.0)


def a_wait(scene: Scene) -> None:
    scene.caller.owner.selecting.wait([scene.running, scene.ready, *scene.queued], 3, 10.0)


def a_cancel(scene: Scene) -> None:
    scene.caller.cancelling.cancel(scene.queued[0], False, True)


def letting_go(scene: Scene) -> None:
    """And counting down, as the next calls do."""
    with scene.caller.reactor.lock:
        scene.caller.owner.releases.drain()


class Holds:
    """A value that refers to an object, and is counted as such."""

    def __init__(self, ref: Any) -> None:
        self.ref = ref

    def __reduce__(self) -> tuple[Any, ...]:
        note_contained(self.ref._id, SELF, self.ref)
        return str, ("it held a reference",)


CALLS = [
    *(a_task_with_a_large_argument, a_call_with_a_large_argument),
    *(a_task, a_task_with_references, several_results, a_call, a_call_with_references, a_put),
    a_put_of_references,
    *(a_get, a_get_of_one, a_wait, a_cancel, letting_go),
]


def strike(
    call: Callable[[Scene], None],
    scene: Scene,
    step: int,
    blow: Callable[[FrameType], None],
    is_step: Callable[[], bool] = lambda: True,
) -> bool:
    """Make the call, with a blow before its ``step``-th line of ours; False if it has not so many."""
    left = step

    def local(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if event == "line" and is_step():
            left -= 1
            if left == 0:
                blow(frame)
        return local if left > 0 else None

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        is_ours = name.startswith(OUR_FOLDER) and "interrupts" not in name and "deferring" not in name
        return local if is_ours and left > 0 else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call(scene)
    finally:
        sys.settrace(before)
    return left <= 0


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("_books", "_is_reminding"):
        monkeypatch.setattr(interrupts, name, getattr(interrupts, name))
    interrupts._is_reminding = True  # nobody reminds: what is deferred comes with the end of the call
    yield
    deferred.clear()


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_handler_that_raises_at_any_line(call: Callable[[Scene], None]) -> None:
    """Where the guard lets it; else at the end of the call. It is never lost, and comes once."""

    def raises(number: int, frame: FrameType | None) -> None:
        raise Mine

    guard = interrupts.Guarded(raises)
    for step in range(1, TOO_LONG):
        scene = Scene()
        interrupts._books = scene.caller.reactor.lock
        was_raised = reached = False
        try:
            reached = for_users(strike)(call, scene, step, partial(guard, NUMBER))
        except Mine:
            was_raised = True
        assert not reached, "the handler was lost"
        assert not deferred
        interrupts._books = None
        scene.end()
        if not was_raised:
            return
    pytest.fail("it never ended")


def in_a_finalizer(scene: Scene) -> None:
    """What a ``__del__`` might do. Python shows its errors and goes on."""
    for call in (a_task_with_references, a_call_with_references, a_put_of_references, a_cancel, a_get_of_one):
        with contextlib.suppress(RuntimeError):  # where it would have to wait
            call(scene)
    scene.put("let go at once")


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_finalizer_that_calls_the_api_at_any_line(call: Callable[[Scene], None]) -> None:
    for step in range(1, TOO_LONG):
        scene = Scene()

        amid = scene.caller.reactor.is_in_the_middle
        reached = strike(call, scene, step, lambda _, scene=scene: in_a_finalizer(scene), amid)
        scene.end()
        if not reached:
            return
    pytest.fail("it never ended")


def depth() -> int:
    frames, frame = 0, sys._getframe()
    while frame is not None:
        frames, frame = frames + 1, frame.f_back  # type: ignore[assignment]
    return frames


@pytest.mark.parametrize("call", CALLS[:-1], ids=lambda call: call.__name__)
def test_the_end_of_the_stack_at_any_depth(call: Callable[[Scene], None]) -> None:
    """Either the call is made, or nothing of it is: RecursionError comes first."""

    def at(frames: int, scene: Scene) -> None:
        if frames:
            at(frames - 1, scene)
        else:
            call(scene)

    outcomes: list[bool] = []
    for left in range(2, 120):
        scene = Scene()
        try:
            at(sys.getrecursionlimit() - depth() - left, scene)
            outcomes.append(True)
        except RecursionError:
            outcomes.append(False)
        scene.end()
    assert outcomes == sorted(outcomes), "with more room no less can be done"
    assert not outcomes[0]
    assert outcomes[-1]
