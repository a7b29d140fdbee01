"""What type checkers know of ``f.remote(...)``; at run time, nothing but an empty base class.

A remote call takes the function's own arguments, and for each of them a reference to such a value instead.
Python's types cannot say the latter for every parameter, so a call with a reference among its first arguments
is only checked when it is made; all others are checked like a call of the function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

if TYPE_CHECKING:
    from beamlet.api.object_ref import ObjectRef

P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:
    Ref = ObjectRef[Any]

    class RemoteCall(Generic[P, R]):
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

    class RemoteCall(Generic[P, R]):
        """Typed for checkers only; its heirs define ``remote``."""
