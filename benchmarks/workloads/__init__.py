"""The workloads, one file per subject; importing this package registers all of them, in the table's order."""

from __future__ import annotations

from importlib import import_module

for _subject in (
    "tasks",
    "actors",
    "async_actors",
    "objects",
    "lifecycle",
    "memory",
    "queued",
    "growth",
    "floors",
):
    import_module(f"{__name__}.{_subject}")
