"""● Options of tasks, actors and methods: what users write is checked at once, and kept in typed records.

    validate_*        a dict as users write it → checked options, or an error that names the option
    TaskOptions …     what the rest of Beamlet reads; ``merge`` is what ``.options(...)`` does

Errors have Ray's types: unknown option → ValueError (AssertionError in ``@method``, TypeError in
``handle.m.options``); wrong type → TypeError; wrong value → ValueError.
What is valid where stands in option_table.py.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from beamlet.api import option_rules as rules
from beamlet.api.option_table import OPTIONS, Option, deprecated, modernise, refuse_unknown
from beamlet.base.resources import CPU, GPU, MEMORY, Amounts, from_floats

TASK_MAX_RETRIES_DEFAULT = 3
#: What ``accelerator_type=`` adds to the demand, so that only nodes that have it match.
ACCELERATOR_SHARE = 0.001
#: Belong to the function or class, not to one use of it.
_FIXED_AT_DECORATION = ("max_calls", "_num_objects_per_yield", "concurrency_groups")


# --- what the rest of Beamlet reads -------------------------------------------------------------


class _Common(msgspec.Struct, frozen=True, kw_only=True):
    """What tasks and actors share: what they need and where they may run."""

    num_cpus: float | None = None
    num_gpus: float = 0
    memory: int = 0
    object_store_memory: int = 0
    resources: Mapping[str, float] = msgspec.field(default_factory=dict)
    accelerator_type: str | None = None
    name: str = ""
    runtime_env: Mapping[str, Any] = msgspec.field(default_factory=dict)
    scheduling_strategy: Any = None
    label_selector: Mapping[str, str] = msgspec.field(default_factory=dict)
    fallback_strategy: tuple[Mapping[str, Any], ...] = ()
    enable_task_events: bool = True
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    placement_group: Any = "default"
    placement_group_bundle_index: int = -1
    placement_group_capture_child_tasks: bool | None = None
    #: As the user gave them, under today's names: what merge() starts from.
    given: Mapping[str, Any] = msgspec.field(default_factory=dict)

    def _amounts(self, cpus: float) -> Amounts:
        amounts = {CPU: cpus, GPU: self.num_gpus, MEMORY: self.memory, **self.resources}
        if self.accelerator_type:
            amounts[f"accelerator_type:{self.accelerator_type}"] = ACCELERATOR_SHARE
        return from_floats(amounts)


class TaskOptions(_Common, frozen=True, kw_only=True):
    num_cpus: float = 1
    num_returns: int | str = 1
    #: -1: without limit.
    max_retries: int = TASK_MAX_RETRIES_DEFAULT
    retry_exceptions: bool | tuple[type[Exception], ...] = False
    #: 0: without limit.
    max_calls: int = 0
    generator_backpressure_num_objects: int = -1
    num_objects_per_yield: int = 1

    def demand(self) -> Amounts:
        """What a worker must hold to run the task."""
        return self._amounts(self.num_cpus)

    def merge(
        self, given: Mapping[str, Any], *, target: str = "task", is_generator: bool | None = None
    ) -> TaskOptions:
        """These with ``given`` on top: what ``f.options(**given)`` means."""
        _refuse_fixed(given, self.given, target)
        merged = {**self.given, **modernise(given, "t", target)}
        return validate_task_options(merged, target=target, is_generator=is_generator)


class ActorOptions(_Common, frozen=True, kw_only=True):
    #: -1: without limit, here and below.
    max_restarts: int = 0
    max_task_retries: int = 0
    #: None: 1, or 1000 for an asyncio actor.
    max_concurrency: int | None = None
    concurrency_groups: Mapping[str, int] = msgspec.field(default_factory=dict)
    lifetime: str | None = None
    namespace: str | None = None
    get_if_exists: bool = False
    max_pending_calls: int = -1
    allow_out_of_order_execution: bool | None = None
    enable_tensor_transport: bool | None = None
    actor_generator_backpressure_num_objects: int = -1

    @property
    def detached(self) -> bool:
        return self.lifetime == "detached"

    def demand(self) -> Amounts:
        """What it holds while it lives: unless told otherwise nothing, so actors may outnumber CPUs."""
        return self._amounts(self._cpus(alone=0))

    def placement_demand(self) -> Amounts:
        """What a node must have free to start it: a CPU, where none was asked for."""
        return self._amounts(self._cpus(alone=1))

    def _cpus(self, alone: float) -> float:
        if self.num_cpus is not None:
            return self.num_cpus
        holds_more = self.num_gpus or self.resources or self.accelerator_type
        return 1 if holds_more else alone

    def merge(self, given: Mapping[str, Any], *, target: str = "actor") -> ActorOptions:
        """These with ``given`` on top: what ``Cls.options(**given)`` means."""
        _refuse_fixed(given, self.given, target)
        return validate_actor_options({**self.given, **modernise(given, "a", target)}, target=target)


class MethodOptions(msgspec.Struct, frozen=True, kw_only=True):
    num_returns: int | str = 1
    concurrency_group: str | None = None
    #: None: the actor's value, here and below.
    max_task_retries: int | None = None
    retry_exceptions: bool | tuple[type[Exception], ...] = False
    enable_task_events: bool | None = None
    tensor_transport: str | None = None
    generator_backpressure_num_objects: int = -1
    num_objects_per_yield: int = 1
    name: str = ""
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    given: Mapping[str, Any] = msgspec.field(default_factory=dict)

    def merge(
        self, given: Mapping[str, Any], *, target: str = "method", is_generator: bool | None = None
    ) -> MethodOptions:
        """These with ``given`` on top: what ``handle.m.options(**given)`` means."""
        _refuse_fixed(given, self.given, target)
        checked = _checked(modernise(given, "c", target), "c", target)
        return _method_options({**self.given, **checked}, target, is_generator)


# --- from what users write ----------------------------------------------------------------------


def validate_task_options(
    given: Mapping[str, Any], *, target: str = "task", is_generator: bool | None = None
) -> TaskOptions:
    """Options of ``@remote(**given)`` on a function.

    target: what to call it in messages, as in "task f". is_generator: None where nobody knows.
    """
    modern = modernise(given, "t", target)
    checked = _checked(modern, "t", target)
    if checked.get("object_store_memory") is not None:
        raise ValueError(
            f"option object_store_memory of {target} is for actors only; tasks cannot reserve it"
        )
    if checked.get("num_gpus") and checked.get("max_calls") is None:
        checked["max_calls"] = 1  # a fresh process per call, since a GPU's memory is freed with its process
    _check_placement(checked, target)
    _check_returns(checked, target, is_generator)
    return TaskOptions(**_fields(checked), given=modern)


def validate_actor_options(given: Mapping[str, Any], *, target: str = "actor") -> ActorOptions:
    """Options of ``@remote(**given)`` on a class; target as in "actor Counter"."""
    modern = modernise(given, "a", target)
    checked = _checked(modern, "a", target)
    if checked.get("object_store_memory") is not None:
        deprecated(f"option object_store_memory of {target} reserves nothing; leave it out")
    if checked.get("name") == "":
        raise ValueError(f"option name of {target} must not be empty; leave it out for none")
    if checked.get("get_if_exists") and checked.get("name") is None:
        raise ValueError(f"option get_if_exists of {target} needs a name, to look the actor up by")
    if checked.get("max_concurrency") == 0:
        checked["max_concurrency"] = None
    _check_placement(checked, target)
    return ActorOptions(**_fields(checked), given=modern)


def validate_method_options(
    given: Mapping[str, Any], *, target: str = "method", is_generator: bool | None = None
) -> MethodOptions:
    """Options of ``@method(**given)``; target as in "method Counter.increment"."""
    return _method_options(_checked(modernise(given, "m", target), "m", target), target, is_generator)


def _method_options(checked: dict[str, Any], target: str, is_generator: bool | None) -> MethodOptions:
    kept = dict(checked)
    _check_returns(checked, target, is_generator)
    return MethodOptions(**_fields(checked), given=kept)


def _checked(modern: Mapping[str, Any], kind: str, target: str) -> dict[str, Any]:
    checked = {name: _check(name, value, kind, target) for name, value in modern.items()}
    _tell_of_what_is_ignored(checked, target)
    return checked


def _fields(checked: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments: None means the default, private names lose their underscore."""
    fields = {name.removeprefix("_"): value for name, value in checked.items() if value is not None}
    if "placement_group" in checked:
        fields["placement_group"] = checked["placement_group"]  # None: outside the parent's group
    if "fallback_strategy" in fields:
        fields["fallback_strategy"] = tuple(fields["fallback_strategy"])
    return fields


