"""docs/reference.md is made from the code: every public name, what it takes, what it does.

Run this file as a program to write it anew: ``PYTHONPATH=src:. python tests/unit/test_reference_docs.py``.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import beamlet
from beamlet.api.argument_table import FUNCTIONS
from beamlet.api.not_here import NOT_HERE
from beamlet.api.option_table import OPTIONS
from beamlet.exceptions import __all__ as exceptions

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference.md"
HEAD = """# API reference

Made from the code by `tests/unit/test_reference_docs.py`; do not edit. The [guide](guide.md) explains how it
goes together. Names, arguments and defaults are those of Ray Core.
"""
#: Section → (module, names).
SECTIONS = {
    "Clusters": ("beamlet", ("init", "shutdown", "is_initialized", "nodes", "cluster_resources",
                             "available_resources", "timeline", "get_runtime_context", "get_gpu_ids")),
    "Tasks and actors": ("beamlet", ("remote", "method", "get_actor", "kill", "cancel")),
    "Objects": ("beamlet", ("get", "put", "wait", "ObjectRef")),
    "Classes": ("beamlet", ("ActorClass", "ActorHandle", "LoggingConfig")),
    "beamlet.actor": ("beamlet.actor", ("ActorMethod", "exit_actor")),
    "beamlet.util": ("beamlet.util", ("ActorPool", "as_completed", "map_unordered", "inspect_serializability",
                                      "list_named_actors", "register_serializer", "deregister_serializer",
                                      "get_node_ip_address", "log_once")),
    "beamlet.util.queue": ("beamlet.util.queue", ("Queue", "Empty", "Full")),
    "beamlet.util.scheduling_strategies": ("beamlet.util.scheduling_strategies",
                                           ("NodeAffinitySchedulingStrategy",)),
    "beamlet.runtime_env": ("beamlet.runtime_env", ("RuntimeEnv",)),
    "beamlet.job_config": ("beamlet.job_config", ("JobConfig",)),
}  # fmt: skip
_KINDS = {"t": "task", "a": "actor", "m": "method", "c": "call"}


def page() -> str:
    parts = [HEAD]
    for section, (module_name, names) in SECTIONS.items():
        module = importlib.import_module(module_name)
        parts.append(f"## {section}\n")
        parts += [entry(name, getattr(module, name), module_name) for name in names]
    parts += ["## Options\n", *option_rows(), "", "## Exceptions\n", *exception_rows(), ""]
    parts += ["## Not here\n", *missing_rows(), ""]
    return "\n".join(parts)


#: Classes that programs are given and do not call.
NOT_CALLED = ("ObjectRef", "ActorClass", "ActorHandle", "ActorMethod")
#: Methods that are only there to say what to do instead.
NOT_HERE_EITHER = ("add_done_callback",)


def entry(name: str, value: Any, module_name: str) -> str:
    call = "" if name in NOT_CALLED else signature(value)
    lines = [f"### {name}", f"`{name}{call}`", "", text_of(value), *rule_rows(name, module_name)]
    if inspect.isclass(value):
        for method_name, function in public_methods(value):
            said = text_of(function).partition("\n")[0]
            lines.append(f"- `{method_name}{signature(function)}`: {said}")
        lines.append("")
    return "\n".join(lines)


def public_methods(cls: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(cls).items():
        is_public = not name.startswith("_") and name not in NOT_HERE_EITHER
        if is_public and inspect.isfunction(member) and inspect.getdoc(member):
            yield name, member


def signature(value: Any) -> str:
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):
        return ""
    text = re.sub(r" -> .*$", "", text).replace("self, /, ", "").replace("self, ", "").replace("(self)", "()")
    return re.sub(r"[\w.]*\.(\w+)", r"\1", text).replace("'", "") if "'" in text else text


def text_of(value: Any) -> str:
    """The docstring without its examples, which the guide has."""
    text = inspect.getdoc(value) or ""
    return text.partition("\n>>> ")[0].rstrip().replace("``", "`")


def rule_rows(name: str, module_name: str) -> list[str]:
    prefix = module_name.removeprefix("beamlet").lstrip(".")
    rules = FUNCTIONS.get(f"{prefix}.{name}" if prefix else name, {})
    known = [(a, r.expected) for a, r in rules.items() if r.check is not None and not a.startswith("_")]
    if not known:
        return [""]
    return ["", "| argument | must be |", "|---|---|", *(f"| `{a}` | {e} |" for a, e in known), ""]


def option_rows() -> Iterator[str]:
    yield "What `@remote(…)`, `.options(…)` and `@method(…)` take.\n"
    yield "| option | of | meaning |"
    yield "|---|---|---|"
    for option in OPTIONS.values():
        kinds = ", ".join(_KINDS[letter] for letter in option.where)
        yield f"| `{option.name}` | {kinds} | {option.meaning} |"


def exception_rows() -> Iterator[str]:
    yield "All in `beamlet.exceptions`; those of Ray 1.x are aliases.\n"
    yield "| class | is a | when |"
    yield "|---|---|---|"
    for name in exceptions:
        cls = getattr(beamlet.exceptions, name)
        if inspect.isclass(cls) and issubclass(cls, BaseException) and cls.__name__ == name:
            bases = ", ".join(_as_users_know_it(base).__name__ for base in cls.__bases__)
            yield f"| `{name}` | {bases} | {text_of(cls).partition(chr(10))[0]} |"


def _as_users_know_it(base: type) -> type:
    """The helpers of exceptions/root.py are none that one could import."""
    while issubclass(base, beamlet.exceptions.RayError) and not hasattr(beamlet.exceptions, base.__name__):
        base = base.__bases__[0]
    return base


def missing_rows() -> Iterator[str]:
    yield "Names of Ray that raise ImportError or AttributeError, which say the same.\n"
    yield "| name | what it is | instead |"
    yield "|---|---|---|"
    for name, missing in NOT_HERE.items():
        yield f"| `ray.{name}` | {missing.what} | {missing.instead} |"
    yield "| `f.bind`, `Class.bind`, `handle.method.bind` | as `ray.dag` | as there |"


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="others print some signatures differently")
def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), f"run python {Path(__file__).name} to write it anew"


def test_every_public_name_is_in_it() -> None:
    listed = {name for _, names in SECTIONS.values() for name in names}
    ids = {name for name in beamlet.__all__ if name.endswith("ID")}
    assert set(beamlet.__all__) - listed - ids == {"__commit__", "__version__", "exceptions"}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
