"""Run storms by seed: each says its seed before it begins, so that whatever happens can be replayed.

python tests/system 12            one
python tests/system 0-40 77       several
python tests/system fresh 60      new ones for these sources, for so many seconds
python tests/system random 60     new ones each time

Those of ``fresh`` follow from the sources: each change meets storms of its own, and what CI will try can be
tried before.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path


def seeds(words: list[str]) -> Iterator[int]:
    if words[0] in ("fresh", "random"):
        draw = random.Random(_sources_digest() if words[0] == "fresh" else None)
        end = time.monotonic() + float(words[1])
        while time.monotonic() < end:
            yield draw.randrange(1 << 32)
        return
    for word in words:
        first, _, last = word.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _sources_digest() -> bytes:
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted([*root.glob("src/**/*.py"), *root.glob("tests/system/*.py")]):
        digest.update(path.read_bytes())
    return digest.digest()


def main(words: list[str]) -> int:
    if not words:
        sys.stderr.write(__doc__ or "")
        return 2
    from system import storm

    for seed in seeds(words):
        print(f"seed {seed} …", end=" ", flush=True)
        world = storm.run(seed)
        print(f"{world.event_count} events, {world.time_s - 1000:.1f} s, {world.trace_digest}", flush=True)
    return 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of ids are walked in the order of their hashes.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(main(sys.argv[1:]))
