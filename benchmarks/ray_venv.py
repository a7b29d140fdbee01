"""The newest Ray from PyPI in a virtual environment of its own, under `.bench/ray-venv`."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent / ".bench" / "ray-venv"

#: Written last, so that an installation that was cut short is made again.
COMPLETE = "complete"


def ensure(newest: bool = False) -> Path:
    """The interpreter of that environment, made if it is missing; `newest` brings Ray up to date.

    Downloads Ray (about 70 MB) the first time. Raises CalledProcessError when pip fails.
    """
    python = HOME / "bin" / "python"
    if newest or not (HOME / COMPLETE).exists():
        print(f"installing the newest Ray into {HOME} (once)", file=sys.stderr)
        venv.create(HOME, with_pip=True, clear=not (HOME / COMPLETE).exists())
        install = [str(python), "-m", "pip", "install", "--quiet", "--upgrade", "ray", "numpy"]
        subprocess.run(install, check=True)
        (HOME / COMPLETE).touch()
    return python
