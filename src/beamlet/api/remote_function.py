"""Functions that run elsewhere: what ``@remote`` makes of a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, overload

from beamlet.api import advising, backend
from beamlet.api.call_sites import call_site
from beamlet.api.generators import returns_on_wire
from beamlet.api.options import TaskOptions, validate_task_options
from beamlet.api.placing import strategy_of
from beamlet.api.remote_call import RemoteCall
from beamlet.api.runtime_env import env_vars_of
from beamlet.api.signatures import Signature
from beamlet.base.class_names import retry_rule
from beamlet.base.deferring import deferred, deliver, lets_through
from beamlet.base.own_code import for_users, hide_our_frames
from beamlet.core_worker import functions
from beamlet.core_worker.submitting.task_spec import SchedulingKey, TaskTemplate
from beamlet.serialization.closures import check_closure

if TYPE_CHECKING:
    from beamlet.api.remote_call import RemoteItems
    from beamlet.core_worker.core_worker import CoreWorker

P = ParamSpec("P")
R = TypeVar("R")


class RemoteFunction(RemoteCall[P, R]):
    """A function whose ``remote(...)`` runs it in a worker and returns a reference to its result.

    >>> import beamlet as ray
    >>> @ray.remote
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> ray.get(double.remote(21))
    42
    """

    def __init__(self, function: Callable[P, R], options: TaskOptions) -> None:
        self._function = function
        self._name = function.__qualname__.rpartition("<locals>.")[2]
        self._options = options
        self._signature = Signature.of(function)
        #: Whose ``_template`` it is; the two are set together.
        self._bound_to: CoreWorker | None = None
        self._template: TaskTemplate = None  # type: ignore[assignment]
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    @classmethod
    def make(cls, function: Callable[P, R], given: Mapping[str, Any]) -> RemoteFunction[P, R]:
        """From a function and options as users write them. Raises as options.py says."""
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise ValueError(
                f"{function.__qualname__} is an 'async def' function: tasks are plain functions. Make it a "
                "method of an actor, or run it inside the task with asyncio.run()."
            )
        options = validate_task_options(
            given, target=f"task {function.__name__}", is_generator=inspect.isgeneratorfunction(function)
        )
        return cls(function, options)

    # -- calling ---------------------------------------------------------------------------------

    if not TYPE_CHECKING:

        @lets_through
        def remote(self, /, *args, **kwargs):
            """Submit a call. Returns at once: one ObjectRef, a list of them for num_returns > 1, None for 0.

            Raises TypeError if the arguments do not fit, or one of them cannot be pickled.
            """
            try:
                refs = self._submit(self, args, kwargs)
                if deferred:
                    deliver()
                return refs
            except BaseException as error:
                hide_our_frames(error)
                raise

    def _submit(
        self,
        template_of: RemoteFunction[P, R] | RemoteFunctionWithOptions[P, R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        signature = self._signature
        if kwargs or not signature.min_args <= len(args) <= signature.max_args:
            signature.check(args, kwargs)
        core = backend._current or backend.current()
        if template_of._bound_to is not core:
            template_of._template = self._make_template(core, template_of._options)
            template_of._bound_to = core
        if advising.watching is not None:
            advising.watching.submitted(args, kwargs)
        return core.submit_task(template_of._template, args, kwargs, call_site(3))

    def _make_template(self, core: CoreWorker, options: TaskOptions) -> TaskTemplate:
        """Export the function and fix what all calls with these options share."""
        returns = returns_on_wire(options.num_returns)
        pickled = check_closure(self._function, self._name, functions.WARN_BYTES, functions.MAX_BYTES)
        with core.lock:
            key = core.functions.export(self._function, pickled)
        resources = options.demand()
        env_vars = core.env_vars | env_vars_of(options.runtime_env, f"task {self.__name__}")
        scheduling_key = SchedulingKey(
            tuple(sorted(resources.items())),
            tuple(sorted(env_vars.items())),
            strategy_of(options.scheduling_strategy),
            key if options.max_calls else b"",
            options.max_retries == 0,
        )
        return TaskTemplate(
            key,
            options.name or self._name,
            returns,
            scheduling_key,
            resources,
            options.max_retries,
            retry_rule(options.retry_exceptions),
            options.max_calls,
            options.generator_backpressure_num_objects,
            self._signature.positional,
        )

    @overload
    def options(self, *, num_returns: int | str | None, **options: Any) -> RemoteItems[P, R]: ...
    @overload
    def options(self, **options: Any) -> RemoteFunctionWithOptions[P, R]: ...
    @for_users
    def options(self, **options: Any) -> Any:
        """The same function with other options, for calls through what this returns."""
        merged = self._options.merge(
            options,
            target=f"task {self.__name__}",
            is_generator=inspect.isgeneratorfunction(self._function),
        )
        return RemoteFunctionWithOptions(self, merged)

    def _remote(
        self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """Ray's older spelling of ``options(...).remote(...)``."""
        wrapped = self.options(**options)
        return self._submit(wrapped, tuple(args), kwargs or {})

    def local(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here, as if it were not remote."""
        return self._function(*args, **kwargs)

    @for_users
    def __call__(self, /, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"{self._name} is a remote function and cannot be called directly: call "
            f"{self._name}.remote(…) to run "
            f"it in a worker, or {self._name}.local(…) to run it here."
        )

    def __repr__(self) -> str:
        return f"RemoteFunction({self.__module__}.{self.__qualname__})"

    @property
    def _function_name(self) -> str:
        return f"{self.__module__}.{self.__qualname__}"

    @property
    def _default_options(self) -> Mapping[str, Any]:
        return self._options.given

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_template"] = state["_bound_to"] = None
        return state


class RemoteFunctionWithOptions(RemoteCall[P, R]):
    """What ``f.options(...)`` returns: only ``remote``."""

    def __init__(self, function: RemoteFunction[P, R], options: TaskOptions) -> None:
        self._remote_function = function
        self._options = options
        #: Whose ``_template`` it is; the two are set together.
        self._bound_to: CoreWorker | None = None
        self._template: TaskTemplate = None  # type: ignore[assignment]

    if not TYPE_CHECKING:

        @lets_through
        def remote(self, /, *args, **kwargs):
            """As ``RemoteFunction.remote``, with these options."""
            try:
                refs = self._remote_function._submit(self, args, kwargs)
                if deferred:
                    deliver()
                return refs
            except BaseException as error:
                hide_our_frames(error)
                raise

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_template"] = state["_bound_to"] = None
        return state
