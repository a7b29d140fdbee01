"""What decorators have put in the place of a class or function: pickled so that workers get the same.

``@remote`` replaces a class in its module.  cloudpickle looks a class up by its name, finds something else,
and would send a copy; but it finds the class's methods (an actor class passes attributes on) and sends those
by name.  In the worker the copy would then hold methods of the module's class: ``super()``, ``__class__`` and
class attributes would mean another class than ``type(self)``.

``@lru_cache`` replaces a function by an object that pickles by its name alone, which finds nothing in the
workers' ``__main__``: there it is made anew, with an empty cache.

``@dataclass(slots=True)`` makes a class with ``__slots__``, which cloudpickle forgets.
Structs by value are in ``serialization/structs.py``.
"""

from __future__ import annotations

import abc
import functools
import importlib
import sys
from collections.abc import Mapping
from typing import Any

import cloudpickle

from beamlet.serialization import structs
from beamlet.serialization.structs import STRUCT_META

#: The attribute by which an actor class names the class that it was made of.
PLAIN_CLASS = "__ray_actor_class__"


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is untyped
    """cloudpickle, which finds decorated classes and sends functions with a cache."""

    #: Structs that were taken apart. Asked for one once more, it is inside itself.
    _structs: frozenset[type] = frozenset()

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type):
            reduced = by_decorated_name(obj)
            if reduced is not None:
                return reduced
            if "__slots__" in vars(obj) and type(obj) in _PLAIN_METACLASSES and not issubclass(obj, tuple):
                return _with_slots(obj, super().reducer_override(obj))
            if isinstance(obj, STRUCT_META):
                return self._struct(obj, super().reducer_override(obj))
        elif isinstance(obj, CACHED) and not _is_found_by_name(obj):
            return _cached, (obj.__wrapped__, obj.cache_parameters())
        elif type(obj) is functools.cached_property:
            return _cached_property, (obj.func, obj.attrname)
        return super().reducer_override(obj)

    def _struct(self, cls: type, reduced: Any) -> Any:
        if not _is_by_value(reduced):
            return reduced
        if cls in self._structs:
            raise TypeError(
                f"the Struct {cls.__module__}.{cls.__qualname__} is part of its own fields (a default that "
                "refers to it), and can only be found by name: define it in a module that workers can import"
            )
        self._structs |= {cls}
        return structs.reduce(cls)


def _is_by_value(reduced: Any) -> bool:
    """Whether this is how cloudpickle describes a class that it sends whole."""
    return isinstance(reduced, tuple) and getattr(reduced[0], "__name__", "") == "_make_skeleton_class"


#: Classes of these are rebuilt as their ``class`` statement made them.
_PLAIN_METACLASSES = (type, abc.ABCMeta)


def _with_slots(cls: type, reduced: Any) -> Any:
    """A class by value that keeps its slots: cloudpickle makes it without, and sets them as an attribute.

    Its instances would then have a ``__dict__`` in workers, which those that come back could not be given.
    """
    if _is_by_value(reduced):
        of_class, name, bases, namespace, *rest = reduced[1]
        namespace = {**namespace, "__slots__": vars(cls)["__slots__"]}
        return reduced[0], (of_class, name, bases, namespace, *rest), *reduced[2:]
    return reduced


#: What ``@functools.lru_cache`` makes of a function.
CACHED = type(functools.lru_cache(id))


def _is_found_by_name(function: Any) -> bool:
    return function.__module__ not in _BY_VALUE and "<locals>" not in function.__qualname__


def _cached(function: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _cached_property(function: Any, name: str | None) -> Any:
    """Anew, since until Python 3.12 it holds a lock."""
    made = functools.cached_property(function)
    made.attrname = name
    return made


def by_decorated_name(cls: type) -> Any:
    """How pickle finds ``cls`` again, if its module holds an actor class under its name; else None."""
    if cls.__module__ in _BY_VALUE or cls.__module__ in cloudpickle.list_registry_pickle_by_value():
        return None
    found: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = _attributes(found).get(name)
    return (_plain_class, (cls.__module__, cls.__qualname__)) if _made_of(found) is cls else None


def _made_of(found: object) -> object:
    return None if isinstance(found, type) else _attributes(found).get(PLAIN_CLASS)


def _attributes(found: object) -> Mapping[str, Any]:
    """Of a module, a class, or the class that an actor class was made of; no ``__getattr__`` is asked."""
    own: Mapping[str, Any] = getattr(found, "__dict__", {})
    return own


#: Workers have a ``__main__`` of their own.
_BY_VALUE = frozenset({"__main__", "__mp_main__", "builtins"})


def _plain_class(module: str, qualname: str) -> type:
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    plain: type = getattr(found, PLAIN_CLASS, found)
    return plain
