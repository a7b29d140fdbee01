"""What type checkers know of ``f.remote(...)``; at run time, a base class that knows what there is not.

A remote call takes the function's own arguments, and for each of them a reference to such a value instead.
Python's types cannot say the latter for every parameter, so a call with a reference among its first arguments
is only checked when it is made; all others are checked like a call of the function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from beamlet.base.own_code import for_users

if TYPE_CHECKING:
    from beamlet.api.object_ref import ObjectRef

P = ParamSpec("P")
R = TypeVar("R")


#: What no remote function, class or method has.
BIND = "bind"


class HasNoBind:
    """Says so of what can be called remotely; a checker says so itself."""

    __slots__ = ()

    if not TYPE_CHECKING:

        @for_users
        def __getattr__(self, name):
            if name == BIND:
                from beamlet.api.not_here import refuse_bind  # a table that no start should pay for

                raise refuse_bind(type(self).__name__)
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self
            )


if TYPE_CHECKING:
    Ref = ObjectRef[Any]

    class RemoteCall(HasNoBind, Generic[P, R]):
        """``remote``, typed: checkers try the forms in this order."""

        @overload
        def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[R]: ...
        @overload
        def remote(self, a: Ref, /, *args: Any, **kwargs: Any) -> ObjectRef[R]: ...
        @overload
        def remote(self, a: Any, b: Ref, /, *args: Any, **kwargs: Any) -> ObjectRef[R]: ...
        @overload
        def remote(self, a: Any, b: Any, c: Ref, /, *args: Any, **kwargs: Any) -> ObjectRef[R]: ...
        @overload
        def remote(self, a: Any, b: Any, c: Any, d: Ref, /, *args: Any, **kwargs: Any) -> ObjectRef[R]: ...
        def remote(self, /, *args: Any, **kwargs: Any) -> Any: ...

    class RemoteItems(Generic[P, R]):
        """A function with ``num_returns``, or one that yields: a call gives several references, or none."""

        def remote(self, /, *args: Any, **kwargs: Any) -> Any: ...
        def options(self, **options: Any) -> RemoteItems[P, R]: ...
        def local(self, /, *args: P.args, **kwargs: P.kwargs) -> R: ...

else:

    class RemoteCall(HasNoBind, Generic[P, R]):
        """Typed for checkers only; its heirs define ``remote``."""
