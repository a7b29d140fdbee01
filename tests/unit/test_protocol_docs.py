"""docs/protocols/README.md is generated from the message classes; this checks that it is current.

Run as a program, it writes it: ``PYTHONPATH=src python tests/unit/test_protocol_docs.py``.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import msgspec

from beamlet.protocol import cluster, factory, gcs, message, node, peer

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocols" / "README.md"
CONVERSATIONS = (peer, node, gcs, factory, cluster)

_HEAD = """# Messages

Generated from `src/beamlet/protocol/` by `python tests/unit/test_protocol_docs.py`; do not edit.

A message is a msgspec Struct, encoded as the msgpack array `[tag, field, …]`. A frame holds a batch of them:

    u32 header length | u32 payload length (0 in this release) | header: msgpack list of messages

How frames travel is in `rpc/framing.py` and `rpc/connection.py`. A receiver lists the types it accepts; any
other message closes the connection. Fields with `=` may be left out at the end. Values of users are opaque.
"""


def document() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_chapter(module) for module in CONVERSATIONS)])


def _chapter(module: ModuleType) -> str:
    doc = inspect.getdoc(module) or ""
    title, _, rest = doc.partition("\n")
    name = module.__name__.rpartition(".")[2]
    rows = "\n".join(_row(cls) for cls in messages(module))
    return f"""## `{name}.py`

{title}
{rest}

| tag | message | fields | meaning |
|--:|---|---|---|
{rows}
"""


def messages(module: ModuleType) -> Iterator[type[msgspec.Struct]]:
    """Its messages by tag, then the records they are made of."""
    found = [
        cls
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, msgspec.Struct) and cls.__module__ == module.__name__
    ]
    yield from sorted((cls for cls in found if issubclass(cls, message.Message)), key=tag)
    yield from (cls for cls in found if not issubclass(cls, message.Message))


def tag(cls: type[msgspec.Struct]) -> int:
    value = cls.__struct_config__.tag
    assert isinstance(value, int), f"{cls.__name__} has no tag"
    return value


def _row(cls: type[msgspec.Struct]) -> str:
    number = str(tag(cls)) if issubclass(cls, message.Message) else "–"
    fields = ", ".join(_fields(cls)) or "–"
    written = cls.__doc__ or ""
    meaning = " ".join(inspect.cleandoc(written).split()).replace("|", "\\|")
    return f"| {number} | {cls.__name__} | {fields} | {meaning} |"


def _fields(cls: type[msgspec.Struct]) -> Iterator[str]:
    written = _annotations_as_written(cls)
    for field in msgspec.structs.fields(cls):
        optional = field.default is not msgspec.NODEFAULT or field.default_factory is not msgspec.NODEFAULT
        kind = written[field.name].replace("|", "\\|")
        yield f"`{field.name}`: {kind}{' =' if optional else ''}"


def _annotations_as_written(cls: type[msgspec.Struct]) -> dict[str, str]:
    """Read from the source: the classes hold types, whose names are longer than people write them."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    return {
        line.target.id: ast.unparse(line.annotation)
        for line in body.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }


def test_document_is_current() -> None:
    written = DOCUMENT.read_text(encoding="utf-8")
    assert written == document(), f"docs/protocols/README.md is out of date: run python {__file__}"


def test_no_tag_is_used_twice() -> None:
    tags: dict[int, str] = {}
    for module in CONVERSATIONS:
        for cls in messages(module):
            if issubclass(cls, message.Message):
                assert tag(cls) not in tags, f"{cls.__name__} and {tags[tag(cls)]} share tag {tag(cls)}"
                tags[tag(cls)] = cls.__name__
    assert len(tags) > 100


if __name__ == "__main__":
    DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
    DOCUMENT.write_text(document(), encoding="utf-8")
