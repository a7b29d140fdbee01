"""Where a driver stands in the file system: what its workers need to see the world as it does.

Paths are bytes, as the system has them: they need not be UTF-8, and messages carry text that is.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from beamlet.base.wire_text import wire_text


class DriverPlace(NamedTuple):
    #: b"" if it was deleted under us.
    cwd: bytes
    sys_path: list[bytes]
    #: Directory of the script, or the working directory in a shell or notebook.
    script_dir: bytes
    #: b"" in a shell or notebook.
    main_file: bytes
    #: Whether ``import ray`` gives this package.
    as_ray: bool


def driver_place() -> DriverPlace:
    main_file = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    cwd = _cwd()
    script_dir = os.path.dirname(_absolute(main_file, cwd)) if main_file else cwd
    entries = [_absolute(entry, cwd) for entry in sys.path]
    return DriverPlace(
        cwd=os.fsencode(cwd),
        sys_path=[os.fsencode(entry) for entry in entries if entry],
        script_dir=os.fsencode(script_dir),
        main_file=os.fsencode(main_file),
        as_ray=sys.modules.get("ray") is sys.modules["beamlet"],
    )


def entrypoint() -> str:
    """The command line, to be shown."""
    return wire_text(" ".join(sys.argv))


def _cwd() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def _absolute(path: str, cwd: str) -> str:
    """An empty one if it leads nowhere, because its start is gone."""
    if os.path.isabs(path):
        return os.path.normpath(path)
    return os.path.normpath(os.path.join(cwd, path)) if cwd else ""
