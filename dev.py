#!/usr/bin/env python3
"""The one tool of a Beamlet checkout; standard library only.

    python3 dev.py quickstart      set up and run examples/quickstart.py
    python3 dev.py test            set up and run everything a change must pass (what CI runs)
    python3 dev.py test --fast     the part that takes about a minute
    python3 dev.py lint            format, ruff and mypy only
    python3 dev.py bench [ARGS]    the benchmarks (see benchmarks/README.md for ARGS)

Each Python version gets its own virtual environment, made in the checkout and refreshed when
pyproject.toml changes: .venv for the interpreter that runs this file, .venv-3.12 … for others.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parent
OLDEST = (3, 11)
#: Versions that a part of the tests also runs on, where the machine has them.
OTHER_VERSIONS = ("3.11", "3.12", "3.13")
WHEEL_BYTES_MAX = 1_000_000
#: In the environment of everything a run starts, so that its processes can be told from the neighbours'.
MARK = f"{os.getpid()}.{time.time_ns()}"
LEFTOVERS_S = 5.0
#: No single command may hold up CI for longer; tests have tighter limits of their own.
COMMAND_S_MAX = 900


class Stage(NamedTuple):
    """One thing that can pass or fail on its own."""

    name: str
    #: Paths without which the stage would silently check nothing.
    needs: tuple[str, ...]
    run: Callable[[Path], None]


class Failed(Exception):
    """A stage did not pass; the text says which command or what was found."""


# --- running things -----------------------------------------------------------------------------


def say(text: str) -> None:
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(f"\x1b[1;36m{text}\x1b[0m" if colour else text, flush=True)


def die(text: str) -> NoReturn:
    print(f"dev.py: {text}", file=sys.stderr, flush=True)
    raise SystemExit(1)


def call(*command: str | Path) -> None:
    """Run a command in the checkout, its output going straight to the terminal."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, cwd=ROOT, check=False, timeout=COMMAND_S_MAX)
    except subprocess.TimeoutExpired:
        raise Failed(f"killed after {COMMAND_S_MAX} s: {' '.join(words)}") from None
    if done.returncode != 0:
        raise Failed(f"exit code {done.returncode}: {' '.join(words)}")


# --- environments -------------------------------------------------------------------------------


