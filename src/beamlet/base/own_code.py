"""● Which code is Beamlet's own: what a stack is searched for, and what users' tracebacks leave out."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

from beamlet.base.deferring import deferred, deliver, lets_through
from beamlet.base.our_folder import OUR_FOLDER

P = ParamSpec("P")
R = TypeVar("R")

#: An attribute of errors that we raised on purpose, and of classes of which that is always so.
MADE_FOR_USERS = "_made_for_users"


def hide_our_frames(error: BaseException) -> None:
    """Take our frames out of the error's traceback: it then ends at the user's line.

    To be called where an error leaves for the user, and followed by a bare ``raise``, which unlike
    ``raise error`` adds no line for the frame that it stands in.  An error that we did not raise on purpose
    keeps its frames: that is a bug of ours, and must be findable.
    """
    if sys.is_finalizing():
        return  # nothing can be imported any more to judge it by
    theirs: list[TracebackType] = []
    innermost = entry = error.__traceback__
    while entry is not None:
        if not entry.tb_frame.f_code.co_filename.startswith(OUR_FOLDER):
            theirs.append(entry)
        innermost, entry = entry, entry.tb_next
    if not theirs and innermost is not None:
        if not _on_purpose(error, innermost):
            return
        if not made_for_users(error):
            # Where it passes through more of ours, the frame that raised it is no longer there to ask.
            error.__dict__[MADE_FOR_USERS] = True
    following: TracebackType | None = None
    for entry in reversed(theirs):
        entry.tb_next = following
        following = entry
    BaseException.with_traceback(error, following)  # past any __setattr__ of the class's own


def made_for_users(error: BaseException) -> bool:
    """Whether we raised it on purpose. Calls no ``__getattr__`` of its class, which may raise anything."""
    return MADE_FOR_USERS in vars(error) or any(MADE_FOR_USERS in vars(base) for base in type(error).__mro__)


def _on_purpose(error: BaseException, innermost: TracebackType) -> bool:
    """Whether a ``raise`` statement of ours made it, or the user's Ctrl-C or cancelling."""
    from opcode import opname

    if (
        isinstance(error, KeyboardInterrupt | SystemExit)
        or type(error).__name__ == "CancelledError"
        or made_for_users(error)
    ):
        return True
    instruction = innermost.tb_frame.f_code.co_code[innermost.tb_lasti]
    return opname[instruction] == "RAISE_VARARGS" and not isinstance(error, AssertionError)


def for_users(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates public functions: errors out of them show the caller's line last, none of ours.

    It costs a call; what is called often spells it out.
    """

    @functools.wraps(function)
    @lets_through
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = function(*args, **kwargs)
            if deferred:
                deliver()
            return result
        except BaseException as error:
            hide_our_frames(error)
            raise

    return call
