"""``python -m beamlet.head OPTIONS``: started by ``init()`` and by ``beamlet start --head``, not by hand."""

from __future__ import annotations

import gc
import sys

# All that is loaded stays: collecting meanwhile is 8 % of the start. On again in Head.run.
gc.disable()

from beamlet.head.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv))
