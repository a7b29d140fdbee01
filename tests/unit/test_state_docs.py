"""docs/states/*.md are generated from the tables they show; this checks that they are current.

Run as a program, it writes them: ``PYTHONPATH=src python tests/unit/test_state_docs.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from beamlet.gcs import actor_states
from beamlet.raylet.worker_record import STEPS, WorkerState

DOCS = Path(__file__).parents[2] / "docs" / "states"

#: What each state of a worker means; a state without an entry fails the test.
_WORKER_MEANINGS = {
    WorkerState.STARTING: "the fork was asked for; it has not said WorkerReady yet",
    WorkerState.IDLE: "nobody uses it; ended after `IDLE_S` if there are more than the soft limit",
    WorkerState.LEASED: "one core worker pushes tasks to it; or nobody any more: it ends when not needed",
    WorkerState.ACTOR: "it is, or is about to be, one incarnation of an actor; never leased again",
    WorkerState.DYING: "nobody gets it any more; its exit status or its last output is still awaited",
    WorkerState.GONE: "its certificate has been announced; no record is left",
}


def worker_document() -> str:
    """The text of docs/states/worker.md."""
    name = {state: state.name for state in WorkerState}
    arrows = [f"    {name[at]} --> {name[to]}" for at, following in STEPS.items() for to in following]
    rows = [
        f"| {name[state]} | {_WORKER_MEANINGS[state]} | {', '.join(name[to] for to in STEPS[state]) or '–'} |"
        for state in WorkerState
    ]
    diagram = "\n".join(arrows)
    table = "\n".join(rows)
    return f"""# States of a worker process

Generated from `src/beamlet/raylet/worker_record.py` by `python tests/unit/test_state_docs.py`; do not edit.

```mermaid
stateDiagram-v2
    [*] --> STARTING: fork
{diagram}
    GONE --> [*]
```

| state | meaning | next |
|---|---|---|
{table}

The raylet's `worker_pool.py` moves a worker along these arrows and no others; any other step raises
`ImpossibleStep` with the worker's recent story. From its first use on it belongs to one (job, environment).
"""


#: File → what it must contain.
DOCUMENTS: dict[str, Callable[[], str]] = {"actor.md": actor_states.document, "worker.md": worker_document}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_is_current(name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == DOCUMENTS[name](), f"docs/states/{name} is out of date: run python {__file__}"


if __name__ == "__main__":
    DOCS.mkdir(parents=True, exist_ok=True)
    for file_name, document in DOCUMENTS.items():
        (DOCS / file_name).write_text(document(), encoding="utf-8")
