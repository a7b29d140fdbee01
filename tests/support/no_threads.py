"""A system that has no more threads for anybody."""

from __future__ import annotations

import threading

import pytest

#: Its name since Python 3.13, and before.
_NAMES = ("_start_joinable_thread", "_start_new_thread")


def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until ``monkeypatch`` is undone."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    (name, *_) = [name for name in _NAMES if hasattr(threading, name)]
    monkeypatch.setattr(threading, name, refuse)
