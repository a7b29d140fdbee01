"""What is written to the arena: buffers as flat bytes, cut where a write ends."""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview


def flat(buffer: Buffer) -> memoryview:
    """One-dimensional bytes; ``buffer`` must be contiguous."""
    view = memoryview(buffer)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def split(views: list[memoryview], at: int) -> tuple[list[memoryview], list[memoryview]]:
    """The first ``at`` bytes of ``views``, and the rest; nothing is copied, empty views are dropped."""
    head: list[memoryview] = []
    for index, view in enumerate(views):
        if view.nbytes > at:
            cut = [view[:at]] if at else []
            return head + cut, [view[at:], *(later for later in views[index + 1 :] if later.nbytes)]
        if view.nbytes:
            head.append(view)
        at -= view.nbytes
    return head, []
