"""Where the driver's time goes in one workload: `profile_hot_path.py --workload "1:1 actor calls sync"`.

    --mode calls     cProfile on the driver's main thread (default): how often each function ran, and how
                     long; the counts are exact, small functions look dearer than they are
    --mode samples   every thread's stack, looked at every two milliseconds: undistorted, and it shows
                     threads that wait for one another; shares, not counts

Only the driver is looked at: the workload's cluster runs as it always does.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
for _folder in (ROOT, ROOT / "src"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from benchmarks import workloads as _registered  # noqa: E402, F401  (importing registers them)
from benchmarks.api import RayApi, load  # noqa: E402
from benchmarks.catalog import BEAMLET, CATALOG, RAY, Samples, Workload  # noqa: E402
from benchmarks.child import run_workload  # noqa: E402
from benchmarks.meter import Meter  # noqa: E402
from benchmarks.table import figure_text  # noqa: E402

SAMPLE_EVERY_S = 0.002


class Sampler:
    """A thread that notes where every other thread is, until it is told to stop."""

    def __init__(self) -> None:
        #: Function → how often it was the one running; and → how often it was anywhere on a stack.
        self.innermost: Counter[str] = Counter()
        self.anywhere: Counter[str] = Counter()
        self.looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        me = threading.get_ident()
        while not self._stop.wait(SAMPLE_EVERY_S):
            self.looks += 1
            for thread, frame in sys._current_frames().items():
                if thread != me:
                    self._note(frame)

    def _note(self, frame: FrameType) -> None:
        names = list(_stack(frame))
        self.innermost[names[0]] += 1
        self.anywhere.update(set(names))


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        workload = _only_one(options.workload)
    except ValueError as problem:
        print(f"profile_hot_path.py: {problem}", file=sys.stderr)
        return 2
    ray, meter = load(options.impl), Meter(options.seconds)
    if options.mode == "calls":
        samples = profile_calls(workload, ray, meter, options.top, options.sort)
    else:
        samples = profile_samples(workload, ray, meter, options.top)
    for metric in workload.metrics:
        values = sorted(samples[metric.name])
        figure = figure_text(values[len(values) // 2], metric.unit)
        print(f"{metric.name}: {figure} while being watched")
    return 0


def profile_calls(workload: Workload, ray: RayApi, meter: Meter, top: int, sort: str) -> Samples:
    """Run the body under cProfile and print the functions that took longest."""
    profile = cProfile.Profile()

    def watched(ray: RayApi, meter: Meter) -> Samples:
        return profile.runcall(workload.body, ray, meter)

    samples = run_workload(replace(workload, body=watched), ray, meter)
    pstats.Stats(profile).strip_dirs().sort_stats(sort).print_stats(top)
    return samples


def profile_samples(workload: Workload, ray: RayApi, meter: Meter, top: int) -> Samples:
    """Run the body beside a sampler and print where the threads were found most often."""
    sampler = Sampler()

    def watched(ray: RayApi, meter: Meter) -> Samples:
        sampler.start()
        try:
            return workload.body(ray, meter)
        finally:
            sampler.stop()

    samples = run_workload(replace(workload, body=watched), ray, meter)
    for heading, found in (("running or waiting in", sampler.innermost), ("on the stack", sampler.anywhere)):
        print(f"{heading} (share of {sampler.looks} looks; every thread counts by itself)")
        for name, count in found.most_common(top):
            print(f"  {count / sampler.looks:7.1%}  {name}")
        print()
    return samples


def _stack(frame: FrameType | None) -> Iterator[str]:
    """The functions on a stack, the innermost first, as `file:function`."""
    while frame is not None:
        code = frame.f_code
        yield f"{'/'.join(Path(code.co_filename).parts[-2:])}:{code.co_qualname}"
        frame = frame.f_back


def _only_one(pattern: str) -> Workload:
    """The workload of that name, or the only one whose name contains it."""
    found = CATALOG.select([pattern])
    exact = [w for w in found if w.name == pattern]
    if len(exact or found) != 1:
        raise ValueError(f"{pattern!r} may be any of: {', '.join(w.name for w in found)}")
    return (exact or found)[0]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/profile_hot_path.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workload", required=True, metavar="NAME", help="one of run.py --list")
    parser.add_argument("--impl", choices=(BEAMLET, RAY), default=BEAMLET)
    parser.add_argument("--mode", choices=("calls", "samples"), default="calls")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to repeat (default 3)")
    parser.add_argument("--top", type=int, default=25, help="lines to print (default 25)")
    parser.add_argument("--sort", default="tottime", help="cProfile's order: tottime, cumtime, ncalls")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    started = time.monotonic()
    code = main()
    print(f"({time.monotonic() - started:.1f} s in all)", file=sys.stderr)
    raise SystemExit(code)
