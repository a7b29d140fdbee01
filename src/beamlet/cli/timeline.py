"""``beamlet timeline``: what the workers did when, written for chrome://tracing."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from beamlet.api.cluster_state import event_rows, what_is_missing
from beamlet.cli.observer import ask, choose_session
from beamlet.processes.host import node_ip
from beamlet.protocol.gcs import QueryTimeline, Timeline


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "timeline",
        help="write what ran when, for chrome://tracing",
        description="Write what the workers did when, as a file for chrome://tracing or ui.perfetto.dev.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--address", metavar="SESSION", help="default: the current session, else the newest")
    parser.add_argument("--output", metavar="FILE", help="default: beamlet-timeline-<time>.json, here")


def run(options: argparse.Namespace) -> int:
    answer: Timeline = ask(choose_session(options.address), QueryTimeline(1))
    ip = node_ip()
    path = Path(options.output or time.strftime("beamlet-timeline-%Y-%m-%d_%H-%M-%S.json"))
    rows = event_rows(answer, ip)
    path.write_text(json.dumps(rows))
    missing = what_is_missing(answer)
    lost = f" ({missing})" if missing else ""
    print(f"{len(rows)} events{lost} written to {path}: open it in chrome://tracing or ui.perfetto.dev")
    return 0