def python_of(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environment(venv: Path, extra: str, interpreter: str = sys.executable) -> Path:
    """The Python of ``venv`` with Beamlet (editable) and ``extra`` installed; made or refreshed if needed."""
    python = installed(venv, extra, interpreter)
    # As pip leaves an installed wheel. Where PYTHONDONTWRITEBYTECODE is set, as in many containers, an
    # editable install would else compile every source in each of the three processes of each `init()`.
    call(python, "-m", "compileall", "-q", "src")
    return python


def installed(venv: Path, extra: str, interpreter: str) -> Path:
    python = python_of(venv)
    stamp = venv / f".installed-{extra}"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + str(ROOT).encode()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    say(f"== setting up {venv.name} ({extra}) ==")
    if not python.exists():
        make_venv(venv, interpreter)
    started = time.monotonic()
    call(python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-e", f".[{extra}]")
    stamp.write_text(wanted)
    say(f"   ready in {time.monotonic() - started:.0f} s")
    return python


def make_venv(venv: Path, interpreter: str) -> None:
    """A virtual environment with pip; Debian's bare python3 lacks what venv needs, so say or fetch it."""
    probe = subprocess.run([interpreter, "-c", "import ensurepip, venv"], capture_output=True, check=False)
    if probe.returncode != 0:
        fetch_debian_venv(interpreter)
    call(interpreter, "-m", "venv", "--clear", venv)


def fetch_debian_venv(interpreter: str) -> None:
    version = subprocess.run(
        [interpreter, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    package = f"python{version}-venv"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        die(f"{interpreter} cannot make virtual environments; install {package}, then run this again")
    say(f"== {interpreter} cannot make virtual environments: installing Debian's {package} ==")
    call("apt-get", "update", "-qq")
    call("apt-get", "install", "-y", "-qq", "--no-install-recommends", package)


def other_interpreters() -> Iterator[tuple[str, str]]:
    """(version, path) of every other supported CPython here that really starts."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    for version in OTHER_VERSIONS:
        if version != running and (path := find_interpreter(version)):
            yield version, path


def find_interpreter(version: str) -> str | None:
    """A path may be a shim that only prints advice, so each candidate has to prove its version."""
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"))
    for candidate in [shutil.which(f"python{version}"), *map(str, pyenv)]:
        if candidate is None:
            continue
        shown = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if shown.returncode == 0 and re.match(rf"Python {re.escape(version)}\.", shown.stdout):
            return candidate
    return None


# --- stages -------------------------------------------------------------------------------------

SOURCES = ("src", "tests", "examples", "benchmarks", "dev.py")


def format_and_lint(python: Path) -> None:
    call(python, "-m", "ruff", "check", *SOURCES)
    call(python, "-m", "ruff", "format", "--check", *SOURCES)


def types(python: Path) -> None:
    call(python, "-m", "mypy", "--strict", "src/beamlet", "tests/typing", "dev.py")


def pytest(*words: str) -> Callable[[Path], None]:
    def run(python: Path) -> None:
        call(python, "-m", "pytest", "-q", "--durations=5", "--durations-min=1", *words)

    return run


def benchmark_smoke(python: Path) -> None:
    """Every benchmark once, briefly, and ratios to floors (never absolute times) within their bounds."""
    call(python, "benchmarks/run.py", "--smoke")


def wheel(python: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        call(python, "-m", "pip", "wheel", "-qq", "--no-deps", "--wheel-dir", folder, ".")
        (built,) = Path(folder).iterdir()
        size = built.stat().st_size
        if not built.name.endswith("-py3-none-any.whl") or size > WHEEL_BYTES_MAX:
            raise Failed(f"{built.name} has {size} bytes; expected py3-none-any and ≤{WHEEL_BYTES_MAX}")
        print(f"{built.name}: {size / 1000:.0f} kB")


def tests_elsewhere(_: Path) -> None:
    """The fast tests, a part of the process tests and some kills, on every other CPython found."""
    failures: list[str] = []
    found = dict(other_interpreters())
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    for version in OTHER_VERSIONS:
        if version not in found and version != running:
            say(f"-- Python {version} is not on this machine: nothing was tested with it")
    for version, interpreter in found.items():
        say(f"-- Python {version} ({interpreter})")
        try:
            python = environment(ROOT / f".venv-{version}", "test", interpreter)
            call(python, "-m", "pytest", "-q", "-m", "not slow and not chaos", *FAST_TESTS, *SYSTEM_TESTS)
            call(python, "-m", "pytest", "-q", "-m", "not slow", *PROCESS_TESTS_ELSEWHERE)
            with environment_variables(CHAOS_MOMENTS="2"):
                call(python, "-m", "pytest", "-q", "-m", "chaos", "tests/chaos")
            call(python, "examples/quickstart.py")
        except Failed as failure:
            failures.append(str(failure))
    if failures:
        raise Failed("\n        ".join(failures))


def fresh_seeds(python: Path) -> None:
    """What no run before has seen. Each seed is printed before its run, with how to repeat it."""
    call(python, "tests/system", "fresh", str(FRESH_STORMS_S))
    with environment_variables(CHAOS_SEED=str(secrets.randbelow(1 << 32)), CHAOS_MOMENTS="3"):
        call(python, "-m", "pytest", "-q", "-rP", "-m", "chaos", "tests/chaos/test_deaths.py")


def soak(python: Path) -> None:
    """A minute of what benchmarks/soak.py does for ten: nothing may grow, workers killed or not."""
    call(python, "benchmarks/soak.py", "--minutes", "1")


@contextlib.contextmanager
def environment_variables(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


FAST_TESTS = ("tests/unit", "tests/property")
SYSTEM_TESTS = ("tests/system",)
#: Where versions of CPython differ: starting, ending, signals, threads, pickling, asyncio.
PROCESS_TESTS_ELSEWHERE = tuple(
    f"tests/process/test_{name}.py"
    for name in (
        "actor_concurrency", "actors", "asyncio", "errors", "factory", "generators", "init_shutdown",
        "interrupts", "objects", "pickling", "tasks",
    )
)  # fmt: skip
#: How long fresh storms blow.
FRESH_STORMS_S = 60

FAST = (
    Stage("ruff", SOURCES, format_and_lint),
    Stage("mypy", ("src/beamlet", "tests/typing"), types),
    Stage("unit and property tests", FAST_TESTS, pytest(*FAST_TESTS)),
    Stage("a whole node in one thread", SYSTEM_TESTS, pytest(*SYSTEM_TESTS)),
)
FULL = (
    *FAST,
    Stage("process tests", ("tests/process",), pytest("tests/process")),
    Stage("examples", ("tests/examples", "examples"), pytest("tests/examples")),
    Stage("kills at random moments", ("tests/chaos",), pytest("-m", "chaos", "tests/chaos")),
    Stage("fresh seeds", ("tests/system", "tests/chaos"), fresh_seeds),
    Stage("soak", ("benchmarks/soak.py",), soak),
    Stage("benchmark smoke", ("benchmarks/run.py",), benchmark_smoke),
    Stage("wheel", ("pyproject.toml",), wheel),
    Stage("other interpreters", (*FAST_TESTS, *SYSTEM_TESTS, *PROCESS_TESTS_ELSEWHERE), tests_elsewhere),
)


@contextlib.contextmanager
def temporary_files() -> Iterator[Path]:
    """A folder of its own for all that a run and its sessions write, so that leaks are its own, too."""
    with tempfile.TemporaryDirectory(prefix="ci-", ignore_cleanup_errors=True) as folder:
        os.environ.update(TMPDIR=folder, BEAMLET_TMPDIR=folder, BEAMLET_TEST_RUN=MARK)
        tempfile.tempdir = None  # computed anew
        yield Path(folder)


def leftovers(folder: Path) -> list[str]:
    """Sockets, the tests' sessions and processes that a stage started and that are still there."""
    found = [str(path) for path in folder.rglob("*") if path.is_socket()]
    found += map(str, [*folder.glob("bt-*"), *Path("/dev/shm").glob("*beamlet*")])
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"BEAMLET_TEST_RUN={MARK}".encode() not in process.joinpath("environ").read_bytes():
                continue
            words = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended, or is another user's
        if process.name != str(os.getpid()):
            found.append(f"process {process.name}: {words[:150]}")
    return found


def refuse_leftovers(folder: Path) -> None:
    """What ends takes a moment to be gone; what is there after that is a leak."""
    deadline = time.monotonic() + LEFTOVERS_S
    while left := leftovers(folder):
        if time.monotonic() > deadline:
            raise Failed("left behind: " + "; ".join(sorted(left)[:8]))
        time.sleep(0.1)


def run_stages(stages: tuple[Stage, ...], python: Path, folder: Path) -> None:
    """Run every stage even after a failure, so that one run shows all there is to fix."""
    failures: list[str] = []
    timings: list[str] = []
    for stage in stages:
        say(f"== {stage.name} ==")
        started = time.monotonic()
        try:
            require(stage)
            stage.run(python)
            refuse_leftovers(folder)
            verdict = "ok"
        except Failed as failure:
            verdict = "FAILED"
            failures.append(f"{stage.name}: {failure}")
        timings.append(f"{verdict:>6}  {time.monotonic() - started:6.1f} s  {stage.name}")
    say("\n".join(timings))
    if failures:
        die("\n        ".join([f"{len(failures)} of {len(stages)} stages failed", *failures]))


def require(stage: Stage) -> None:
    missing = [path for path in stage.needs if not holds_something(ROOT / path)]
    if missing:
        raise Failed(f"nothing to check: {', '.join(missing)} missing or empty")


def holds_something(path: Path) -> bool:
    """Git keeps no empty folders, but a checkout may: a folder counts once a Python file is in it."""
    return path.is_file() or any(path.rglob("*.py"))


# --- commands -----------------------------------------------------------------------------------


def quickstart(_: argparse.Namespace) -> None:
    call(environment(ROOT / ".venv", "examples"), "examples/quickstart.py")


def test(options: argparse.Namespace) -> None:
    with temporary_files() as folder:
        run_stages(FAST if options.fast else FULL, environment(ROOT / ".venv", "test"), folder)


def lint(_: argparse.Namespace) -> None:
    with temporary_files() as folder:
        run_stages(FAST[:2], environment(ROOT / ".venv", "test"), folder)


def bench(options: argparse.Namespace) -> None:
    call(environment(ROOT / ".venv", "test"), "benchmarks/run.py", *options.args)


def main() -> None:
    if sys.version_info < OLDEST:
        die(f"Beamlet needs Python ≥{OLDEST[0]}.{OLDEST[1]}; this is {sys.version.split()[0]}")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("quickstart", help="run examples/quickstart.py").set_defaults(run=quickstart)
    testing = commands.add_parser("test", help="everything a change must pass")
    testing.add_argument("--fast", action="store_true", help="ruff, mypy, unit and property tests only")
    testing.set_defaults(run=test)
    commands.add_parser("lint", help="format, ruff and mypy").set_defaults(run=lint)
    benching = commands.add_parser("bench", help="the benchmarks")
    benching.set_defaults(run=bench)
    options, rest = parser.parse_known_args()
    if rest and options.run is not bench:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.args = rest  # passed on to benchmarks/run.py
    try:
        options.run(options)
    except Failed as failure:
        die(str(failure))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
