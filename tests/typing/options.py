"""What type checkers make of options and signatures; checked by mypy --strict, never run."""

from __future__ import annotations

from typing import assert_type

from beamlet.api.options import (
    ActorOptions,
    MethodOptions,
    TaskOptions,
    validate_actor_options,
    validate_method_options,
    validate_task_options,
)
from beamlet.api.signatures import Signature


def records() -> None:
    task = validate_task_options({"num_cpus": 2})
    assert_type(task, TaskOptions)
    assert_type(task.merge({"name": "x"}), TaskOptions)
    assert_type(task.num_cpus, float)
    assert_type(task.demand(), dict[str, int])
    actor = validate_actor_options({})
    assert_type(actor.merge({}), ActorOptions)
    assert_type(actor.num_cpus, float | None)
    assert_type(validate_method_options({}).merge({}), MethodOptions)


def signatures() -> None:
    signature = Signature.of(records)
    assert_type(signature, Signature)
    assert_type(signature.min_args, int)
    signature.check((), {})
