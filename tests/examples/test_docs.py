"""What the documentation shows is true: its Python blocks run and print what they say; so do the docstrings.

The ```` ```python ```` blocks of one file are one program, in order. A comment ``# → text`` says what must
be printed: every such text has to appear in a line of the output, in the order of the comments. A block right
below ``<!-- not run -->`` is left out. Files and methods that the pages name exist.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import beamlet as ray
from beamlet import api
from beamlet.api import init_options
from beamlet.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
DEADLINE_S = 60

_BLOCK = re.compile(r"^(?P<mark><!-- not run -->\n+)?```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_EXPECTED = re.compile(r"# → (.*)$", re.MULTILINE)


def program_of(page: Path) -> str:
    """All blocks of a page that are run, as one program with the page's line numbers."""
    text = page.read_text(encoding="utf-8")
    lines: list[str] = []
    for block in _BLOCK.finditer(text):
        if block["mark"] is None:
            first = text.count("\n", 0, block.start("code"))
            lines += [""] * (first - len(lines)) + block["code"].splitlines()
    return "\n".join(lines) + "\n" if lines else ""


PROGRAMS = {str(page.relative_to(ROOT)): program for page in PAGES if (program := program_of(page))}


def test_the_guide_and_the_readme_have_programs() -> None:
    assert {"README.md", "docs/guide.md"} <= PROGRAMS.keys()


@pytest.mark.parametrize("name", PROGRAMS)
def test_page(name: str, tmp_path: Path) -> None:
    script = tmp_path / f"{Path(name).stem}.py"
    script.write_text(PROGRAMS[name], encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0, f"the program of {name} failed:\n{printed}"
    lines = iter(done.stdout.splitlines())
    for expected in _EXPECTED.findall(PROGRAMS[name]):
        assert any(expected in line for line in lines), (
            f"{name} promises {expected!r}, but printed\n{printed}"
        )


# --- names ------------------------------------------------------------------------------------------

NAMED_IN = [
    page
    for page in PAGES
    if page.name
    in (
        "architecture.md",
        "limits.md",
        "transport.md",
        "slabs.md",
        "output.md",
        "decisions.md",
        "CONTRIBUTING.md",
    )
]
_FILE = re.compile(r"`([\w/]+\.(?:py|toml|md))`")
_METHOD = re.compile(r"`([A-Z][A-Za-z]*[a-z]\w*)\.(\w+)`")
_FUNCTION = re.compile(r"`(\w+)\(\)`")


def defined() -> tuple[set[str], set[tuple[str, str]]]:
    """All functions, and all (class, method), of the package."""
    functions: set[str] = set()
    methods: set[tuple[str, str]] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions.add(node.name)
            elif isinstance(node, ast.ClassDef):
                parts = [
                    part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
                ]
                methods |= {(node.name, part.name) for part in parts}
    return functions, methods


def test_what_pages_name_exists() -> None:
    functions, methods = defined()
    roots = (ROOT, ROOT / "src" / "beamlet", ROOT / "docs")
    missing: list[str] = []
    for page in NAMED_IN:
        text = page.read_text(encoding="utf-8")
        missing += [name for name in _FILE.findall(text) if not any((root / name).exists() for root in roots)]
        missing += [".".join(found) for found in _METHOD.findall(text) if found not in methods]
        missing += [f"{name}()" for name in _FUNCTION.findall(text) if name not in functions]
    assert missing == []


def test_every_setting_is_in_the_guide() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    variables = set(re.findall(r'"((?:BEAMLET|RAY)_[A-Z_]+)"', sources)) - {"RAY_EXCEPTION_TYPES"}
    wanted = [
        *variables,
        *init_options._SETTERS,
        *(f"beamlet {c.__name__.rpartition('.')[2]}" for c in COMMANDS),
    ]
    assert [name for name in wanted if name not in guide] == []
    promised = set(re.findall(r"(?:BEAMLET|RAY)_[A-Z_]+", guide))
    assert promised <= variables | {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"}


# --- docstrings ---------------------------------------------------------------------------------


def documented() -> Iterator[doctest.DocTest]:
    """Docstrings of the public API that contain an example."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for found in pkgutil.iter_modules(api.__path__, "beamlet.api."):
        for test in finder.find(importlib.import_module(found.name)):
            if test.examples:
                yield test


DOCTESTS = {test.name: test for test in documented()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


def test_the_public_api_has_examples() -> None:
    assert {"beamlet.api.remote.remote", "beamlet.api.values.get", "beamlet.api.init.init"} <= DOCTESTS.keys()


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("name", DOCTESTS)
def test_docstring(name: str) -> None:
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(DOCTESTS[name], out=report.append)
    assert not report, "".join(report)


_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = _LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
