"""Raylet ↔ factory: forks asked for, forks made, deaths seen.

ForkWorker +3 fds (link, stdout, stderr) → Forked | ForkFailed
KillWorker                                       (signal a worker's whole process group)
LoadModule                                       (before the next fork)
ChildExited                                      unasked, once per worker, from wait4()
Preloaded                                        unasked, once, first of all, if modules were preloaded
FactoryFails                                     unasked, its last words
"""

from beamlet.base.ids import WorkerId
from beamlet.protocol.message import Message


class ForkWorker(Message, tag=130):
    worker_id: WorkerId


class Forked(Message, tag=131):
    worker_id: WorkerId
    pid: int


class ForkFailed(Message, tag=132):
    worker_id: WorkerId
    reason: str


class KillWorker(Message, tag=133):
    worker_id: WorkerId
    signal: int


class ChildExited(Message, tag=134):
    """``exit_code`` or ``signal`` is set, the other is -1."""

    worker_id: WorkerId
    pid: int
    exit_code: int
    signal: int
    peak_rss_bytes: int


class Preloaded(Message, tag=135):
    """``unfit``: (module, reason) of those that were not, because a fork could not use them."""

    unfit: list[tuple[str, str]]


class LoadModule(Message, tag=136):
    """Import it before the next fork: workers to come need it, and can share one copy."""

    module: str


class FactoryFails(Message, tag=137):
    """It ends by an error of its own: the traceback's last line."""

    reason: str


FactoryMessage = (
    ForkWorker | Forked | ForkFailed | KillWorker | ChildExited | Preloaded | LoadModule | FactoryFails
)
