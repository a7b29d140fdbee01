"""Classes that live elsewhere: actor classes, handles, methods."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, overload

from beamlet.api import backend
from beamlet.api.actor_methods import IMPLICIT, ActorMethod, HandleInfo, functions_of, methods_of, template_of
from beamlet.api.argument_table import checked
from beamlet.api.call_sites import here
from beamlet.api.object_ref import ObjectRef
from beamlet.api.option_rules import a_kind, brief, nearest
from beamlet.api.options import ActorOptions, validate_actor_options, validate_method_options
from beamlet.api.placing import strategy_of
from beamlet.api.remote_call import BIND, HasNoBind
from beamlet.api.runtime_env import env_vars_of
from beamlet.api.signatures import Signature
from beamlet.base.deferring import deferred, deliver, is_from_handler, lets_through
from beamlet.base.ids import ActorId, Address, FunctionKey
from beamlet.base.own_code import MADE_FOR_USERS, for_users, hide_our_frames
from beamlet.core_worker import functions
from beamlet.core_worker.executing.leaving import HOOKS
from beamlet.core_worker.executing.runner import ActorExit
from beamlet.core_worker.submitting.actors import Creation
from beamlet.core_worker.submitting.task_spec import MethodTemplate
from beamlet.exceptions import (
    ActorClassInheritanceException,
    ActorHandleNotFoundError,
    AsyncioActorExit,
    RaySystemError,
)
from beamlet.protocol.gcs import ActorSpec
from beamlet.serialization.closures import check_closure

if TYPE_CHECKING:
    from beamlet.api.public_ids import ActorID
    from beamlet.core_worker.core_worker import CoreWorker
    from beamlet.core_worker.peers import Peer
    from beamlet.core_worker.submitting.actor_submitter import ActorLink

T = TypeVar("T")

ASYNC_CONCURRENCY = 1000


# -- handles -------------------------------------------------------------------------------------


class ActorHandle(Generic[T]):
    """A reference to an actor, to be passed around freely. The actor lives while handles exist.

    Its methods are those of the actor's class: ``handle.m.remote(...)`` calls one.
    """

    _id: ActorId
    #: Counts this handle; None for handles from ``get_actor``, which do not keep the actor alive.
    _ref: ObjectRef[None] | None
    _info: HandleInfo
    _templates: dict[str, MethodTemplate]
    #: The session in which this process got the handle; None for one unpickled outside of any.
    _home: CoreWorker | None
    #: Whose ``_link`` it is; the two are set together.
    _bound_to: CoreWorker | None
    _link: ActorLink[Peer]

    def __init__(self, actor_id: ActorId, ref: ObjectRef[None] | None, info: HandleInfo) -> None:
        # Past our own __setattr__: handles are made by the thousand.
        keep = object.__setattr__
        keep(self, "_id", actor_id)
        keep(self, "_ref", ref)
        keep(self, "_info", info)
        keep(self, "_templates", {})
        keep(self, "_home", backend._current)
        keep(self, "_bound_to", None)
        keep(self, "_link", None)

    def __getattr__(self, name: str) -> Any:
        try:
            template = self._templates.get(name)
            if template is not None:
                return ActorMethod(self, self._info.methods[name], template)
            method = self._info.methods.get(name)
            if method is None:
                if name.startswith("__") and name.endswith("__"):
                    raise AttributeError(f"actor {self._info.class_name} does not define {name!r}")
                raise AttributeError(
                    f"actor {self._info.class_name} has no method {name!r}; it has "
                    f"{', '.join(n for n in self._info.methods if n not in IMPLICIT) or 'none'}"
                    f"{nearest(name, self._info.methods) or '.'} "
                    "Attributes of the instance are not readable from here: add a method that returns them."
                )
            template = self._templates[name] = template_of(self._info, method, method.options)
            return ActorMethod(self, method, template)
        except BaseException as error:
            hide_our_frames(error)
            raise

    @for_users
    def __setattr__(self, name: str, value: Any) -> None:
        """Only what is ours, and methods (tests replace them): the rest would look as if the actor had it."""
        if not name.startswith("_") and name not in self._info.methods:
            raise AttributeError(
                f"cannot set {name!r} on a handle of actor {self._info.class_name}: the instance lives in "
                "another process and would not see it. Add a method that sets it there"
                f"{nearest(name, self._info.methods) or '.'}"
            )
        object.__setattr__(self, name, value)

    @property
    def _methods_of_every_actor(self) -> tuple[str, ...]:
        return IMPLICIT

    def _bind(self, core: CoreWorker) -> ActorLink[Peer]:
        """Our process's line to the actor, followed from the first call on."""
        self._demand_session(core)
        with core.lock:
            link = core.actors.link(self._id, self._info.class_name)
            link.max_task_retries = self._info.max_task_retries
            link.max_pending_calls = self._info.max_pending_calls
            link.ordered = self._info.ordered
            core.actors.subscribe(link)
        self._link, self._bound_to = link, core
        return link

    def _demand_session(self, core: CoreWorker) -> None:
        if self._is_of_another_session(core):
            raise RaySystemError(ValueError(f"{self!r} belongs to an earlier session, which was shut down"))

    def _is_of_another_session(self, core: CoreWorker) -> bool:
        """Whether its actor ended with a session that is over. Actors of ``get_actor``, and detached ones,
        outlive that of one program, but not their cluster.
        """
        home = self._home
        if home is None or home is core:
            return False
        return self._ref is not None or home.identity.session_dir != core.identity.session_dir

    @property
    def _actor_id(self) -> ActorID:
        from beamlet.api.public_ids import ActorID

        return ActorID(self._id)

    _ray_actor_id = _actor_id

    def __repr__(self) -> str:
        return f"Actor({self._info.class_name}, {self._id.hex()})"

    def __hash__(self) -> int:
        return hash(self._id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and self._id == other._id

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._info.methods]

    def __reduce__(self) -> tuple[Any, ...]:
        core = backend.current_or_none()
        if core is not None:
            self._demand_session(core)  # the receiver cannot know, and would wait for such an actor for ever
        return ActorHandle, (self._id, self._ref, self._info)


