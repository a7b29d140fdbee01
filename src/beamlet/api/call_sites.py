"""Where users' code asked for things.

A call site is looked up, not built: the same object serves every call from the same instruction, which costs
about 0.1 µs and nothing to keep.
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType

from beamlet.base.our_folder import OUR_FOLDER
from beamlet.exceptions.task_error import CallSite

#: Code that is made anew for ever (cells of a notebook, ``exec``) must not fill the memory.
_SITES_MAX = 8192
#: By address of an instruction. The code object is kept so that its address means nothing else meanwhile; it
#: holds its instructions itself, so no two of them share an address.
_sites: dict[int, tuple[CallSite, CodeType]] = {}


def call_site(depth: int = 2) -> CallSite:
    """The code ``depth`` calls up."""
    frame = sys._getframe(depth)
    found = _sites.get(id(frame.f_code) + frame.f_lasti)
    return found[0] if found is not None else _remember(frame)


def here(depth: int = 2) -> str:
    """ "app.py:12" of the code ``depth`` calls up."""
    return str(call_site(depth + 1))


def _remember(frame: FrameType) -> CallSite:
    if frame.f_code.co_filename.startswith(OUR_FOLDER):
        frame = _users_frame(frame)
        if (found := _sites.get(id(frame.f_code) + frame.f_lasti)) is not None:
            return found[0]
    code = frame.f_code
    if len(_sites) >= _SITES_MAX:
        _sites.clear()
    site = CallSite(code.co_filename, frame.f_lineno or code.co_firstlineno, code.co_name)
    _sites[id(code) + frame.f_lasti] = site, code
    return site


def _users_frame(frame: FrameType) -> FrameType:
    """What is made of the public API (``util``) asks on behalf of the first code up that is not ours."""
    caller: FrameType | None = frame
    while caller is not None and caller.f_code.co_filename.startswith(OUR_FOLDER):
        caller = caller.f_back
    return caller or frame
