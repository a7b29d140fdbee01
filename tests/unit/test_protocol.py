"""The protocol as a whole: tags, round trips, and the bytes of every kind of message.

golden.txt holds one line a message. A changed line is a changed protocol: mean it, then write the file anew
with ``PYTHONPATH=src python tests/unit/test_protocol.py``.
"""

from __future__ import annotations

import importlib
import pkgutil
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

import beamlet.protocol
from beamlet.protocol.message import Message

GOLDEN = Path(__file__).with_name("golden.txt")
#: message.py: which conversation owns which tags.
RANGES = {"peer": (1, 29), "node": (30, 89), "gcs": (90, 129), "factory": (130, 149)}


def modules() -> list[types.ModuleType]:
    names = [module.name for module in pkgutil.iter_modules(beamlet.protocol.__path__)]
    return [importlib.import_module(f"beamlet.protocol.{name}") for name in names]


def kinds() -> list[type[Message]]:
    """Every message class with a tag, in the order of the tags."""
    found = {
        value
        for module in modules()
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Message) and isinstance(tag_of(value), int)
    }
    return sorted(found, key=tag_of)


def tag_of(kind: type[Message]) -> Any:
    return kind.__struct_config__.tag


def example(kind: Any, depth: int = 0) -> Any:
    """A value of a type, always the same, with something in every container."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, typing.NewType):
        return example(kind.__supertype__, depth)
    if origin in (typing.Union, types.UnionType):
        return example(next(a for a in arguments if a is not type(None)), depth)
    if origin in (list, Sequence):
        return [example(arguments[0], depth + 1)]
    if origin is dict:
        return {example(arguments[0]): example(arguments[1], depth + 1)}
    if origin is tuple:
        inner = arguments[:1] if arguments[-1] is Ellipsis else arguments
        return tuple(example(argument, depth + 1) for argument in inner)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return kind(**{field: example(hints[field], depth + 1) for field in kind.__struct_fields__})
    plain = {int: 7, str: "s", bytes: b"b", bool: True, float: 0.5, type(None): None}
    if kind in plain:
        return plain[kind]
    raise NotImplementedError(f"no example for a field of type {kind!r}: add one")


def golden_lines() -> list[str]:
    return [
        f"{tag_of(kind)} {kind.__name__} {msgspec.msgpack.encode(example(kind)).hex()}" for kind in kinds()
    ]


def test_tags_are_unique() -> None:
    tags = [tag_of(kind) for kind in kinds()]
    assert len(tags) == len(set(tags)), [tag for tag in tags if tags.count(tag) > 1]
    assert len(tags) > 80, "messages were not found"


@pytest.mark.parametrize(("module", "bounds"), RANGES.items())
def test_tags_stay_in_the_range_of_their_conversation(module: str, bounds: tuple[int, int]) -> None:
    own = [kind for kind in kinds() if kind.__module__ == f"beamlet.protocol.{module}"]
    assert own
    assert {kind.__name__: tag_of(kind) for kind in own if not bounds[0] <= tag_of(kind) <= bounds[1]} == {}


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_a_message_survives_the_wire(kind: type[Message]) -> None:
    message = example(kind)
    data = msgspec.msgpack.encode(message)
    assert msgspec.msgpack.decode(data, type=kind) == message
    assert msgspec.msgpack.decode(data)[0] == tag_of(kind), "an array that begins with its tag"


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_a_message_without_its_defaults_survives_too(kind: type[Message]) -> None:
    """Fields are added with defaults at the end: an older sender leaves them out."""
    hints = typing.get_type_hints(kind)
    required = msgspec.structs.fields(kind)
    values = {field.name: example(hints[field.name]) for field in required if field.required}
    names = [field.name for field in required]
    assert names[: len(values)] == list(values), "a field without default stands behind one that has one"
    array = msgspec.msgpack.decode(msgspec.msgpack.encode(kind(**values)))[: 1 + len(values)]
    assert msgspec.convert(array, kind) == kind(**values)


def test_bytes_on_the_wire_are_what_they_were() -> None:
    before = GOLDEN.read_text().splitlines()
    now = golden_lines()
    changed = sorted(set(before) ^ set(now))
    advice = "run `PYTHONPATH=src python tests/unit/test_protocol.py` if these changes are meant:"
    assert now == before, "\n".join([advice, *changed])


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(golden_lines()) + "\n")
