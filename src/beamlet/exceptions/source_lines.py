"""Lines of source for a traceback that was written where they are not: cells of a notebook, lines of a shell.

A worker writes the text of an error, with the source it finds in files.  What was typed has no file; the
process that it was typed into keeps it in ``linecache``, and there the text is shown.
"""

from __future__ import annotations

import linecache
import os
import re

#: A frame, perhaps in the margin of an exception group.
_FRAME = re.compile(r'(?P<margin>[ |]*)File "(?P<file>[^"]+)", line (?P<line>\d+), in ')


def with_typed_source(text: str) -> str:
    """A traceback's text, with the source below frames that lack it, as far as this process knows it."""
    lines = text.split("\n")
    shown = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        shown.append(line)
        frame = _FRAME.match(line)
        if frame is not None and not following.startswith(f"{frame['margin']}  "):
            source = _typed(frame["file"], int(frame["line"]))
            if source:
                shown.append(f"{frame['margin']}  {source}")
    return "\n".join(shown)


def _typed(name: str, number: int) -> str:
    """A line of what has no file, so that the name means one thing in all processes; else ""."""
    entry = linecache.cache.get(name, ())
    if len(entry) != 4 or os.path.exists(name):
        return ""
    lines: list[str] = entry[2]
    return lines[number - 1].strip() if number <= len(lines) else ""
