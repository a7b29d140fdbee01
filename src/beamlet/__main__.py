"""``python -m beamlet`` is ``beamlet``."""

from __future__ import annotations

import sys

from beamlet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
