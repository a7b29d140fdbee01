"""``beamlet status``: ask the cluster, show what status_text.py makes of the answer."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from beamlet.cli.observer import ask, choose_session
from beamlet.cli.status_text import status_text
from beamlet.cli.terminal import Paint
from beamlet.protocol.gcs import ClusterState, QueryCluster, WorkerInfo


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="what a cluster has, uses, and waits for",
        description="What the cluster has, what is used of it, and what waits for what.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--address", metavar="SESSION", help="default: the current session, else the newest")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="also workers and actors")


def run(options: argparse.Namespace) -> int:
    session = choose_session(options.address)
    state: ClusterState = ask(session, QueryCluster(1))
    state.workers = [_as_titled(worker) for worker in state.workers]
    text = status_text(state, datetime.now(), Paint.on(sys.stdout), verbose=options.verbose > 0)
    print(text)
    return 0


def _as_titled(worker: WorkerInfo) -> WorkerInfo:
    """A lease outlives its first task, whose name is what the raylet knows; the process title is newer."""
    if worker.state != "leased":
        return worker
    try:
        title = Path(f"/proc/{worker.pid}/cmdline").read_bytes().rstrip(b"\0 ").decode(errors="replace")
    except OSError:
        return worker  # it has ended since
    prefix, _, name = title.partition("::")
    return msgspec.structs.replace(worker, name=name) if prefix == "beamlet" else worker
