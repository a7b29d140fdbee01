"""Classes of msgspec Structs by value, as those of ``__main__``, of notebooks and of functions must travel.

cloudpickle makes a class in two steps, so that its methods may refer to it: an empty one, then its
attributes.  A Struct's fields, defaults and options are fixed when it is made, and an empty one is another
class.  So they travel with the first step, and what may refer to the class with the second:

    _make(name, bases, fields, options) → memoized → _fill(class, methods and other attributes)

Which class it is, cloudpickle's tracker knows: one that comes back is the one that left.
"""

from __future__ import annotations

import weakref
from typing import Any

import cloudpickle.cloudpickle as by_value
import msgspec

STRUCT_META = type(msgspec.Struct)
#: Fields of ``__struct_config__`` that are asked for only if set, for a base may have brought them.
_INHERITED = ("weakref", "dict")
_OPTIONS = (
    "frozen", "eq", "order", "array_like", "gc", "repr_omit_defaults", "omit_defaults",
    "forbid_unknown_fields", "cache_hash",
)  # fmt: skip
#: Attributes that making the class makes, too.
_MADE = frozenset(
    ("__slots__", "__annotations__", "__module__", "__qualname__", "__orig_bases__", "__parameters__",
     "__weakref__", "__dict__", "__match_args__", "__abstractmethods__", "_abc_impl", "__struct_fields__",
     "__struct_defaults__", "__struct_config__", "__struct_encode_fields__")
)  # fmt: skip
#: What is kept in the place of a default that is made anew each time.
_FACTORY: type = type(msgspec.defstruct("_", [("x", list, [])]).__struct_defaults__[0])
#: Names of the fields that may be given by position, whatever a class says of itself.
_POSITIONAL = vars(STRUCT_META)["__match_args__"]
_EARLY = ("__module__", "__qualname__", "__orig_bases__", "__match_args__")
#: Classes that have their attributes: made here by a ``class`` statement, or filled.
_whole: weakref.WeakSet[type] = weakref.WeakSet()


def reduce(cls: type) -> tuple[Any, ...]:
    """What a pickler's ``reducer_override`` returns for a class that cannot be found by its name."""
    _whole.add(cls)
    own = vars(cls)
    fields = _own_fields(cls)
    attributes = {name: value for name, value in own.items() if name not in _MADE and name not in fields}
    early = {name: own[name] for name in _EARLY if name in own}
    tracker_id = by_value._get_or_create_tracker_id(cls)
    made_of = (type(cls), cls.__name__, cls.__bases__, early, fields, dict(own.get("__annotations__", {})))
    arguments = (*made_of, _options(cls, fields), "__post_init__" in own, tracker_id)
    return _make, arguments, attributes, None, None, _fill


def _own_fields(cls: Any) -> dict[str, Any]:
    """Name → how it is declared, of the fields that the class adds to its bases' or declares anew."""
    names, encoded, defaults = cls.__struct_fields__, cls.__struct_encode_fields__, cls.__struct_defaults__
    defaults = (msgspec.NODEFAULT,) * (len(names) - len(defaults)) + defaults
    declared = vars(cls).get("__annotations__", {})
    fields = {}
    for name, called, default in zip(names, encoded, defaults, strict=True):
        if name in declared:
            made_by = getattr(default, "factory", None) if type(default) is _FACTORY else None
            fields[name] = (None if called == name else called, made_by is not None, made_by or default)
    return fields


def _options(cls: Any, fields: dict[str, Any]) -> dict[str, Any]:
    config = cls.__struct_config__
    options = {name: getattr(config, name) for name in _OPTIONS}
    options |= {name: True for name in _INHERITED if getattr(config, name)}
    if config.tag is not None:
        options |= {"tag": config.tag, "tag_field": config.tag_field}
    if fields:
        # Not by its signature, for which annotations must mean something here.
        options["kw_only"] = next(iter(fields)) not in _POSITIONAL.__get__(cls)
    return options


def _make(
    metaclass: Any,
    name: str,
    bases: tuple[type, ...],
    namespace: dict[str, Any],
    fields: dict[str, Any],
    annotations: dict[str, Any],
    options: dict[str, Any],
    has_post_init: bool,
    tracker_id: str,
) -> type:
    namespace["__annotations__"] = annotations
    for field, (called, by_factory, default) in fields.items():
        given = {"default_factory": default} if by_factory else {"default": default}
        namespace[field] = msgspec.field(name=called, **given)
    if has_post_init:
        namespace["__post_init__"] = _late_post_init
    made: type = by_value._lookup_class_or_track(tracker_id, metaclass(name, bases, namespace, **options))
    return made


def _late_post_init(self: Any) -> None:
    """A Struct keeps what it finds under this name when it is made; the real one comes with ``_fill``."""
    type(self).__post_init__(self)


def _fill(cls: type, attributes: dict[str, Any]) -> None:
    if cls not in _whole:
        for name, value in attributes.items():
            setattr(cls, name, value)
        _whole.add(cls)
