"""Functions by content, at the process that runs them."""

from __future__ import annotations

from typing import Any

from beamlet.base.ids import FunctionKey
from beamlet.core_worker.functions import NAMESPACE, FunctionTable, dump
from beamlet.protocol.gcs import KvGet, KvValue

KEY = FunctionKey(b"k" * 20)


class Link:
    """To a GCS that knows one function."""

    def __init__(self) -> None:
        self.asked: list[KvGet] = []

    def call(self, message: KvGet, deadline: float | None) -> KvValue:
        self.asked.append(message)
        return KvValue(message.req, dump(lambda: "asked for"))


def test_what_was_sent_along_is_not_asked_for() -> None:
    link: Any = Link()
    table = FunctionTable(link)
    assert table.fetch(KEY, None, dump(lambda: "sent along"))() == "sent along"
    assert table.loaded[KEY]() == "sent along"
    assert not link.asked
    assert FunctionTable(link).fetch(KEY, None)() == "asked for"
    assert link.asked == [KvGet(0, NAMESPACE, KEY, wait=True)]
