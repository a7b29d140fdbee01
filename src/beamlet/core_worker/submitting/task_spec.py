"""● What was asked for: a task, a call of an actor's method, or an actor's constructor. Frozen.

A spec is all that it takes to run the work again, now or when its result is lost.  What changes from one push
to the next (its number, its attempt, where its arguments are) is ``Pending``'s; what travels is made fresh
for each push.  What all calls of one function have in common stands once, in a template.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from beamlet.base.class_names import RetryRule
from beamlet.base.ids import FunctionKey, ObjectId, TaskId
from beamlet.exceptions import CallSite
from beamlet.protocol.gcs import ActorSpec
from beamlet.protocol.message import ContainedRef


class SchedulingKey(msgspec.Struct, frozen=True):
    """What makes two tasks interchangeable for a worker. Amounts as sorted (name, units) pairs."""

    resources: tuple[tuple[str, int], ...]
    env_vars: tuple[tuple[str, str], ...] = ()
    strategy: str = "DEFAULT"
    #: Functions with max_calls keep their workers to themselves.
    alone: bytes = b""
    #: Not to be run twice (max_retries=0): none is sent to a worker before it has answered the one before.
    once: bool = False


class TaskTemplate(msgspec.Struct, frozen=True, eq=False):
    """What all calls of one remote function with the same options have in common."""

    function: FunctionKey
    name: str
    num_returns: int
    key: SchedulingKey
    resources: dict[str, int]
    #: System failures that a call survives; -1: any number.
    max_retries: int
    #: Which errors of the user's code are worth another attempt.
    retry_exceptions: RetryRule
    #: The worker is replaced after this many runs of the function; 0: never.
    max_calls: int = 0
    #: Generators: most items yielded and not consumed; negative: no limit.
    stream_limit: int = -1
    #: Names of the positional parameters, for messages.
    parameters: tuple[str, ...] = ()


class MethodTemplate(msgspec.Struct, frozen=True, eq=False):
    """What all calls of one actor method with the same options have in common."""

    name: str
    num_returns: int
    max_task_retries: int
    retry_exceptions: RetryRule = False
    group: str = ""
    #: What ``options(name=…)`` says.
    shown_as: str = ""
    stream_limit: int = -1
    parameters: tuple[str, ...] = ()


class TaskSpec(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One task. Built positionally on the hot path."""

    template: TaskTemplate
    task_id: TaskId
    #: The encoded arguments, with slots for ``deps``.
    payload: bytes
    #: Where ``.remote()`` was called.
    call_site: CallSite | None
    #: The task whose code submitted it.
    parent: TaskId
    #: Top-level references among the arguments, by slot.
    deps: Sequence[ObjectId] = ()
    #: References nested in the arguments.
    nested: Sequence[ContainedRef] = ()

    @property
    def name(self) -> str:
        return self.template.name

    @property
    def retry_exceptions(self) -> RetryRule:
        return self.template.retry_exceptions


class CallSpec(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One call of an actor's method; as ``TaskSpec``. Where it was called stands in its results' records."""

    method: MethodTemplate
    task_id: TaskId
    payload: bytes
    deps: Sequence[ObjectId] = ()
    nested: Sequence[ContainedRef] = ()

    @property
    def name(self) -> str:
        return self.method.shown_as or self.method.name

    @property
    def call_site(self) -> CallSite | None:
        return None

    @property
    def retry_exceptions(self) -> RetryRule:
        return self.method.retry_exceptions


class CreationSpec(msgspec.Struct, frozen=True, eq=False):
    """The constructor's arguments of an actor that was created here."""

    actor: ActorSpec
    task_id: TaskId
    deps: Sequence[ObjectId] = ()
    nested: Sequence[ContainedRef] = ()

    @property
    def name(self) -> str:
        return f"{self.actor.class_name}.__init__"
