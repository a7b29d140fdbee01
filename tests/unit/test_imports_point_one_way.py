"""The map of who may import whom, as data, and the walk that keeps it true (style-anchors §2.1–2.2).

Run with ``-s`` to see the longest files and functions, so that growth is noticed while it is cheap to split.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[2] / "src"

#: Left to right: a layer may import itself and what stands above it in this list, nothing below.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("base",),
    ("exceptions",),
    ("protocol",),
    ("scheduling",),
    ("rpc", "processes", "serialization", "object_store"),
    ("core_worker", "raylet", "gcs"),
    ("head",),
    ("api",),
    # The names Ray's users import: what re-exports from api, and tools made of it.
    (
        "",
        "_common",
        "_private",
        "actor",
        "cloudpickle",
        "cluster_utils",
        "dag",
        "experimental",
        "internal",
        "job_config",
        "remote_function",
        "runtime_context",
        "runtime_env",
        "types",
        "util",
    ),
    ("cli", "__main__"),
)
#: Meet as messages in protocol/, never as imports.
STRANGERS = frozenset({"core_worker", "raylet", "gcs"})
#: The head composes services, and talks to no user.
HEAD_MAY_IMPORT = frozenset(
    {"base", "exceptions", "protocol", "scheduling", "rpc", "processes", "serialization", "object_store"}
    | {"raylet", "gcs", "head"}
)
#: It may name these inside functions only: what the workers that its factory forks are to run.
HEAD_MAY_DEFER = frozenset({"core_worker"})

#: Modules that decide and do no I/O. A ● in its docstring's first line adds a module to this list.
SANS_IO = (
    *("base", "base.*", "protocol", "protocol.*", "scheduling", "scheduling.*", "rpc.framing"),
    "rpc.frame_budget",
    *("object_store.allocator", "object_store.extents", "object_store.lifecycle", "object_store.admission"),
    *(
        "object_store.store",
        "object_store.slabs",
        "object_store.outcomes",
        "object_store.full_report",
        "object_store.layout",
    ),
    *(
        "core_worker.owning.reference_counter",
        "core_worker.owning.object_record",
        "core_worker.owning.own_slab",
        "core_worker.owning.borrowing",
    ),
    *(
        "core_worker.submitting.key_state",
        "core_worker.submitting.task_submitter",
        "core_worker.submitting.actor_submitter",
        "core_worker.submitting.pending",
        "core_worker.submitting.task_spec",
    ),
    *("raylet.lease_manager", "raylet.worker_pool", "raylet.resource_ledger", "raylet.output_router"),
    *("raylet.lease_queue", "raylet.lease_effects", "raylet.worker_record", "raylet.job_ends"),
    *("gcs.nodes", "gcs.jobs", "gcs.kv", "gcs.task_events", "gcs.actor*", "gcs.living_actors", "gcs.storage"),
    *("gcs.farewells", "api.option*", "api.signatures"),
)
#: May be used by decisions although they are not decisions themselves: what an error is, it is everywhere.
NEUTRAL = ("", "exceptions", "exceptions.*", *SANS_IO)
FORBIDDEN_IN_SANS_IO = frozenset(
    {"asyncio", "multiprocessing", "os", "random", "secrets", "select", "selectors", "socket", "subprocess"}
    | {"threading", "time", "concurrent", "queue", "mmap", "psutil", "uvloop"}
)
#: (module, import): why it is right all the same.
EXCUSED = {("base.ids", "os"): "new ids are random by definition: os.urandom, nothing else"}


#: The rooms of core_worker: one imports itself, the rooms left of it, and the files at the top.
ROOMS = ("owning", "submitting", "executing", "waiting")
#: They put the rooms together, so they see all of them; nobody imports or receives what they make.
COMPOSITIONS = frozenset(
    f"core_worker.{name}" for name in ("core_worker", "driver", "executor", "worker_main")
)


class Import(NamedTuple):
    importer: str
    #: Dotted; below the package for our own modules, as written for others.
    target: str
    ours: bool
    line: int

    def __str__(self) -> str:
        return (
            f"src/beamlet/{self.importer.replace('.', '/')}.py:{self.line} imports {self.target or 'beamlet'}"
        )


@cache
def modules() -> dict[str, Path]:
    """{'api.options': path}; a package is named by its folder, the root package is ''."""
    root = SOURCE / "beamlet"
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[Import]:
    """Every import of a module, also those inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _import(module, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            for alias in node.names:
                name = f"{base}.{alias.name}"
                # `from beamlet.api import options` names a module, `… import check` from it does not.
                is_module = name.removeprefix("beamlet.") in modules() and name.startswith("beamlet.")
                yield _import(module, name if is_module else base, node.lineno)


def absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = ["beamlet", *module.split(".")]
    if modules()[module].name != "__init__.py":
        package.pop()
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


def _import(importer: str, target: str, line: int) -> Import:
    if target == "beamlet" or target.startswith("beamlet."):
        return Import(importer, target.removeprefix("beamlet").removeprefix("."), True, line)
    return Import(importer, target, False, line)


def part(module: str) -> str:
    return module.partition(".")[0]


@cache
def rank(module_part: str) -> int:
    for index, layer in enumerate(LAYERS):
        if module_part in layer:
            return index
    raise AssertionError(f"beamlet.{module_part} stands in no layer: add it to LAYERS in {__file__}")


def product_modules() -> list[str]:
    return [module for module in modules() if part(module) != "testing"]


def own_imports() -> Iterator[Import]:
    return (each for module in product_modules() for each in imports(module) if each.ours)


def matches(module: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(module, pattern) for pattern in patterns)


def is_sans_io(module: str) -> bool:
    first_line = (ast.get_docstring(tree(module)) or "").partition("\n")[0]
    return matches(module, SANS_IO) or "●" in first_line


def is_package_marker(module: str) -> bool:
    """A folder's ``__init__`` that imports nothing: importing it drags nothing in."""
    return modules()[module].name == "__init__.py" and not list(imports(module))


def test_there_is_something_to_check() -> None:
    assert "base.ids" in modules()
    assert any(is_sans_io(module) for module in modules())


def test_every_part_stands_in_a_layer() -> None:
    for module in product_modules():
        rank(part(module))


def test_imports_point_left() -> None:
    wrong = [
        str(i)
        for i in own_imports()
        if part(i.target) != "testing" and rank(part(i.target)) > rank(part(i.importer))
    ]
    assert not wrong, "imports that point right:\n" + "\n".join(wrong)


def test_core_worker_raylet_and_gcs_are_strangers() -> None:
    wrong = [
        str(i)
        for i in own_imports()
        if {part(i.importer), part(i.target)} <= STRANGERS and part(i.importer) != part(i.target)
    ]
    assert not wrong, "these meet only as messages in protocol/:\n" + "\n".join(wrong)


def test_the_head_composes_services_and_is_no_core_worker() -> None:
    deferred = {
        (module, node.lineno)
        for module in modules()
        for function in ast.walk(tree(module))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    wrong = [
        str(i)
        for i in own_imports()
        if part(i.importer) == "head"
        and part(i.target) not in HEAD_MAY_IMPORT
        and not (part(i.target) in HEAD_MAY_DEFER and (i.importer, i.line) in deferred)
    ]
    assert not wrong, "\n".join(wrong)


def room(module: str) -> int:
    """The rank of a core_worker module's room; the files at the top stand left of all rooms."""
    _, _, rest = module.partition("core_worker.")
    return ROOMS.index(rest.partition(".")[0]) if rest.partition(".")[0] in ROOMS else -1


def test_rooms_of_the_core_worker_import_left() -> None:
    wrong = [str(i) for i in own_imports() if room(i.importer) >= 0 and room(i.target) > room(i.importer)]
    assert not wrong, "rooms meet what stands right of them as a Protocol of their own:\n" + "\n".join(wrong)


def test_nobody_receives_the_core_worker() -> None:
    takers = {
        i.importer
        for i in own_imports()
        if part(i.importer) == "core_worker"
        and i.target == "core_worker.core_worker"
        and i.importer not in COMPOSITIONS
    }
    assert not takers, "give it what it uses, by name"


def test_nothing_imports_testing() -> None:
    wrong = [str(i) for i in own_imports() if part(i.target) == "testing"]
    assert not wrong, "\n".join(wrong)


def test_decisions_do_no_io() -> None:
    wrong = [
        str(i)
        for module in filter(is_sans_io, modules())
        for i in imports(module)
        if not i.ours and part(i.target) in FORBIDDEN_IN_SANS_IO and (module, part(i.target)) not in EXCUSED
    ]
    assert not wrong, (
        "modules marked ● are given time, randomness and I/O, they do not take it:\n" + "\n".join(wrong)
    )


def test_decisions_use_no_shell() -> None:
    """What a decision imports is a decision, too; else I/O comes in by the back door."""
    wrong = [
        str(i)
        for module in filter(is_sans_io, modules())
        for i in imports(module)
        if i.ours and not (is_sans_io(i.target) or matches(i.target, NEUTRAL) or is_package_marker(i.target))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("pattern", SANS_IO)
def test_every_name_in_the_list_exists(pattern: str) -> None:
    assert any(fnmatch(module, pattern) for module in modules()), "renamed or gone: then change the list"


def test_every_excuse_is_still_needed() -> None:
    used = {(module, part(i.target)) for module in modules() for i in imports(module)}
    assert set(EXCUSED) <= used


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from beamlet.gcs.actors import Table", {"gcs.actors"}),
        ("def f():\n    import beamlet.api.options", {"api.options"}),
        ("from . import lease_manager", {"raylet"}),
        ("from ..gcs import nodes", {"gcs"}),
    ],
)
def test_the_walk_sees_every_spelling(
    source: str, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checker that overlooks a spelling passes for ever."""
    fake = {"raylet.pool": SOURCE / "beamlet/raylet/pool.py", "gcs.actors": SOURCE / "beamlet/gcs/actors.py"}
    monkeypatch.setitem(globals(), "modules", lambda: fake | {"api.options": SOURCE})
    monkeypatch.setitem(globals(), "tree", lambda module: ast.parse(source))
    assert {i.target for i in imports("raylet.pool")} == expected


def test_report_longest() -> None:
    """No verdict: prints what grows."""
    files = sorted(((len(p.read_text().splitlines()), m) for m, p in modules().items()), reverse=True)
    functions = sorted(
        (
            (node.end_lineno - node.lineno + 1, f"{module}.{node.name}")
            for module in modules()
            for node in ast.walk(tree(module))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
        ),
        reverse=True,
    )
    print(f"\n{len(files)} files, {sum(n for n, _ in files)} lines; longest files and functions:")
    for (lines, module), (length, name) in zip(files[:10], functions[:10], strict=False):
        print(f"  {lines:5} {module:40} {length:5} {name}")
    assert files
    assert functions
