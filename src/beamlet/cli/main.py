"""``beamlet``: the command line. One file a command; here: which there are, and how errors end them.

start   a cluster that outlives this command        start.py
stop    it, and everything it started               stop.py
status  what there is, what is used, what waits     status.py, status_text.py
timeline, microbenchmark                            timeline.py, microbenchmark.py
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from beamlet.base.version import VERSION
from beamlet.cli import microbenchmark, start, status, stop, timeline
from beamlet.processes.session import SessionRootError

COMMANDS = (start, stop, status, timeline, microbenchmark)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 (it failed, and said why), 2 (it was called wrongly)."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.run is None:
        parser.print_help()
        return 2
    try:
        return int(options.run(options))
    except (ConnectionError, RuntimeError, SessionRootError, ValueError, TimeoutError) as error:
        sys.stdout.flush()
        sys.stderr.write(f"beamlet {options.command}: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `beamlet status | head`: nobody reads on, which is no error. Keep the exit from flushing into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="beamlet",
        description="Ray's programming model in pure Python: start, stop and look at a cluster.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"beamlet, version {VERSION}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
