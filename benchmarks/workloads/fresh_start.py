"""A whole program in a fresh interpreter: import, init, first task, shutdown. Run by `lifecycle`.

Takes the implementation's module name and the number of CPUs; prints seconds to the first result and
seconds of `shutdown` as the last line, in JSON.
"""

from __future__ import annotations

import time

started = time.perf_counter()


def run(name: str, cpus: int) -> tuple[float, float]:
    """Seconds from the first line of this file to the first result, and seconds of `shutdown`."""
    ray = __import__(name)
    ray.init(num_cpus=cpus)

    @ray.remote  # type: ignore[untyped-decorator]
    def one() -> int:
        return 1

    if ray.get(one.remote()) != 1:
        raise RuntimeError("the first task returned something else")
    first_result = time.perf_counter()
    ray.shutdown()
    return first_result - started, time.perf_counter() - first_result


if __name__ == "__main__":
    import sys

    seconds = run(sys.argv[1], int(sys.argv[2]))
    import json

    print(json.dumps(seconds))
