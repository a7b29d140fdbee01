"""``python -m beamlet.head OPTIONS``: started by ``init()`` and by ``beamlet start --head``, not by hand."""

from __future__ import annotations

import sys

from beamlet.head.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
