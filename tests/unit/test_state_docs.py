"""docs/states/*.md are generated from the tables they show; this checks that they are current.

Run as a program, it writes them: ``PYTHONPATH=src python tests/unit/test_state_docs.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from beamlet.gcs import actor_states

DOCS = Path(__file__).parents[2] / "docs" / "states"
#: File → what it must contain.
DOCUMENTS: dict[str, Callable[[], str]] = {"actor.md": actor_states.document}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_is_current(name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == DOCUMENTS[name](), f"docs/states/{name} is out of date: run python {__file__}"


if __name__ == "__main__":
    DOCS.mkdir(parents=True, exist_ok=True)
    for file_name, document in DOCUMENTS.items():
        (DOCS / file_name).write_text(document(), encoding="utf-8")
