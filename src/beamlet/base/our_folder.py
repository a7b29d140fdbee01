"""● Where Beamlet's own code lies: files whose path begins with this are ours."""

from __future__ import annotations

from pathlib import Path

OUR_FOLDER = str(Path(__file__).parents[1]) + "/"