def _check(name: str, value: Any, kind: str, target: str) -> Any:
    option = OPTIONS.get(name)
    if option is None or kind not in option.where:
        refuse_unknown(name, kind, target)
    if not isinstance(value, option.types):
        value = _coerced(option, value, target)
    if value is None or option.check is None:
        return value
    try:
        return option.check(value)
    except (TypeError, ValueError) as problem:
        raise type(problem)(f"option {name}={rules.brief(value)} of {target} {problem}") from None


def _coerced(option: Option, value: Any, target: str) -> Any:
    """Numbers of other libraries (numpy's, say) are numbers; everything else is a TypeError."""
    with suppress(Exception):  # what these raise is the value's own code, or says less than we do
        if int in option.types and hasattr(value, "__index__"):
            return operator.index(value)
        if float in option.types and hasattr(value, "__float__"):
            return float(value)
    expected = ", ".join(kind.__name__.replace("NoneType", "None") for kind in option.types)
    raise TypeError(
        f"option {option.name}={rules.brief(value)} of {target} ({option.meaning}): The type of keyword "
        f"'{option.name}' must be ({expected}), but received type {type(value)}"
    )


def _check_placement(checked: Mapping[str, Any], target: str) -> None:
    group = checked.get("placement_group", "default")
    if group is None or group == "default":
        return
    if checked.get("scheduling_strategy") is not None:
        raise ValueError(f"{target}: give scheduling_strategy or placement_group, not both")
    deprecated(
        f"option placement_group of {target} is old; write "
        "scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=…)"
    )


