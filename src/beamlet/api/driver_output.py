"""What workers print, on the driver's own streams: whole lines, in order, prefixed ``(name pid=…)``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from beamlet.protocol.node import Notice, OutputLines

_CYAN, _PLAIN = "\x1b[36m", "\x1b[0m"
logger = logging.getLogger("beamlet")


def show(lines: OutputLines, *, prefix: bool = True) -> None:
    """Write the lines of one worker; returns when the stream has taken them."""
    stream = sys.stderr if lines.is_stderr else sys.stdout
    if not lines.data or stream is None:
        return
    text = lines.data.decode("utf-8", "replace")
    if prefix:
        start = f"({lines.name} pid={lines.pid})"
        if _is_terminal(stream):
            start = f"{_CYAN}{start}{_PLAIN}"
        text = "".join(f"{start} {line}\n" for line in text.removesuffix("\n").split("\n"))
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        pass  # the driver closed its own stream: it does not want to see it


def show_notice(notice: Notice) -> None:
    """Warnings of the cluster go through the driver's logging."""
    logger.log(notice.level, "%s", notice.text)


def _is_terminal(stream: object) -> bool:
    isatty: Callable[[], bool] | None = getattr(stream, "isatty", None)
    try:
        return isatty is not None and isatty()
    except ValueError:
        return False
