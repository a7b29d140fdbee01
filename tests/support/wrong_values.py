"""Values that no argument, or few arguments, can use: what users pass by mistake, and what nobody would."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any


class Unshowable:
    """Not even its repr works."""

    def __repr__(self) -> str:
        raise ValueError("no repr")


class LyingNumber:
    """Says it is a number, and is none."""

    def __index__(self) -> int:
        raise RuntimeError("no index")

    def __float__(self) -> float:
        raise RuntimeError("no float")


class Text(str):
    """msgpack does not take subclasses of what it takes."""

    __slots__ = ()


class Number(int):
    """The same, of int."""


ZOO: dict[str, Any] = {
    "None": None,
    "True": True,
    "-1": -1,
    "0": 0,
    "3": 3,
    "an int's subclass": Number(2),
    "10**30": 10**30,
    "-10**30": -(10**30),
    "1.5": 1.5,
    "nan": math.nan,
    "inf": math.inf,
    "1e308": 1e308,
    "empty": "",
    "'5'": "5",
    "'no'": "no",
    "a str's subclass": Text("word"),
    "a very long text": "x" * 100_000,
    "a surrogate": "\ud800",
    "a NUL": "a\0b",
    "two lines": "one\ntwo",
    "bytes": b"\xff",
    "a Path": Path("file"),
    "[]": [],
    "[3]": [3],
    "()": (),
    "{}": {},
    "{1: 2}": {1: 2},
    "{'a': nan}": {"a": math.nan},
    "{'a': 10**30}": {"a": 10**30},
    "{'a': '1'}": {"a": "1"},
    "{surrogate: 1}": {"\ud800": 1},
    "{'a=b': 'c'}": {"env_vars": {"a=b": "c"}},
    "{'a': surrogate}": {"env_vars": {"a": "\udcff"}},
    "{'a': NUL}": {"env_vars": {"a": "b\0c"}},
    "{'': ''}": {"env_vars": {"": ""}},
    "an object": object(),
    "a class": int,
    "a function": len,
    "no repr": Unshowable(),
    "a lying number": LyingNumber(),
}