_NO_LABELS = "nodes have no labels, and there is one node"
_NO_TRANSPORTS = "tensors travel as other values do"
#: What a program may count on, and why nothing comes of it.
_WITHOUT_EFFECT = {
    "label_selector": _NO_LABELS,
    "fallback_strategy": _NO_LABELS,
    "enable_tensor_transport": _NO_TRANSPORTS,
    "tensor_transport": _NO_TRANSPORTS,
}


def _tell_of_what_is_ignored(checked: Mapping[str, Any], target: str) -> None:
    for name, why in _WITHOUT_EFFECT.items():
        if checked.get(name) and name not in _told:
            _told.add(name)
            logging.getLogger("beamlet").warning(
                "option %s of %s has no effect in this release: %s.", name, target, why
            )


#: Options without effect that were pointed out.
_told: set[str] = set()


def _check_returns(checked: dict[str, Any], target: str, is_generator: bool | None) -> None:
    """Resolve None, and refuse streams from what cannot yield."""
    returns = checked.get("num_returns")
    if returns is None:
        checked["num_returns"] = "streaming" if is_generator else 1
    elif returns in rules.GENERATOR_RETURNS and is_generator is False:
        raise ValueError(
            f"option num_returns={returns!r} of {target} needs a generator function, one that yields"
        )


def _refuse_fixed(given: Mapping[str, Any], decorated: Mapping[str, Any], target: str) -> None:
    for name in _FIXED_AT_DECORATION:
        if name in given and given[name] != decorated.get(name):
            raise ValueError(
                f"option {name} of {target} is not supported in .options(): set it at the decorator"
            )
