"""What of an actor's class can be called: its methods, as a handle knows them, and ``handle.m`` itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from beamlet.api import backend
from beamlet.api.call_sites import call_site
from beamlet.api.generators import returns_on_wire
from beamlet.api.option_rules import nearest
from beamlet.api.options import MethodOptions, validate_method_options
from beamlet.api.remote_call import HasNoBind
from beamlet.api.signatures import Signature
from beamlet.base.class_names import retry_rule
from beamlet.base.deferring import deferred, deliver, lets_through
from beamlet.base.own_code import for_users, hide_our_frames
from beamlet.core_worker.submitting.task_spec import MethodTemplate
from beamlet.exceptions import PendingCallsLimitExceeded
from beamlet.serialization.decorated import CACHED

if TYPE_CHECKING:
    from beamlet.api.actor import ActorHandle

#: Every actor has these, whatever its class.
IMPLICIT = ("__ray_ready__", "__ray_call__", "__ray_terminate__")


class MethodInfo(msgspec.Struct):
    """What a handle knows of one method. Travels with pickled handles."""

    name: str
    signature: Signature
    options: MethodOptions
    is_generator: bool


class HandleInfo(msgspec.Struct):
    """What a handle knows of its actor's class. Travels in ActorSpec.handle_info and in pickled handles."""

    class_name: str
    methods: dict[str, MethodInfo]
    is_async: bool
    max_task_retries: int
    max_pending_calls: int
    ordered: bool
    concurrency_groups: tuple[str, ...] = ()


# -- methods -------------------------------------------------------------------------------------


class ActorMethod(HasNoBind):
    """``handle.m``: call it with ``.remote(...)``. It keeps the handle alive."""

    __slots__ = ("_handle", "_info", "_template")

    def __init__(self, handle: ActorHandle[Any], info: MethodInfo, template: MethodTemplate) -> None:
        self._handle = handle
        self._info = info
        self._template = template

    @lets_through
    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Submit a call. Returns at once: an ObjectRef, a list for num_returns > 1, None for 0.

        Raises TypeError if the arguments do not fit, PendingCallsLimitExceeded if too many calls wait.
        """
        try:
            signature = self._info.signature
            if kwargs or not signature.min_args <= len(args) <= signature.max_args:
                signature.check(args, kwargs)
            core = backend._current or backend.current()
            handle = self._handle
            link = handle._link if handle._bound_to is core else handle._bind(core)
            if 0 < link.max_pending_calls <= link.pending_count:
                raise PendingCallsLimitExceeded(
                    f"{link.pending_count} calls of {handle!r} are unanswered; max_pending_calls is "
                    f"{link.max_pending_calls}. Wait for some with beamlet.wait() first."
                )
            refs = core.submit_call(link, self._template, args, kwargs, call_site())
            if deferred:
                deliver()
            return refs
        except BaseException as error:
            hide_our_frames(error)
            raise

    @for_users
    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options."""
        name = f"method {self._handle._info.class_name}.{self._info.name}"
        merged = self._info.options.merge(options, target=name, is_generator=self._info.is_generator)
        group, groups = merged.concurrency_group, self._handle._info.concurrency_groups
        if group and group not in groups:
            raise ValueError(
                f"option concurrency_group={group!r} of {name}: the actor has no such group; "
                + (f"it has {', '.join(map(repr, groups))}" if groups else "it has none")
                + nearest(group, groups)
            )
        return ActorMethod(self._handle, self._info, template_of(self._handle._info, self._info, merged))

    def _remote(
        self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """Ray's older spelling of ``options(...).remote(...)``."""
        return self.options(**options).remote(*args, **(kwargs or {}))

    @for_users
    def __call__(self, /, *args: Any, **kwargs: Any) -> NoReturn:
        name = f"{self._handle._info.class_name}.{self._info.name}"
        raise TypeError(
            f"{name} is an actor method and cannot be called directly: call "
            f"handle.{self._info.name}.remote(…)."
        )

    def __repr__(self) -> str:
        return f"ActorMethod({self._handle!r}.{self._info.name})"


def template_of(info: HandleInfo, method: MethodInfo, options: MethodOptions) -> MethodTemplate:
    retries = info.max_task_retries if options.max_task_retries is None else options.max_task_retries
    return MethodTemplate(
        method.name,
        returns_on_wire(options.num_returns),
        retries,
        retry_rule(options.retry_exceptions),
        options.concurrency_group or "",
        options.name,
        options.generator_backpressure_num_objects,
        method.signature.positional,
    )


# -- what a class has ----------------------------------------------------------------------------


def functions_of(cls: type, special: frozenset[str]) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for name, member in inspect.getmembers(cls):
        plain = inspect.unwrap(member) if isinstance(member, CACHED) else member
        if name.startswith("__") and name.endswith("__"):
            is_method = inspect.isfunction(plain) and name not in special
        else:
            is_method = inspect.isfunction(plain) or inspect.ismethod(plain) or inspect.isbuiltin(plain)
        if is_method:
            found[name] = member
    return found


def methods_of(cls: type, special: frozenset[str]) -> dict[str, MethodInfo]:
    methods: dict[str, MethodInfo] = {}
    for name, function in functions_of(cls, special).items():
        is_static = isinstance(inspect.getattr_static(cls, name), staticmethod)
        bound = inspect.ismethod(function)
        generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        label = f"{cls.__name__}.{name}"
        given = getattr(function, "__beamlet_method_options__", {})
        options = validate_method_options(given, target=f"method {label}", is_generator=generator)
        signature = Signature.of(function, skip_self=not is_static and not bound, name=label)
        methods[name] = MethodInfo(name, signature, options, generator)
    anything = Signature.of(lambda *args, **kwargs: None, name="")
    plain = validate_method_options({}, target="method", is_generator=False)
    for name in IMPLICIT:
        methods[name] = MethodInfo(name, anything, plain, False)
    return methods
