"""When a signal may raise in the main thread: in user code and in waits, never in half-written books of ours.


A handler that raises (KeyboardInterrupt, SystemExit) does so between any two instructions.  In user code that
is what users expect; in ours it would leave a lock taken or a message half queued.  So a handler asks
``may_raise(frame)``, and if not, has the signal sent once more a moment later.
"""

from __future__ import annotations

import _thread
import os
import sys
import time
from types import FrameType

from beamlet.rpc.reactor import Reactor
from beamlet.rpc.turns import Waiter

_OURS = "beamlet."
#: Of our packages, those that wait in their own frames and hold nothing that could be left half done.
_LIKE_USERS = ("beamlet.api.init", "beamlet.api.head_start", "beamlet.cli.", "beamlet.util.")
#: Where our code waits; raising there is what ends a wait.
_WAITS = frozenset((Reactor.poll.__code__, Waiter.follow.__code__))
_AGAIN_S = 0.001


def may_raise(frame: FrameType | None) -> bool:
    """Whether ``frame``, which a signal interrupted, belongs to user code or waits."""
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        if module.startswith(_OURS) and not module.startswith(_LIKE_USERS):
            return frame.f_code in _WAITS
        if module.partition(".")[0] not in sys.stdlib_module_names:
            return True
        frame = frame.f_back  # the standard library: whoever called it decides
    return True


def send_again(number: int) -> None:
    """From a handler that may not raise now."""
    _thread.start_new_thread(_send_later, (number,))


def _send_later(number: int) -> None:
    time.sleep(_AGAIN_S)
    os.kill(os.getpid(), number)
