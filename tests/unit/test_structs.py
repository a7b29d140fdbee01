"""Structs that cannot be found by name: their classes travel whole, and come back as what they were."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import beamlet
from beamlet.exceptions import carried
from beamlet.serialization import remote_error
from beamlet.serialization.decorated import Pickler

#: What a program defines in its ``__main__``; a second process unpickles it, uses it and sends it back.
CLASSES = """
from typing import ClassVar, Generic, TypeVar
import msgspec

T = TypeVar("T")
class Plain(msgspec.Struct):
    a: int
    b: str = "x"
    c: list = []
    limit: ClassVar[int] = 7
    def twice(self): return self.a * 2 * type(self)(1).a
class Derived(Plain, frozen=True, kw_only=True, tag="t", tag_field="kind"):
    d: float = 1.5
    e: dict = msgspec.field(default_factory=dict, name="EE")
    def twice(self): return super().twice() + 1
class Tree(msgspec.Struct, weakref=True, dict=True):
    left: "Tree | None" = None
    def leaf(self): return Tree()
class Checked(msgspec.Struct, array_like=True, gc=False, order=True, rename="camel"):
    first_name: int = 3
    def __post_init__(self):
        if self.first_name < 0: raise ValueError("negative")
class Looser(Checked):
    def __post_init__(self):
        if self.first_name != -1: super().__post_init__()
class Of(msgspec.Struct, Generic[T], eq=False):
    x: T
    def __eq__(self, other): return isinstance(other, Of) and self.x == other.x
    __hash__ = None
VALUES = [Plain(1, c=[2]), Derived(a=2, e={"k": 1}), Tree(Tree()), Checked(4), Looser(-1), Of(5)]
"""
SENDER = f"""
import io, pickle, subprocess, sys
from beamlet.serialization.decorated import Pickler
{CLASSES}
def dumps(value):
    file = io.BytesIO()
    Pickler(file, 5).dump(value)
    return file.getvalue()
def ask(values):
    done = subprocess.run([sys.executable, sys.argv[1]], input=dumps((dumps, values)), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)
twice, back, facts, refused = ask(VALUES)
assert back == VALUES, back
assert [type(b) for b in back] == [type(v) for v in VALUES], "they are the classes that left"
assert twice == [2, 5]
assert refused == ["negative", "negative"], refused
for cls, fact in zip([type(v) for v in VALUES], facts):
    config = cls.__struct_config__
    mine = [getattr(config, n) for n in dir(config) if not n.startswith("_")]
    assert fact == (cls.__struct_fields__, cls.__struct_encode_fields__, mine, cls.__qualname__), (cls, fact)
assert Plain(3).twice() == 6 and Plain.twice.__globals__ is globals(), "nothing of ours was replaced"
print("fine")
"""
RECEIVER = """
import pickle, sys, weakref
import msgspec
dumps, values = pickle.loads(sys.stdin.buffer.read())
plain, derived, tree, checked, looser, of = values
assert type(plain).limit == 7 and weakref.ref(tree)() is tree and type(tree.leaf()) is type(tree)
assert msgspec.json.decode(b'{"kind":"t","a":1,"EE":{}}', type=type(derived)).d == 1.5
try: type(derived)(1)
except TypeError: pass  # its own fields are by name only
def config(cls):
    found = cls.__struct_config__
    return [getattr(found, n) for n in dir(found) if not n.startswith("_")]
types = [type(value) for value in values]
facts = [(c.__struct_fields__, c.__struct_encode_fields__, config(c), c.__qualname__) for c in types]
refused = []
for cls, number in ((type(checked), -1), (type(looser), -2)):
    try: cls(number)
    except ValueError as error: refused.append(str(error))
sys.stdout.buffer.write(dumps(([plain.twice(), derived.twice()], values, facts, refused)))
"""


def test_structs_of_a_program_go_to_another_process_and_come_back(tmp_path: Path) -> None:
    (tmp_path / "sender.py").write_text(SENDER)
    (tmp_path / "receiver.py").write_text(RECEIVER)
    ran = subprocess.run(
        [sys.executable, tmp_path / "sender.py", tmp_path / "receiver.py"],
        env={"PYTHONPATH": str(Path(beamlet.__file__).parents[1])},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, b"fine\n"), ran.stderr.decode()


def dumps(value: Any) -> bytes:
    file = io.BytesIO()
    Pickler(file, 5).dump(value)
    return file.getvalue()


def test_errors_carry_them_too() -> None:
    """In another process; here the class would be found, however it was described."""

    class Part(msgspec.Struct):
        a: int

    assert carried.pickler is remote_error.Pickler
    assert b"beamlet.serialization.structs" in carried.dumps(ValueError(Part(1)))


def test_one_that_a_module_holds_is_found_there() -> None:
    config = msgspec.structs.StructConfig
    assert pickle.loads(dumps(config)) is config
    assert b"_make" not in dumps(beamlet.exceptions.CallSite)


def test_one_inside_its_own_default_is_refused_with_what_to_do() -> None:
    class Node(msgspec.Struct):
        next: Any = msgspec.field(default_factory=lambda: Node(None))

    with pytest.raises(TypeError, match=r"Node is part of its own fields.*define it in a module"):
        dumps(Node(None))
