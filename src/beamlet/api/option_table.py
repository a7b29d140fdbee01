"""● The table of options: what each is called, where it is valid, which values it takes, what it means.

Kinds are letters: t a task (``@remote`` on a function), a an actor (on a class), m ``@method``, c a single
call of a method (``handle.m.options``).  Ray 1.x names that map onto today's are translated here, too.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, NoReturn

from beamlet.api import option_rules as rules
from beamlet.api.runtime_env import check_fields
from beamlet.base.our_folder import OUR_FOLDER

_NONE = type(None)


class Option(NamedTuple):
    name: str
    #: Letters of the kinds it is valid for.
    where: str
    types: tuple[type, ...]
    check: rules.Check | None
    meaning: str


def _table(*options: Option) -> Mapping[str, Option]:
    return MappingProxyType({option.name: option for option in options})


_BOOL: Final = (bool,)
_INT: Final = (int, _NONE)
_NUMBER: Final = (int, float, _NONE)
_STR: Final = (str, _NONE)
_DICT: Final = (dict, _NONE)
_ANY: Final = (object,)

OPTIONS = _table(
    Option("num_cpus", "ta", _NUMBER, rules.amount, "CPUs held; fractions allowed; not enforced"),
    Option("num_gpus", "ta", _NUMBER, rules.amount, "GPUs held; sets CUDA_VISIBLE_DEVICES"),
    Option("memory", "ta", _NUMBER, rules.byte_count, "bytes of heap reserved"),
    Option("object_store_memory", "ta", _INT, rules.count, "actors: no effect; tasks may not name it"),
    Option("resources", "ta", _DICT, rules.custom_resources, "custom resources held"),
    Option("accelerator_type", "ta", _STR, rules.text, "only nodes with this accelerator"),
    Option("name", "tac", _STR, rules.text, "task: for display; actor: for get_actor()"),
    Option("runtime_env", "ta", _DICT, check_fields, "environment of the worker process"),
    Option("scheduling_strategy", "ta", _ANY, rules.scheduling_strategy, "where to run"),
    Option(
        "label_selector", "ta", _DICT, rules.label_selector, "no effect in this release: nodes have no labels"
    ),
    Option("fallback_strategy", "ta", (list, _NONE), rules.fallback_strategy, "no effect in this release"),
    Option("enable_task_events", "tamc", _BOOL, None, "report to the timeline"),
    Option(
        "_labels",
        "tac",
        _DICT,
        rules.text_map,
        "labels of the task or actor itself; no effect in this release",
    ),
    Option("placement_group", "ta", _ANY, rules.placement_group, "old form of scheduling_strategy"),
    Option("placement_group_bundle_index", "ta", (int,), rules.count_or_infinite, "old form, see above"),
    Option("placement_group_capture_child_tasks", "ta", (bool, _NONE), None, "old form, see above"),
    # tasks
    Option("num_returns", "tmc", (int, str, _NONE), rules.return_count, "refs that a call returns"),
    Option("max_retries", "t", _INT, rules.count_or_infinite, "runs again after crashes"),
    Option("retry_exceptions", "tmc", (bool, list, tuple), rules.retry_exceptions, "retried errors"),
    Option("max_calls", "t", _INT, rules.count, "calls before the worker is replaced; 0: no limit"),
    Option(
        "_generator_backpressure_num_objects",
        "tmc",
        _INT,
        rules.positive_or_off,
        "unread items before a pause",
    ),
    Option("_num_objects_per_yield", "tm", _INT, rules.positive, "refs per yielded tuple"),
    # actors
    Option("max_restarts", "a", _INT, rules.count_or_infinite, "restarts after crashes"),
    Option("max_task_retries", "amc", _INT, rules.count_or_infinite, "calls sent again after crashes"),
    Option("max_concurrency", "a", _INT, rules.count, "calls at a time: threads, or coroutines"),
    Option(
        "concurrency_groups", "a", (dict, list, _NONE), rules.concurrency_groups, "{group: calls at a time}"
    ),
    Option("lifetime", "a", _STR, rules.one_of("detached", "non_detached"), "detached: outlives its driver"),
    Option("namespace", "a", _STR, rules.not_empty, "scope of the name"),
    Option("get_if_exists", "a", _BOOL, None, "the actor of that name, if there is one"),
    Option(
        "max_pending_calls",
        "a",
        _INT,
        rules.count_or_infinite,
        "unanswered calls per handle; -1 or 0: any number",
    ),
    Option("allow_out_of_order_execution", "a", (bool, _NONE), None, "calls may overtake one another"),
    Option("enable_tensor_transport", "a", (bool, _NONE), None, "tensors from device to device"),
    Option(
        "_actor_generator_backpressure_num_objects",
        "a",
        _INT,
        rules.positive_or_off,
        "the same, over all calls",
    ),
    # methods
    Option("concurrency_group", "mc", _STR, rules.text, "the group the method runs in"),
    Option("tensor_transport", "mc", _STR, rules.text, "how returned tensors travel"),
)

#: Ray 1.x → today, with the same meaning.
_RENAMED = {
    "num_return_vals": "num_returns",
    "max_reconstructions": "max_restarts",
    "execute_out_of_order": "allow_out_of_order_execution",
}
#: Ray 1.x, without any meaning today.
_IGNORED = frozenset({"is_direct_call", "is_asyncio", "_metadata"})
_OLD_ENV_VARS = ("override_environment_variables", "worker_env")

#: (option, kind it was given to) → what its writer wants instead.
_INSTEAD = {
    ("max_retries", "a"): "max_restarts restarts an actor, max_task_retries sends its calls again",
    ("max_restarts", "t"): "max_retries runs a task again",
    ("max_task_retries", "t"): "max_retries runs a task again",
    ("num_returns", "a"): "set it per method: @method(num_returns=…)",
    ("detached", "t"): "only actors can outlive their driver",
    ("retry_exceptions", "a"): "set it per method: @method(retry_exceptions=…)",
}


def options_of(kind: str) -> Iterable[Option]:
    """The rows valid for a kind: for documentation and for ``_<option>`` attributes."""
    return (option for option in OPTIONS.values() if kind in option.where)


def refuse_unknown(name: str, kind: str, target: str) -> NoReturn:
    """Raise what Ray raises for this kind, naming the nearest valid option and all of them."""
    valid = [option.name for option in options_of(kind)]
    advice = _INSTEAD.get((name, kind), "")
    if name in OPTIONS and not advice:
        owners = {"t": "tasks", "a": "actors", "m": "methods", "c": "single calls of methods"}
        advice = "it is for " + " and ".join(owners[letter] for letter in OPTIONS[name].where)
    hint = f"; {advice}" if advice else rules.nearest(name, valid)
    label = {"t": "remote functions", "a": "actors"}.get(kind, "methods")
    error = {"m": AssertionError, "c": TypeError}.get(kind, ValueError)
    end = "" if hint.endswith("?") else "."
    raise error(
        f"unknown option {name!r} for {target}{hint}{end} "
        f"(Invalid option keyword {name} for {label}. Valid ones are {valid})"
    )


# --- Ray 1.x ------------------------------------------------------------------------------------


def modernise(given: Mapping[str, Any], kind: str, target: str) -> dict[str, Any]:
    """``given`` under today's names."""
    modern = dict(given)
    for name in given:
        if name in OPTIONS:
            continue
        if name in _IGNORED:
            del modern[name]
            deprecated(f"option {name} of {target} no longer has any effect; leave it out")
        elif (new := _RENAMED.get(name)) and kind in OPTIONS[new].where:
            _move(modern, name, {new: modern[name]}, target)
        elif name == "detached" and kind == "a":
            _move(modern, name, {"lifetime": "detached" if modern[name] else None}, target)
        elif name in _OLD_ENV_VARS and kind in "ta":
            _move(modern, name, {"runtime_env": {"env_vars": modern[name]}}, target)
    return modern


def _move(modern: dict[str, Any], old: str, replacement: dict[str, Any], target: str) -> None:
    (new,) = replacement
    if new in modern:
        raise ValueError(f"{target}: {old} is the old name of {new}; give only {new}")
    del modern[old]
    modern.update(replacement)
    deprecated(f"option {old} of {target} is now {new}")


def deprecated(message: str) -> None:
    """Warn at the user's line, however deep below it this is called."""
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(OUR_FOLDER):
        frame = frame.f_back
        level += 1
    warnings.warn(message, DeprecationWarning, stacklevel=level)
