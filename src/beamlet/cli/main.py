"""``beamlet``: the command line. One file a command; here: which there are, and how errors end them.

start   a cluster that outlives this command        start.py
stop    it, and everything it started               stop.py
status  what there is, what is used, what waits     status.py, status_text.py
timeline, microbenchmark                            timeline.py, microbenchmark.py
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from beamlet.base.version import VERSION
from beamlet.cli import microbenchmark, start, status, stop, timeline
from beamlet.cli.terminal import nobody_reads
from beamlet.processes.standard_descriptors import hold_standard_descriptors

COMMANDS = (start, stop, status, timeline, microbenchmark)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 (it failed, and said why), 2 (it was called wrongly)."""
    _have_streams()
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.run is None:
        parser.print_help()
        return 2
    try:
        return _run(options)
    except BrokenPipeError:
        nobody_reads()  # `beamlet status | head`: no error
        return 0
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        sys.stderr.write(f"beamlet {options.command}: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _have_streams() -> None:
    """`beamlet start --head >&-`, as services do it: Python then has no stream there, and nobody to tell."""
    hold_standard_descriptors()
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 — until the end of the program
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _run(options: argparse.Namespace) -> int:
    status = int(options.run(options))
    sys.stdout.flush()  # what a pipe refuses is refused here, not at the interpreter's end
    return status


class _Parser(argparse.ArgumentParser):
    """Wrong commands and options come with the nearest right one."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}{self._hint(message)}\n")

    def _known(self) -> list[str]:
        """Commands, and options of every one: what a command does not know, its parent reports."""
        known = [option for action in self._actions for option in action.option_strings]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                known += action.choices
                for parser in action.choices.values():
                    shown = [a for a in parser._actions if a.help != argparse.SUPPRESS]
                    known += [option for each in shown for option in each.option_strings]
        return known

    def _hint(self, message: str) -> str:
        known = self._known()
        for word in re.findall(r"[\w-]+", message.partition("(choose from")[0]):
            near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
            if near and word not in known:
                return f"; did you mean {near[0]!r}?"
        return ""


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
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
