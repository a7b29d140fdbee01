"""A zoo of wrong values goes through every public function and option: each is refused at the call or used.

None of them may end the session, nor hang it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conformance import DEADLINE_S, beamlet_only, get
from tests.support.wrong_values import ZOO

import beamlet as ray
from beamlet import util
from beamlet.util import queue

pytestmark = [
    beamlet_only,
    pytest.mark.usefixtures("hasty_cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def hasty_cluster() -> Iterator[None]:
    """What no node can fit fails soon, so that all wrong requests can be waited for."""
    ray.init(num_cpus=8, infeasible_grace_s=0.2)
    yield
    ray.shutdown()


@ray.remote
def one() -> int:
    return 1


@ray.remote
class Thing:
    def ping(self) -> int:
        return 1


def with_pool(call: Callable[[Any], Any]) -> Any:
    return call(util.ActorPool([]))


#: function → argument → what calls it with a value.
CALLS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "get": {
        "object_refs": lambda v: ray.get(v),
        "timeout": lambda v: ray.get(ray.put(1), timeout=v),
        "_use_object_store": lambda v: ray.get(ray.put(1), _use_object_store=v),
    },
    "put": {"_owner": lambda v: ray.put(1, _owner=v)},
    "wait": {
        "ray_waitables": lambda v: ray.wait(v, timeout=0),
        "num_returns": lambda v: ray.wait([ray.put(1)], num_returns=v),
        "timeout": lambda v: ray.wait([ray.put(1)], timeout=v),
        "fetch_local": lambda v: ray.wait([ray.put(1)], fetch_local=v),
    },
    "cancel": {
        "ray_waitable": lambda v: ray.cancel(v),
        "force": lambda v: ray.cancel(one.remote(), force=v),
        "recursive": lambda v: ray.cancel(one.remote(), recursive=v),
    },
    "get_actor": {
        "name": lambda v: ray.get_actor(v),
        "namespace": lambda v: ray.get_actor("nobody", namespace=v),
    },
    "kill": {"actor": lambda v: ray.kill(v), "no_restart": lambda v: ray.kill(Thing.remote(), no_restart=v)},
    "util.list_named_actors": {"all_namespaces": lambda v: util.list_named_actors(v)},
    "util.map_unordered": {"fn": lambda v: list(util.map_unordered(v, [1]))},
    "util.as_completed": {"refs": lambda v: list(util.as_completed(v))},
    "util.ActorPool": {
        "actors": lambda v: util.ActorPool(v),
        "push": lambda v: with_pool(lambda pool: pool.push(v)),
        "map": lambda v: with_pool(lambda pool: pool.map(v, [])),
    },
    "util.queue.Queue": {
        "maxsize": lambda v: queue.Queue(v),
        "actor_options": lambda v: queue.Queue(actor_options=v),
    },
    "remote": {"target": lambda v: ray.remote(v)},
    "timeline": {
        "filename": lambda v: v in (None, "") or ray.timeline(v) if not isinstance(v, str) else None
    },
    "inspect": {
        "name": lambda v: util.inspect_serializability(1, name=v, print_file=io.StringIO()),
        "print_file": lambda v: v is None or util.inspect_serializability(1, print_file=v),
    },
}
CASES = [(function, argument) for function, calls in CALLS.items() for argument in calls]


@pytest.mark.parametrize(("function", "argument"), CASES)
def test_wrong_arguments_are_refused_at_the_call(
    function: str, argument: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call = CALLS[function][argument]
    for value in ZOO.values():
        try:
            call(value)
        except (TypeError, ValueError):
            pass
    assert get(one.remote()) == 1


OPTIONS_OF_TASKS = (
    "num_cpus", "num_gpus", "memory", "resources", "accelerator_type", "name", "runtime_env",
    "scheduling_strategy", "label_selector", "fallback_strategy", "enable_task_events", "_labels",
    "num_returns", "max_retries", "retry_exceptions", "max_calls", "_generator_backpressure_num_objects",
)  # fmt: skip
OPTIONS_OF_ACTORS = (
    "num_cpus", "num_gpus", "memory", "resources", "accelerator_type", "name", "namespace",
    "runtime_env", "scheduling_strategy", "lifetime", "get_if_exists", "max_restarts",
    "max_task_retries", "max_pending_calls", "concurrency_groups", "_labels",
    "allow_out_of_order_execution",
)  # fmt: skip
OPTIONS_OF_CALLS = (
    "num_returns", "name", "concurrency_group", "max_task_retries", "retry_exceptions", "_labels",
)  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS_OF_TASKS)
def test_wrong_options_of_tasks_are_refused_or_run(option: str) -> None:
    submitted = [
        submit(lambda value=value: one.options(**{option: value}).remote()) for value in ZOO.values()
    ]
    settle(submitted)
    assert get(one.remote()) == 1


@pytest.mark.parametrize("option", OPTIONS_OF_ACTORS)
def test_wrong_options_of_actors_are_refused_or_run(option: str) -> None:
    def start(value: Any) -> Any:
        return Thing.options(**{option: value}).remote()

    actors = [actor for value in ZOO.values() if (actor := submit(lambda value=value: start(value)))]
    settle([submit(lambda actor=actor: actor.ping.remote()) for actor in actors])
    for actor in actors:
        ray.kill(actor)
    assert get(Thing.remote().ping.remote()) == 1


@pytest.mark.parametrize("option", OPTIONS_OF_CALLS)
def test_wrong_options_of_calls_are_refused_or_run(option: str) -> None:
    thing = Thing.remote()
    settle(
        [submit(lambda value=value: thing.ping.options(**{option: value}).remote()) for value in ZOO.values()]
    )
    assert get(thing.ping.remote()) == 1


def submit(call: Callable[[], Any]) -> Any:
    """What the call returns; None if it was refused."""
    try:
        return call()
    except (TypeError, ValueError, NotImplementedError):
        return None


def settle(submitted: list[Any]) -> None:
    """Everything that was accepted comes to an end, whichever."""
    refs = [ref for ref in submitted if isinstance(ref, ray.ObjectRef)]
    if refs:
        _, unfinished = ray.wait(refs, num_returns=len(refs), timeout=DEADLINE_S)
        assert not unfinished


def test_an_unknown_concurrency_group_is_named_at_the_call() -> None:
    @ray.remote(concurrency_groups={"io": 1})
    class Grouped:
        def ping(self) -> int:
            return 1

    grouped = Grouped.remote()
    with pytest.raises(ValueError, match=r"no such group; it has 'io'; did you mean 'io'\?"):
        grouped.ping.options(concurrency_group="ioo")
    with pytest.raises(ValueError, match="it has none"):
        Thing.remote().ping.options(concurrency_group="zz")


def test_a_handle_of_an_earlier_session_is_no_actor_of_this_one() -> None:
    @ray.remote
    def call_ping(handle: Any) -> Any:
        return ray.get(handle.ping.remote(), timeout=DEADLINE_S)

    old = Thing.remote()
    assert get(old.ping.remote()) == 1
    untouched = Thing.remote()
    detached = Thing.options(name="detached", lifetime="detached").remote()
    found = ray.get_actor("detached")
    assert get([detached.ping.remote(), found.ping.remote()]) == [1, 1]
    ray.shutdown()
    ray.init(num_cpus=2, infeasible_grace_s=0.2)
    for handle in (old, untouched, detached, found):  # the cluster has gone, and detached actors with it
        with pytest.raises(ValueError, match="earlier session"):
            ray.kill(handle)
        with pytest.raises(ray.exceptions.RaySystemError, match="earlier session"):
            handle.ping.remote()
        with pytest.raises(ray.exceptions.RaySystemError, match="earlier session"):
            call_ping.remote(handle)
