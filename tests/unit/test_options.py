"""Options are judged where they are written: right types of error, a helpful text, and exact amounts."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamlet.api import options as options_module
from beamlet.api.option_table import OPTIONS, options_of
from beamlet.api.options import (
    ActorOptions,
    MethodOptions,
    TaskOptions,
    validate_actor_options,
    validate_method_options,
    validate_task_options,
)


def task(**given: Any) -> TaskOptions:
    return validate_task_options(given, target="task f")


def actor(**given: Any) -> ActorOptions:
    return validate_actor_options(given, target="actor Counter")


def method(**given: Any) -> MethodOptions:
    return validate_method_options(given, target="method Counter.add")


class PlacementGroupSchedulingStrategy:
    """Recognised by name: the real one lives in a layer above."""


# --- the table ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "count"), [("t", 22), ("a", 27), ("m", 8)])
def test_as_many_options_as_ray(kind: str, count: int) -> None:
    assert len(list(options_of(kind))) == count


def test_single_calls_take_rays_keys() -> None:
    assert {option.name for option in options_of("c")} == {
        "num_returns",
        "concurrency_group",
        "max_task_retries",
        "retry_exceptions",
        "enable_task_events",
        "tensor_transport",
        "_generator_backpressure_num_objects",
        "name",
        "_labels",
    }


def test_every_option_reaches_its_record() -> None:
    for kind, record in (("t", TaskOptions()), ("a", ActorOptions()), ("m", MethodOptions())):
        for option in options_of(kind):
            assert hasattr(record, option.name.removeprefix("_")), option.name


def test_every_option_is_explained() -> None:
    assert all(option.meaning for option in OPTIONS.values())


# --- unknown options ----------------------------------------------------------------------------


def test_an_unknown_option_is_named_with_its_neighbour_and_the_valid_ones() -> None:
    with pytest.raises(
        ValueError, match=r"^unknown option 'num_cpu' for task f; did you mean 'num_cpus'\?"
    ) as caught:
        task(num_cpu=1)
    text = str(caught.value)
    assert "Invalid option keyword num_cpu for remote functions. Valid ones are [" in text
    assert "'max_retries'" in text
    assert "'max_restarts'" not in text


@pytest.mark.parametrize(
    ("validate", "given", "says"),
    [
        (task, {"max_restarts": 1}, "max_retries runs a task again"),
        (task, {"lifetime": "detached"}, "it is for actors"),
        (task, {"concurrency_group": "io"}, "it is for methods"),
        (actor, {"max_retries": 1}, "max_task_retries"),
        (actor, {"num_returns": 2}, "@method(num_returns="),
        (actor, {"max_restart": 1}, "did you mean 'max_restarts'?"),
        (actor, {"zzz": 1}, "for actors. Valid ones are ["),
    ],
)
def test_options_of_something_else_are_explained(validate: Any, given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="unknown option") as caught:
        validate(**given)
    assert says in str(caught.value)


def test_methods_raise_rays_types() -> None:
    with pytest.raises(AssertionError, match="did you mean 'num_returns'"):
        method(num_return=1)
    with pytest.raises(AssertionError, match="unknown option 'name'"):
        method(name="x")
    with pytest.raises(TypeError, match="did you mean 'num_returns'"):
        method().merge({"num_return": 1})


# --- types and values ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"num_cpus": "1"},
        {"num_returns": 1.0},
        {"num_returns": "x"},
        {"retry_exceptions": None},
        {"accelerator_type": 1},
        {"name": 1},
        {"runtime_env": 1},
        {"runtime_env": {"env_vars": 1}},
        {"runtime_env": {"env_vars": {"A": 1}}},
        {"scheduling_strategy": 1},
        {"label_selector": {"a": 1}},
        {"enable_task_events": None},
        {"_labels": 1},
        {"resources": {"a": "x"}},
        {"resources": {1: 1}},
        {"placement_group": 3},
        {"fallback_strategy": [1]},
    ],
    ids=repr,
)
def test_wrong_types_in_tasks(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError) as caught:
        task(**given)
    assert f"option {next(iter(given))}" in str(caught.value)
    assert "task f" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"num_cpus": -1}, "num_cpus=-1 of task f cannot be negative"),
        ({"num_cpus": 0.00001}, "precision"),
        ({"num_cpus": math.nan}, "finite"),
        ({"num_cpus": math.inf}, "finite"),
        ({"memory": -1}, "negative"),
        ({"num_returns": -1}, "non-negative"),
        ({"max_retries": -2}, "-1 (without limit)"),
        ({"max_calls": -1}, "0 or a positive integer"),
        ({"retry_exceptions": [1]}, "exception classes"),
        ({"retry_exceptions": [KeyboardInterrupt]}, "exception classes"),
        ({"placement_group": "mine"}, "must be a PlacementGroup, 'default' or None"),
        ({"resources": {"CPU": 1}}, "use num_cpus instead"),
        ({"resources": {"GPU": 1}}, "use num_gpus instead"),
        ({"resources": {"memory": 1}}, "use memory instead"),
        ({"resources": {"a": -1}}, "'a': -1, which cannot be negative"),
        ({"resources": {"a": 0.00001}}, "precision"),
        ({"object_store_memory": 1}, "actors only"),
        ({"scheduling_strategy": "spread"}, "did you mean 'SPREAD'?"),
        ({"label_selector": {"a": "in(b"}}, "'in(b'"),
        ({"label_selector": {"-": "b"}}, "not a valid label name"),
        ({"fallback_strategy": [{}]}, "label_selector"),
        ({"_generator_backpressure_num_objects": 0}, "positive"),
        ({"_num_objects_per_yield": 0}, "positive"),
    ],
    ids=repr,
)
def test_wrong_values_in_tasks(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="task f") as caught:
        task(**given)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"max_restarts": -2}, ValueError, "-1 (without limit)"),
        ({"max_restarts": 1.5}, TypeError, "'max_restarts' must be (int, None)"),
        ({"max_task_retries": -2}, ValueError, "-1 (without limit)"),
        ({"max_concurrency": -1}, ValueError, "0 or a positive"),
        ({"max_pending_calls": -2}, ValueError, "-1 (without limit)"),
        ({"lifetime": "detach"}, ValueError, "did you mean 'detached'?"),
        ({"namespace": ""}, ValueError, "empty"),
        ({"name": ""}, ValueError, "empty"),
        ({"get_if_exists": True}, ValueError, "needs a name"),
        ({"get_if_exists": None}, TypeError, "get_if_exists"),
        ({"object_store_memory": -5}, ValueError, "0 or a positive"),
        ({"concurrency_groups": {"io": 0}}, ValueError, "'io': 0"),
        ({"concurrency_groups": {"io": "x"}}, TypeError, "'io': 'x'"),
        ({"concurrency_groups": ["io"]}, TypeError, "lists 'io'"),
        ({"_actor_generator_backpressure_num_objects": 0}, ValueError, "positive"),
    ],
    ids=repr,
)
def test_wrong_actor_options(given: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        actor(**given)
    assert says in str(caught.value)
    assert "actor Counter" in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"num_cpus": None, "num_gpus": 1.5, "memory": 1e9, "resources": {"a": 0.0001, "b": 2}},
        {"num_cpus": True},
        {"max_retries": -1, "retry_exceptions": [ValueError, OSError]},
        {"num_returns": None, "max_retries": None, "max_calls": None, "name": None},
        {"scheduling_strategy": "SPREAD"},
        {"scheduling_strategy": PlacementGroupSchedulingStrategy()},
        {"label_selector": {"ray.io/zone": "in(a, b)", "gpu": "!in(x,y)", "disk": "!hdd", "os": "linux"}},
        {"fallback_strategy": [{"label_selector": {"a": "b"}}]},
        {"runtime_env": {"env_vars": {"A": "1"}, "unknown_field": 3}},
        {"_generator_backpressure_num_objects": -1, "_labels": {"team": "x"}},
    ],
    ids=repr,
)
def test_good_task_options(given: dict[str, Any]) -> None:
    assert isinstance(task(**given), TaskOptions)


def test_numbers_of_other_libraries_are_numbers() -> None:
    options = task(num_cpus=np.float32(0.5), max_retries=np.int64(2), num_gpus=Fraction(1, 4))
    assert options.demand() == {"CPU": 5000, "GPU": 2500}
    assert type(options.max_retries) is int


def test_lists_of_groups_from_ray_1() -> None:
    groups = [{"name": "io", "max_concurrency": 2}, {"name": "compute", "max_concurrency": 4}]
    assert actor(concurrency_groups=groups).concurrency_groups == {"io": 2, "compute": 4}


# --- what comes out -----------------------------------------------------------------------------


def test_defaults_of_a_task() -> None:
    options = task()
    assert options.demand() == {"CPU": 10_000}
    assert (options.num_returns, options.max_retries, options.max_calls) == (1, 3, 0)
    assert options == TaskOptions()


def test_demand_adds_up_exactly() -> None:
    options = task(num_cpus=0.1, num_gpus=0.5, memory=100, resources={"a": 2}, accelerator_type="T4")
    assert options.demand() == {
        "CPU": 1000,
        "GPU": 5000,
        "memory": 1_000_000,
        "a": 20_000,
        "accelerator_type:T4": 10,
    }


@given(st.floats(min_value=0.0001, max_value=1e6))
def test_what_was_asked_is_what_is_held(cpus: float) -> None:
    assert task(num_cpus=cpus).demand()["CPU"] == round(cpus * 10_000)


def test_gpus_take_a_fresh_process_per_call_unless_told_otherwise() -> None:
    assert task(num_gpus=1).max_calls == 1
    assert task(num_gpus=1, max_calls=5).max_calls == 5
    assert task(num_gpus=0).max_calls == 0


@pytest.mark.parametrize(
    ("given", "held", "to_place"),
    [
        ({}, {}, {"CPU": 10_000}),
        ({"memory": 1}, {"memory": 10_000}, {"CPU": 10_000, "memory": 10_000}),
        ({"num_cpus": 0}, {}, {}),
        ({"num_cpus": 2}, {"CPU": 20_000}, {"CPU": 20_000}),
        ({"num_gpus": 1}, {"CPU": 10_000, "GPU": 10_000}, {"CPU": 10_000, "GPU": 10_000}),
        ({"resources": {"a": 1}}, {"CPU": 10_000, "a": 10_000}, {"CPU": 10_000, "a": 10_000}),
        ({"resources": {"a": 1}, "num_cpus": 0}, {"a": 10_000}, {"a": 10_000}),
    ],
    ids=repr,
)
def test_what_actors_hold(given: dict[str, Any], held: dict[str, int], to_place: dict[str, int]) -> None:
    options = actor(**given)
    assert options.demand() == held
    assert options.placement_demand() == to_place


def test_generators_stream_by_default() -> None:
    assert validate_task_options({}, is_generator=True).num_returns == "streaming"
    assert validate_task_options({"num_returns": 3}, is_generator=True).num_returns == 3
    assert validate_method_options({}, is_generator=True).num_returns == "streaming"
    with pytest.raises(ValueError, match="needs a generator function"):
        validate_task_options({"num_returns": "streaming"}, is_generator=False)


def test_records_travel() -> None:
    for options in (
        task(num_cpus=2, runtime_env={"env_vars": {"A": "1"}}),
        actor(name="x"),
        method(num_returns=2),
    ):
        assert pickle.loads(cloudpickle.dumps(options)) == options


# --- .options() ---------------------------------------------------------------------------------


def test_merge_keeps_what_it_does_not_name() -> None:
    options = task(num_cpus=2, name="a", resources={"r": 1})
    merged = options.merge({"name": "b"})
    assert merged.demand() == {"CPU": 20_000, "r": 10_000}
    assert (options.name, merged.name) == ("a", "b")
    assert merged.merge({"num_cpus": None}).num_cpus == 1


def test_merge_is_checked_again() -> None:
    with pytest.raises(ValueError, match="unknown option 'num_cpu' for task f"):
        task().merge({"num_cpu": 1}, target="task f")
    with pytest.raises(ValueError, match="needs a name"):
        actor().merge({"get_if_exists": True})
    assert actor().merge({"get_if_exists": True, "name": "x"}).get_if_exists
    assert actor(name="x").merge({"get_if_exists": True}).get_if_exists


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (TaskOptions(), {"max_calls": 1}),
        (TaskOptions(), {"_num_objects_per_yield": 2}),
        (ActorOptions(), {"concurrency_groups": {"io": 1}}),
        (MethodOptions(), {"_num_objects_per_yield": 2}),
    ],
    ids=repr,
)
def test_some_options_belong_to_the_decorator(options: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not supported in \.options\(\)"):
        options.merge(given)


def test_merging_methods() -> None:
    options = method(num_returns=2, max_task_retries=3)
    merged = options.merge({"name": "shown"})
    assert (merged.num_returns, merged.max_task_retries, merged.name) == (2, 3, "shown")
    assert options.merge({"num_returns": 1}).num_returns == 1


OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "num_cpus": st.one_of(st.none(), st.integers(0, 8)),
        "max_retries": st.integers(-1, 5),
        "name": st.one_of(st.none(), st.text()),
        "resources": st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)),
    },
)


@given(OVERRIDES, OVERRIDES)
def test_merging_is_validating_the_union(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert validate_task_options(first).merge(second) == validate_task_options({**first, **second})


# --- old names ----------------------------------------------------------------------------------


def test_names_of_ray_1_are_understood() -> None:
    with pytest.warns(DeprecationWarning, match="num_return_vals of task f is now num_returns"):
        assert task(num_return_vals=3).num_returns == 3
    with pytest.warns(DeprecationWarning, match="max_reconstructions"):
        assert actor(max_reconstructions=2).max_restarts == 2
    with pytest.warns(DeprecationWarning, match="lifetime"):
        assert actor(detached=True).detached
    with pytest.warns(DeprecationWarning, match="runtime_env"):
        assert task(override_environment_variables={"A": "1"}).runtime_env == {"env_vars": {"A": "1"}}
    with pytest.warns(DeprecationWarning, match="no longer has any effect"):
        assert task(is_direct_call=True) == TaskOptions()


def test_old_names_do_not_warn_twice() -> None:
    with pytest.warns(DeprecationWarning, match="num_return_vals"):
        options = task(num_return_vals=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert options.merge({"num_cpus": 2}).num_returns == 3


def test_old_and_new_name_together_are_refused() -> None:
    with pytest.raises(ValueError, match="give only num_returns"):
        task(num_return_vals=3, num_returns=2)


def test_old_names_of_the_other_kind_are_unknown() -> None:
    with pytest.raises(ValueError, match="unknown option 'detached'"):
        task(detached=True)


def test_the_warning_points_at_the_users_line() -> None:
    with pytest.warns(DeprecationWarning, match="num_return_vals") as caught:
        task(num_return_vals=3)
    assert Path(caught[0].filename).name == Path(__file__).name


def test_placement_group_is_old_and_excludes_a_strategy() -> None:
    class PlacementGroup: ...

    with pytest.warns(DeprecationWarning, match="PlacementGroupSchedulingStrategy"):
        options = task(placement_group=PlacementGroup(), placement_group_bundle_index=1)
    assert options.placement_group_bundle_index == 1
    assert task(placement_group="default").placement_group == "default"
    assert task(placement_group=None, scheduling_strategy="SPREAD").placement_group is None
    with pytest.raises(ValueError, match="not both"):
        task(placement_group=PlacementGroup(), scheduling_strategy="SPREAD")


def test_actors_may_still_name_object_store_memory() -> None:
    with pytest.warns(DeprecationWarning, match="reserves nothing"):
        assert actor(object_store_memory=5).demand() == {}


def test_selectors_that_select_nothing_are_pointed_out_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options_module, "_told", set())
    task(label_selector={"zone": "a"})
    task(label_selector={"zone": "a"})
    actor(label_selector={})
    (told,) = caplog.records
    assert told.getMessage().startswith("option label_selector of task f has no effect")


@pytest.mark.parametrize(
    ("validate", "option", "value", "why"),
    [
        (validate_task_options, "label_selector", {"zone": "a"}, "nodes have no labels"),
        (validate_actor_options, "enable_tensor_transport", True, "tensors travel as other values do"),
        (validate_method_options, "tensor_transport", "nccl", "tensors travel as other values do"),
    ],
)
def test_an_option_without_effect_is_told_once(
    validate: Callable[..., Any],
    option: str,
    value: Any,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(options_module, "_told", set())
    validate({option: value})
    validate({option: value})
    (said,) = caplog.messages
    assert f"option {option} of" in said
    assert f"has no effect in this release: {why}" in said
