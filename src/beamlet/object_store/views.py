"""Views of the arena, as its books know them: what happens when one ends, or is to outlive its range.

Finalizers call these, in any thread and in the middle of anything: they take no lock.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from beamlet.object_store.private_pages import MADV_POPULATE_WRITE

if TYPE_CHECKING:
    from beamlet.object_store.arena import Arena


class ViewToken:
    """One copy-on-write view in the private slab."""

    __slots__ = ("faults",)

    def __init__(self, faults: int | None) -> None:
        #: The process's page faults when it was made: a page cannot become private without one more.
        self.faults = faults


class LentView:
    """A view of a range that others will use again."""

    __slots__ = ("_arena", "_holder", "_offset", "_size", "_token", "_writable")

    def __init__(
        self, arena: Arena, holder: object, writable: bool, offset: int, size: int, token: ViewToken | None
    ) -> None:
        self._arena = arena
        self._holder = weakref.ref(holder)
        self._writable = writable
        self._offset = offset
        self._size = size
        #: None: in a mapping of its own.
        self._token = token

    def end(self) -> bool:
        """The time of lending is over: who still has the view keeps a copy. True if there was one.

        Raises OSError when there is no memory for it.
        """
        holder: Any = self._holder()
        if holder is None:
            return False
        if self._token is not None:
            self._arena.keep(self._writable, self._offset, self._size, self._token)
        else:
            holder.madvise(MADV_POPULATE_WRITE)
        return True


class Release:
    """What happens when a view's last holder goes. A class, for finalizers must not refer to the view."""

    __slots__ = ("_arena", "_lifeline", "_offset", "_on_release", "_size", "_token", "_writable")

    def __init__(
        self,
        arena: Arena,
        writable: bool,
        offset: int,
        size: int,
        token: ViewToken | None,
        on_release: Callable[[], None] | None,
        lifeline: object,
    ) -> None:
        self._arena = arena
        self._lifeline: object | None = lifeline
        self._writable = writable
        self._offset = offset
        self._size = size
        self._token = token
        self._on_release = on_release

    @property
    def is_lent(self) -> bool:
        return self._token is not None and self._on_release is None

    def keep(self) -> None:
        """The view is to outlive our right to what it shows."""
        self._arena.keep(self._writable, self._offset, self._size, self._token or ViewToken(None))
        self._lifeline = None

    def __call__(self) -> None:
        self._arena.forget_view(self)
        # In this order: once the pin is given back, the range may be somebody else's.
        if self._token is not None:
            self._arena.view_ended(self._writable, self._offset, self._size)
        if self._on_release is not None:
            self._on_release()
