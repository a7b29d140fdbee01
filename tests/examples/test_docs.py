"""What the documentation shows is true: its Python blocks run and print what they say; so do the docstrings.

The ```` ```python ```` blocks of one file are one program, in order. A comment ``# → text`` says what must be
printed: every such text has to appear in a line of the output, in the order of the comments. A block right below
``<!-- not run -->`` is left out.
"""

from __future__ import annotations

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