#: Special methods that are no calls: what a handle has itself, such as __repr__, what ends an instance, and
#: what libraries look for on any object, to call it there.
_NOT_METHODS = frozenset((*dir(ActorHandle), *HOOKS, "__del__", "__deepcopy__", "__array__"))


# -- classes -------------------------------------------------------------------------------------


class ActorClass(Generic[T]):
    """A class whose ``remote(...)`` starts an instance in a process of its own.

    >>> import beamlet as ray
    >>> @ray.remote
    ... class Counter:
    ...     def __init__(self) -> None:
    ...         self.n = 0
    ...     def add(self, k: int) -> int:
    ...         self.n += k
    ...         return self.n
    >>> counter = Counter.remote()
    >>> ray.get([counter.add.remote(2), counter.add.remote(3)])
    [2, 5]
    """

    def __init__(self, cls: type[T], options: ActorOptions, *more: Any) -> None:
        if more or not isinstance(options, ActorOptions):
            # Python calls our type like this for ``class B(A)`` when A is an ActorClass.
            raise ActorClassInheritanceException(
                f"{cls} is derived from an actor class, which is not supported: derive from the "
                "undecorated class, "
                "and decorate the result with @remote."
            )
        self._cls = cls
        self._options = options
        self._signature = Signature.of_class(cls)
        self._info: HandleInfo | None = None
        self._key: FunctionKey | None = None
        self._bound_to: CoreWorker | None = None
        self.__name__ = cls.__name__
        self.__qualname__ = cls.__qualname__
        self.__module__ = cls.__module__
        self.__doc__ = cls.__doc__
        self.__ray_actor_class__ = cls
        self._methods = methods_of(cls, _NOT_METHODS)
        self._is_async = any(
            inspect.iscoroutinefunction(m) or inspect.isasyncgenfunction(m)
            for m in functions_of(cls, _NOT_METHODS).values()
        )
        self._check_groups(options)

    @classmethod
    def make(cls, user_class: type[T], given: Mapping[str, Any]) -> ActorClass[T]:
        """From a class and options as users write them. Raises as options.py says."""
        return cls(user_class, validate_actor_options(given, target=f"actor {user_class.__name__}"))

    def _check_groups(self, options: ActorOptions) -> None:
        for method in self._methods.values():
            group = method.options.concurrency_group
            if group is not None and group not in options.concurrency_groups:
                problem = AssertionError(
                    f"method {self.__name__}.{method.name} asks for concurrency group {group!r}, which the "
                    f"actor does not define; it has {list(options.concurrency_groups)}"
                )
                setattr(problem, MADE_FOR_USERS, True)
                raise problem

    @lets_through
    def remote(self, /, *args: Any, **kwargs: Any) -> ActorHandle[T]:
        """Start an actor. Returns at once; the instance is made in its process.

        Raises TypeError if the arguments do not fit ``__init__``, ActorAlreadyExistsError if the name is
        taken.
        """
        try:
            handle = self._create(self._options, args, kwargs, here())
            if deferred:
                deliver()
            return handle
        except BaseException as error:
            hide_our_frames(error)
            raise

    @for_users
    def options(self, **options: Any) -> ActorClassWithOptions[T]:
        """The same class with other options, for actors made through what this returns."""
        return ActorClassWithOptions(self, self._options.merge(options, target=f"actor {self.__name__}"))

    def _remote(
        self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> ActorHandle[T]:
        """Ray's older spelling of ``options(...).remote(...)``."""
        return self._create(self.options(**options)._options, tuple(args), kwargs or {}, here())

    def _create(
        self, options: ActorOptions, args: tuple[Any, ...], kwargs: dict[str, Any], call_site: str
    ) -> ActorHandle[T]:
        signature = self._signature
        if kwargs or not signature.min_args <= len(args) <= signature.max_args:
            signature.check(args, kwargs)
        if options.namespace == "":
            raise ValueError(f"option namespace of actor {self.__name__} must not be empty")
        core = backend.current()
        if options.name and options.get_if_exists:
            try:
                return handle_of(core.actors.find(options.name, options.namespace or core.identity.namespace))
            except ValueError as error:
                if is_from_handler(error):
                    raise
                # nobody has the name yet, or not any more: the GCS decides who is first
        info = self._handle_info(options)
        spec = self._spec(core, options, info, call_site)
        return handle_of(core.actors.create(spec, args, kwargs, options.get_if_exists, signature.positional))

    def _handle_info(self, options: ActorOptions) -> HandleInfo:
        concurrency = self._concurrency(options)
        ordered = concurrency == 1 and not self._is_async and not options.concurrency_groups
        if options.allow_out_of_order_execution is False and not ordered:
            raise ValueError(
                f"option allow_out_of_order_execution=False of actor {self.__name__} needs "
                "max_concurrency=1 and "
                "no async methods"
            )
        if options.allow_out_of_order_execution:
            ordered = False
        return HandleInfo(
            self.__name__,
            self._methods,
            self._is_async,
            options.max_task_retries,
            options.max_pending_calls,
            ordered,
            tuple(options.concurrency_groups),
        )

    def _concurrency(self, options: ActorOptions) -> int:
        return options.max_concurrency or (ASYNC_CONCURRENCY if self._is_async else 1)

    def _spec(self, core: CoreWorker, options: ActorOptions, info: HandleInfo, call_site: str) -> ActorSpec:
        if self._bound_to is not core:
            pickled = check_closure(self._cls, self.__name__, functions.WARN_BYTES, functions.MAX_BYTES)
            with core.lock:
                self._key = core.functions.export(self._cls, pickled)
            self._bound_to = core
        assert self._key is not None
        has_hook, has_del = any(hasattr(self._cls, hook) for hook in HOOKS), hasattr(self._cls, "__del__")
        return ActorSpec(
            actor_id=ActorId(b""),
            job=core.job_description(),
            owner=Address(b""),
            class_key=self._key,
            class_name=self.__name__,
            args=b"",
            deps=[],
            nested=[],
            placement_resources=options.placement_demand(),
            lifetime_resources=options.demand(),
            name=options.name,
            namespace=options.namespace or core.identity.namespace,
            detached=options.detached,
            max_restarts=options.max_restarts,
            max_task_retries=options.max_task_retries,
            max_concurrency=self._concurrency(options),
            concurrency_groups=dict(options.concurrency_groups),
            is_async=self._is_async,
            max_pending_calls=options.max_pending_calls,
            env_vars=core.env_vars | env_vars_of(options.runtime_env, f"actor {self.__name__}"),
            strategy=strategy_of(options.scheduling_strategy),
            handle_info=pickle.dumps(info, 5),
            call_site=call_site,
            cleans_up=has_hook or has_del,
            only_del=has_del and not has_hook,
        )

    @for_users
    def __call__(self, /, *args: Any, **kwargs: Any) -> NoReturn:
        name = self.__name__
        raise TypeError(
            f"Actors cannot be instantiated directly: call {name}.remote(…) to start one, or use the plain "
            f"class {name}.__ray_actor_class__ for an object in this process."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and name in ("_cls", "_methods"):
            raise AttributeError(name)
        if name == BIND and not hasattr(self._cls, name):
            from beamlet.api.not_here import refuse_bind

            raise refuse_bind(f"actor class {self._cls.__name__}")
        return getattr(self._cls, name)

    @for_users
    def __setattr__(self, name: str, value: Any) -> None:
        """Only what is ours (tests replace ``remote``): actors are of the plain class, without the rest."""
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(
                f"cannot set {name!r} on actor class {self.__name__}: its actors would not see it. Set it on "
                f"{self.__name__}.__ray_actor_class__, before the first {self.__name__}.remote(…)."
            )
        object.__setattr__(self, name, value)

    def __instancecheck__(self, instance: object) -> bool:
        """Of the plain class: inside the actor ``isinstance(self, Counter)`` is true. No handle is one."""
        return isinstance(instance, self._cls)

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, self._cls)

    @for_users
    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        raise ActorClassInheritanceException(
            f"inheriting from actor class {self.__name__} is not supported: derive from the undecorated "
            f"class ({self.__name__}.__ray_actor_class__), and decorate the result with @remote."
        )

    def __repr__(self) -> str:
        return f"ActorClass({self.__name__})"

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_key"] = state["_bound_to"] = None
        return state


class ActorClassWithOptions(HasNoBind, Generic[T]):
    """What ``Cls.options(...)`` returns: only ``remote``."""

    def __init__(self, actor_class: ActorClass[T], options: ActorOptions) -> None:
        self._actor_class = actor_class
        self._options = options

    @lets_through
    def remote(self, /, *args: Any, **kwargs: Any) -> ActorHandle[T]:
        """As ``ActorClass.remote``, with these options."""
        try:
            handle = self._actor_class._create(self._options, args, kwargs, here())
            if deferred:
                deliver()
            return handle
        except BaseException as error:
            hide_our_frames(error)
            raise


# -- functions -----------------------------------------------------------------------------------


def handle_of(creation: Creation) -> ActorHandle[Any]:
    info = pickle.loads(creation.spec.handle_info)
    assert creation.handle_ref is None or isinstance(creation.handle_ref, ObjectRef)
    return ActorHandle(creation.actor_id, creation.handle_ref, info)


def handle_of_current_actor(spec: ActorSpec) -> ActorHandle[Any]:
    """A handle for the actor's own code: it does not keep the actor alive."""
    return ActorHandle(spec.actor_id, None, pickle.loads(spec.handle_info))


@overload
def method(function: Callable[..., T], /) -> Callable[..., T]: ...
@overload
def method(**options: Any) -> Callable[[Callable[..., T]], Callable[..., T]]: ...
@for_users
def method(*args: Any, **options: Any) -> Any:
    """Options of one actor method: ``@method(num_returns=2)``.

    Raises AssertionError for an unknown option or a stray positional argument.
    """
    if len(args) == 1 and callable(args[0]) and not options:
        return args[0]
    assert not args, "@method takes keyword options only, such as @method(num_returns=2)"
    validate_method_options(options)

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        function.__beamlet_method_options__ = options  # type: ignore[attr-defined]
        return function

    return decorate


@for_users
def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """The live actor called ``name``. The handle does not keep it alive.

    Raises ValueError if there is none or the name is empty, TypeError if it is not a str.
    """
    name = checked("get_actor", "name", name)
    namespace = checked("get_actor", "namespace", namespace)
    core = backend.current()
    return handle_of(core.actors.find(name, namespace or core.identity.namespace))


@for_users
def kill(actor: ActorHandle[Any], *, no_restart: bool = True) -> None:
    """End an actor at once: running calls fail, clean-up code does not run.

    no_restart: False lets max_restarts bring it back. Raises ValueError for anything but a handle,
    ActorHandleNotFoundError for one of an earlier session.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(
            f"kill(actor={brief(actor)}): actor must be a handle, not {a_kind(actor)}; for tasks use cancel()"
        )
    no_restart = checked("kill", "no_restart", no_restart)
    core = backend.current()
    if actor._is_of_another_session(core):
        raise ActorHandleNotFoundError(
            f"{actor!r} belongs to an earlier session, which was shut down, and the actor ended with it"
        )
    core.actors.kill(actor._id, no_restart)


@for_users
def exit_actor() -> NoReturn:
    """End the actor this is called in, on purpose, after the present call. Raises TypeError elsewhere."""
    core = backend.current_or_none()
    spec = core.work.spec if core is not None else None
    if spec is None:
        raise TypeError("exit_actor can only be called inside an actor")
    if spec.is_async:
        raise AsyncioActorExit("exit_actor() was called")
    raise ActorExit("exit_actor() was called")
