"""Names Ray has in ``ray.util.serialization``: pickling of your own, per process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beamlet.api.argument_table import checked
from beamlet.base.own_code import for_users
from beamlet.serialization import values

__all__ = ["deregister_serializer", "register_serializer"]


@for_users
def register_serializer(
    cls: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]
) -> None:
    """Use ``serializer``/``deserializer`` for instances of exactly ``cls`` that this process sends."""
    function = "util.register_serializer"
    checked(function, "cls", cls)
    checked(function, "serializer", serializer)
    checked(function, "deserializer", deserializer)
    values.register_serializer(cls, serializer=serializer, deserializer=deserializer)


@for_users
def deregister_serializer(cls: type) -> None:
    """Back to pickling for instances of ``cls``. It is no error if none was registered."""
    values.deregister_serializer(checked("util.deregister_serializer", "cls", cls))
