"""Options are judged where they are written: unknown names, wrong types, wrong values; Ray's error types."""

from __future__ import annotations

from typing import Any

import pytest
from conformance import beamlet_only, get

import beamlet as ray

pytestmark = pytest.mark.usefixtures("cluster")


def plain() -> int:
    return 1


class Plain:
    def ping(self) -> str:
        return "pong"


@pytest.mark.parametrize("target", [plain, Plain], ids=["task", "actor"])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_cpu": 1}, ValueError),
        ({"unknown": None}, ValueError),
        ({"num_cpus": -1}, ValueError),
        ({"num_cpus": "1"}, TypeError),
        ({"num_gpus": -0.5}, ValueError),
        ({"num_cpus": 0.00001}, ValueError),
        ({"memory": -1}, ValueError),
        ({"resources": 5}, TypeError),
        ({"resources": {"CPU": 1}}, ValueError),
        ({"resources": {"GPU": 1}}, ValueError),
        ({"resources": {"widget": -1}}, ValueError),
        ({"name": 5}, TypeError),
        ({"runtime_env": "text"}, TypeError),
        ({"scheduling_strategy": 5}, TypeError),
        ({"accelerator_type": 5}, TypeError),
    ],
    ids=repr,
)
def test_bad_options_of_both(target: Any, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ray.remote(**options)(target)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_returns": -1}, ValueError),
        ({"num_returns": "many"}, TypeError),
        ({"num_returns": 1.5}, TypeError),
        ({"max_retries": -2}, ValueError),
        ({"max_retries": "3"}, TypeError),
        ({"retry_exceptions": [1]}, ValueError),
        ({"retry_exceptions": "yes"}, TypeError),
        ({"max_calls": -1}, ValueError),
        ({"object_store_memory": 100}, ValueError),
        ({"max_restarts": 1}, ValueError),
        ({"max_concurrency": 2}, ValueError),
        ({"lifetime": "detached"}, ValueError),
    ],
    ids=repr,
)
def test_bad_options_of_tasks(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ray.remote(**options)(plain)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_restarts": -2}, ValueError),
        ({"max_restarts": "1"}, TypeError),
        ({"max_task_retries": -2}, ValueError),
        ({"max_concurrency": -1}, ValueError),
        ({"max_concurrency": "2"}, TypeError),
        ({"lifetime": "forever"}, ValueError),
        ({"max_pending_calls": -2}, ValueError),
        ({"get_if_exists": None}, TypeError),
        ({"num_returns": 2}, ValueError),
        ({"max_retries": 1}, ValueError),
    ],
    ids=repr,
)
def test_bad_options_of_actors(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ray.remote(**options)(Plain)


def test_options_of_a_function_are_checked_too() -> None:
    f = ray.remote(plain)
    with pytest.raises(ValueError):
        f.options(num_cpu=1)
    with pytest.raises(ValueError):
        f.options(num_returns=-1)
    with pytest.raises(ValueError):
        f.options(max_calls=1)


def test_options_of_a_class_are_checked_too() -> None:
    actor_class = ray.remote(Plain)
    with pytest.raises(ValueError):
        actor_class.options(max_restart=1)
    with pytest.raises(ValueError):
        actor_class.options(concurrency_groups={"io": 1})


def test_options_gives_only_remote_and_bind() -> None:
    assert not hasattr(ray.remote(plain).options(num_cpus=1), "options")
    assert not hasattr(ray.remote(Plain).options(num_cpus=1), "options")


def test_remote_with_nothing_is_an_assertion_error() -> None:
    with pytest.raises(AssertionError):
        ray.remote()


def test_remote_with_a_function_and_options_at_once_is_an_assertion_error() -> None:
    with pytest.raises(AssertionError):
        ray.remote(plain, num_cpus=1)


def test_remote_with_a_positional_option_is_an_error() -> None:
    with pytest.raises((AssertionError, TypeError)):
        ray.remote(2)(plain)


def test_decorating_something_else_is_an_error() -> None:
    with pytest.raises((TypeError, AssertionError)):
        ray.remote("text")


def test_method_with_an_unknown_option_is_an_assertion_error() -> None:
    with pytest.raises(AssertionError):
        ray.method(unknown=1)


def test_method_options_with_an_unknown_option_is_a_type_error() -> None:
    actor = ray.remote(Plain).remote()
    with pytest.raises(TypeError):
        actor.ping.options(unknown=1).remote()


@pytest.mark.parametrize(
    "options",
    [
        {"num_cpus": 0},
        {"num_cpus": 0.5},
        {"num_cpus": None},
        {"num_gpus": 0},
        {"memory": 1000},
        {"resources": {"widget": 0.5}},
        {"resources": {}},
        {"max_retries": -1},
        {"retry_exceptions": [ValueError]},
        {"retry_exceptions": (ValueError,)},
        {"name": "named"},
        {"runtime_env": {}},
        {"scheduling_strategy": "DEFAULT"},
        {"scheduling_strategy": "SPREAD"},
        {"enable_task_events": False},
        {"_labels": {"a": "b"}},
    ],
    ids=repr,
)
def test_good_options_of_tasks_run(options: dict[str, Any]) -> None:
    assert get(ray.remote(**options)(plain).remote()) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"num_cpus": 0},
        {"num_cpus": 1},
        {"memory": 1000},
        {"resources": {"widget": 1}},
        {"max_restarts": 1, "max_task_retries": -1},
        {"max_concurrency": 2},
        {"max_pending_calls": 10},
        {"lifetime": "non_detached"},
        {"lifetime": None},
        {"scheduling_strategy": "SPREAD"},
        {"allow_out_of_order_execution": False},
        {"concurrency_groups": {"io": 2}},
    ],
    ids=repr,
)
def test_good_options_of_actors_run(options: dict[str, Any]) -> None:
    assert get(ray.remote(**options)(Plain).remote().ping.remote()) == "pong"


@beamlet_only
def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="num_cpus"):
        ray.remote(num_cpu=1)(plain)
    with pytest.raises(ValueError, match="did you mean"):
        ray.remote(max_restart=1)(Plain)


def test_env_vars_of_a_task_reach_it() -> None:
    @ray.remote(runtime_env={"env_vars": {"CONFORMANCE_VARIABLE": "set"}})
    def read() -> str | None:
        import os

        return os.environ.get("CONFORMANCE_VARIABLE")

    assert get(read.remote()) == "set"


def test_env_vars_of_a_task_do_not_stay_for_others() -> None:
    def read() -> str | None:
        import os

        return os.environ.get("CONFORMANCE_OTHER")

    with_it = ray.remote(runtime_env={"env_vars": {"CONFORMANCE_OTHER": "set"}})(read)
    assert get(with_it.remote()) == "set"
    assert get([ray.remote(read).remote() for _ in range(4)]) == [None] * 4


def test_a_misspelt_scheduling_strategy_is_a_value_error_by_the_call() -> None:
    with pytest.raises(ValueError):
        ray.remote(scheduling_strategy="SPRED")(plain).remote()


def test_more_pending_calls_than_allowed_is_an_error(gate: Any) -> None:
    @ray.remote(max_pending_calls=2)
    class Slow:
        def wait(self) -> str:
            gate.wait()
            return "passed"

    slow = Slow.remote()
    refs = [slow.wait.remote(), slow.wait.remote()]
    with pytest.raises(ray.exceptions.PendingCallsLimitExceeded):
        slow.wait.remote()
    gate.open()
    assert get(refs) == ["passed"] * 2
    assert get(slow.wait.remote()) == "passed"
