"""Every public function checks every argument at the call, by one table: nothing is missing from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.support.wrong_values import ZOO

import beamlet
from beamlet import util
from beamlet.api.argument_table import FUNCTIONS, checked
from beamlet.api.init_options import _SETTERS
from beamlet.api.init_options import checked as checked_init
from beamlet.api.option_rules import brief
from beamlet.api.option_table import options_of
from beamlet.api.options import validate_actor_options, validate_method_options, validate_task_options
from beamlet.api.runtime_env import RuntimeEnv
from beamlet.experimental import internal_kv
from beamlet.util.queue import Queue

#: Public, callable, and not in the table; why.
ELSEWHERE = {
    # options: option_table.py and init_options.py
    "init", "method", "remote",
    # always raise, or take nothing
    "get_gpu_ids", "get_runtime_context", "is_initialized", "nodes",
    "available_resources", "cluster_resources",
    "util.disable_log_once_globally", "util.enable_periodic_logging", "util.get_current_placement_group",
    "util.get_placement_group", "util.placement_group", "util.placement_group_table",
    "util.remove_placement_group",
    "util.ActorPool.has_next", "util.ActorPool.has_free", "util.ActorPool.pop_idle",
    "util.queue.Queue.size", "util.queue.Queue.qsize", "util.queue.Queue.empty", "util.queue.Queue.full",
    "experimental.internal_kv._internal_kv_initialized",
    # through put() and get()
    "util.queue.Queue.put_nowait", "util.queue.Queue.get_nowait",
    "util.queue.Queue.put_async", "util.queue.Queue.get_async",
}  # fmt: skip


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    for prefix, module in (("", beamlet), ("util.", util)):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value):
                yield prefix + name, value
    for name, value in vars(internal_kv).items():
        if name.startswith("_internal_kv"):
            yield f"experimental.internal_kv.{name}", value
    for prefix, cls in (("util.ActorPool", util.ActorPool), ("util.queue.Queue", Queue)):
        yield prefix, cls
        for name, value in vars(cls).items():
            if not name.startswith("_") and inspect.isfunction(value):
                yield f"{prefix}.{name}", value


PUBLIC = dict(public_functions())


def refusal_of(call: Callable[[], Any]) -> Exception | None:
    """The plain TypeError or ValueError that the call raises; anything else is a failure."""
    try:
        call()
    except Exception as error:
        if type(error) not in (TypeError, ValueError):
            raise
        return error
    return None


def test_the_table_has_every_public_function_and_no_other() -> None:
    assert PUBLIC.keys() - ELSEWHERE == FUNCTIONS.keys()
    assert PUBLIC.keys() >= ELSEWHERE


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_what_the_table_says(name: str) -> None:
    parameters = inspect.signature(PUBLIC[name]).parameters
    named = [p.name for p in parameters.values() if p.kind is not p.VAR_KEYWORD and p.name != "self"]
    assert named == list(FUNCTIONS[name])


RULES = [(f, a) for f, arguments in FUNCTIONS.items() for a, rule in arguments.items() if rule.check]


@pytest.mark.parametrize(("function", "argument"), RULES)
def test_wrong_values_are_named(function: str, argument: str) -> None:
    """Each value is used, or refused in a sentence; no rule lets any other exception out."""
    refusals = [
        (value, refusal_of(lambda value=value: checked(function, argument, value))) for value in ZOO.values()
    ]
    told = [(value, error) for value, error in refusals if error is not None]
    assert told, "a rule that refuses nothing is none"
    name = function.removeprefix("util.")
    for value, error in told:
        assert str(error).startswith(f"{name}({argument}={brief(value)}): {argument} ")


@pytest.mark.parametrize(
    ("function", "argument", "value", "error", "said"),
    [
        ("get_actor", "name", 5, TypeError, "get_actor(name=5): name must be a str, not an int"),
        ("get_actor", "name", "", ValueError, "name must not be empty"),
        ("get_actor", "namespace", "\ud800", ValueError, "lone surrogate"),
        (
            "kill",
            "no_restart",
            "no",
            TypeError,
            "kill(no_restart='no'): no_restart must be a bool, not a str",
        ),
        ("get", "timeout", "5", TypeError, "timeout must be a number, not a str"),
        ("get", "timeout", -2, ValueError, "None, -1 or at least 0"),
        ("wait", "timeout", float("nan"), ValueError, "not NaN"),
        ("wait", "num_returns", True, TypeError, "an int, not a bool"),
        ("wait", "num_returns", 0, ValueError, "at least 1"),
        ("util.list_named_actors", "all_namespaces", None, TypeError, "a bool, not None"),
        ("util.ActorPool", "actors", [3], TypeError, "must contain actors, but element 0 is an int"),
    ],
)
def test_messages(function: str, argument: str, value: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        checked(function, argument, value)
    assert said in str(caught.value)


def test_what_other_libraries_call_numbers_and_bools_is_taken() -> None:
    assert checked("wait", "num_returns", np.int64(2)) == 2
    assert checked("get", "timeout", np.float32(0.5)) == 0.5
    assert checked("kill", "no_restart", np.True_) is True
    assert checked("get", "timeout", float("inf")) is None
    assert checked("get", "timeout", 10**400) is None


# --- options ------------------------------------------------------------------------------------

VALIDATE = {"t": validate_task_options, "a": validate_actor_options, "m": validate_method_options}
OPTION_CASES = [(kind, option.name) for kind in VALIDATE for option in options_of(kind)]


@pytest.mark.parametrize(("kind", "option"), OPTION_CASES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_options_are_taken_or_refused_by_name(kind: str, option: str) -> None:
    for value in ZOO.values():
        error = refusal_of(lambda value=value: VALIDATE[kind]({option: value}, target="thing"))
        assert error is None or (option.lstrip("_") in str(error) and "thing" in str(error))


@pytest.mark.parametrize(
    ("kind", "given", "error", "said"),
    [
        ("a", {"name": "\ud800"}, ValueError, "lone surrogate"),
        ("a", {"namespace": "a\0b"}, ValueError, "NUL"),
        ("t", {"num_cpus": 10**30}, ValueError, "at most"),
        ("t", {"memory": 10**30}, ValueError, "at most"),
        ("a", {"max_restarts": 10**30}, ValueError, "at most"),
        ("a", {"max_concurrency": 10**30}, ValueError, "at most"),
        ("a", {"max_pending_calls": 10**30}, ValueError, "at most"),
        ("t", {"num_returns": 10**30}, ValueError, "'streaming'"),
        ("t", {"num_returns": True}, TypeError, "not a bool"),
        ("t", {"resources": {"\ud800": 1}}, ValueError, "lone surrogate"),
        ("t", {"runtime_env": {"env_vars": {"A": "\ud800"}}}, ValueError, "stands for no byte"),
        ("t", {"runtime_env": {"env_vars": {"A=B": "1"}}}, ValueError, "'='"),
        ("t", {"runtime_env": {"env_vars": {"A": "a\0b"}}}, ValueError, "NUL"),
    ],
)
def test_what_cannot_travel_is_refused(
    kind: str, given: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        VALIDATE[kind](given, target="thing")
    assert said in str(caught.value)


def test_a_runtime_env_of_its_own_is_judged_alike() -> None:
    with pytest.raises(ValueError, match="lone surrogate"):
        RuntimeEnv(env_vars={"A": "\ud800"})
    with pytest.raises(ValueError, match="'='"):
        RuntimeEnv(env_vars={"A=B": "1"})


# --- init ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["address", *_SETTERS])
def test_arguments_of_init_are_taken_or_refused_by_name(argument: str) -> None:
    for value in ZOO.values():
        if argument == "address":
            error = refusal_of(lambda value=value: checked_init(value, {}, {}))
        else:
            error = refusal_of(lambda value=value: checked_init(None, {argument: value}, {}))
        assert error is None or argument in str(error)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"num_cpus": 10**30}, ValueError, "at most"),
        ({"num_cpus": float("nan")}, ValueError, "finite"),
        ({"preload": [3]}, TypeError, "must contain names of modules, but contains 3"),
        ({"preload": "json"}, TypeError, "a list of module names, not a str"),
        ({"preload": ["os path"]}, ValueError, "'os path' cannot be one"),
        ({"resources": {"a": "x"}}, TypeError, "must contain numbers"),
        ({"logging_level": "loud"}, ValueError, "logging.INFO"),
        ({"runtime_env": {"env_vars": {"A": "\ud800"}}}, ValueError, "lone surrogate"),
    ],
)
def test_wrong_arguments_of_init(given: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        checked_init(None, given, {})
    assert said in str(caught.value)
