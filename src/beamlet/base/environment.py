"""● Environment variables as messages carry them: as text, although the system's are bytes.

Bytes that are not UTF-8 are lone surrogates to Python, which no message can hold.  NUL can be in no variable,
so it marks a text that spells such bytes out, a character for each.  Users may refer to other variables:
``{"PATH": "/mine:${PATH}"}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_SPELT_OUT = "\0"


def to_wire(variables: Mapping[str, str]) -> dict[str, str]:
    """Raises UnicodeEncodeError for surrogates that stand for no byte."""
    return {_spelt(name): _spelt(value) for name, value in variables.items()}


def from_wire(variables: Mapping[str, str]) -> dict[str, str]:
    return {_read(name): _read(value) for name, value in variables.items()}


def _spelt(text: str) -> str:
    raw = text.encode("utf-8", "surrogateescape")
    try:
        raw.decode()
    except UnicodeDecodeError:
        return _SPELT_OUT + raw.decode("latin-1")
    return text


def _read(text: str) -> str:
    if not text.startswith(_SPELT_OUT):
        return text
    return text.removeprefix(_SPELT_OUT).encode("latin-1").decode("utf-8", "surrogateescape")


_REFERENCE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def expanded(env_vars: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """``env_vars``, with ``$NAME`` and ``${NAME}`` as ``environment`` and the variables before have them.

    An unknown ``${NAME}`` becomes nothing; an unknown ``$NAME`` stays, as it may be part of a password.

    >>> expanded({"A": "1", "B": "${A}:${B}:${C}:$C"}, {"B": "2"})
    {'A': '1', 'B': '1:2::$C'}
    """
    result: dict[str, str] = {}

    def value_of(found: re.Match[str]) -> str:
        bare, braced = found.groups()
        value = result.get(bare or braced, environment.get(bare or braced))
        return value if value is not None else "" if braced else found[0]

    for name, value in env_vars.items():
        result[name] = _REFERENCE.sub(value_of, value) if "$" in value else value
    return result
