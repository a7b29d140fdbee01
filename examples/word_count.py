"""Map-reduce: count the words of Python's own standard library.

Map tasks read files and split their counts by word into one part for each reducer (`num_returns`);
reduce tasks take the parts with their number, straight from the mappers: the counts never pass through
the driver.
"""

from __future__ import annotations

import re
import time
import zlib
from collections import Counter
from pathlib import Path

import beamlet as ray

FILES = 160
MAPPERS = 8
REDUCERS = 4
WORD = re.compile(r"[a-z]{3,}")


def library_files(limit: int) -> list[Path]:
    """The first modules of the standard library, by name: real text that every machine with Python has."""
    return sorted(Path(re.__file__).parent.parent.glob("*.py"))[:limit]


def count_words(paths: list[Path]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for path in paths:
        counts.update(WORD.findall(path.read_text(encoding="utf-8", errors="replace").lower()))
    return counts


def reducer_of(word: str) -> int:
    """Which reducer counts this word. Not hash(): that differs from process to process."""
    return zlib.crc32(word.encode()) % REDUCERS


@ray.remote(num_returns=REDUCERS)
def map_files(paths: list[Path]) -> list[Counter[str]]:
    """Count the words of some files: one counter for each reducer."""
    parts: list[Counter[str]] = [Counter() for _ in range(REDUCERS)]
    for word, count in count_words(paths).items():
        parts[reducer_of(word)][word] = count
    return parts


@ray.remote
def reduce_parts(*parts: Counter[str]) -> Counter[str]:
    """Add up one reducer's part of every mapper's counts."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return total


def main() -> None:
    ray.init(num_cpus=2)
    paths = library_files(FILES)
    size = sum(path.stat().st_size for path in paths)
    print(f"{len(paths)} files, {size / 1e6:.1f} MB, {MAPPERS} map tasks, {REDUCERS} reduce tasks")

    started = time.perf_counter()
    mapped = [map_files.remote(paths[i::MAPPERS]) for i in range(MAPPERS)]
    reduced = [reduce_parts.remote(*(parts[r] for parts in mapped)) for r in range(REDUCERS)]
    total: Counter[str] = Counter()
    for part in ray.get(reduced):
        total.update(part)
    parallel_s = time.perf_counter() - started

    started = time.perf_counter()
    expected = count_words(paths)
    alone_s = time.perf_counter() - started

    for word, count in sorted(total.items(), key=lambda item: (-item[1], item[0]))[:8]:
        print(f"  {count:7,}  {word}")
    print(f"{total.total():,} words, {len(total):,} different")
    print(f"same counts as in one process: {total == expected}")
    print(f"map-reduce {parallel_s:.2f} s, one process {alone_s:.2f} s")
    ray.shutdown()


if __name__ == "__main__":
    main()
