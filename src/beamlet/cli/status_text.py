"""A cluster's state as a page of text, in the layout of `ray status`, and after each demand why it waits.

A pure function of the GCS's answer; colours are the caller's choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from beamlet.base.resources import MEMORY, OBJECT_STORE_MEMORY, UNIT
from beamlet.cli.terminal import Paint
from beamlet.protocol.gcs import ActorInfo, ClusterState, NodeInfo, WorkerInfo

_RULE = "-" * 63
_STATE_COLOURS = {"ALIVE": "green", "DEAD": "red", "RESTARTING": "yellow", "PENDING_CREATION": "yellow"}


def status_text(state: ClusterState, now: datetime, paint: Paint, *, verbose: bool = False) -> str:
    """The whole page, without a line's end at its end."""
    lines = [
        paint("bold", f"======== Cluster status: {now} ========"),
        *_nodes(state, paint),
        "",
        paint("bold", "Resources"),
        _RULE,
        "Total Usage:",
        *_usage(state),
        "",
        "From request_resources:",
        " (none)",
        "Pending Demands:",
        *_demands(state, paint),
    ]
    if verbose:
        lines += [
            "",
            paint("bold", "Workers"),
            _RULE,
            *_workers(state.workers),
            "",
            paint("bold", "Actors"),
            _RULE,
            *_actors(state.actors, paint),
            "",
            paint("dim", f"Session: {state.session_dir}"),
        ]
    return "\n".join(lines)


def shown_bytes(count: float) -> str:
    """As Ray writes them.

    >>> shown_bytes(0), shown_bytes(10 * 2**30), shown_bytes(1.5 * 2**20)
    ('0B', '10.00GiB', '1.50MiB')
    """
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f}{unit}"
    return f"{count:.0f}B"


def shown_for(seconds: float) -> str:
    """How long, roughly.

    >>> shown_for(0.2), shown_for(75), shown_for(4000)
    ('0 s', '1 min', '1 h')
    """
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _nodes(state: ClusterState, paint: Paint) -> Iterator[str]:
    living = [node for node in state.nodes if node.alive]
    dead = [node for node in state.nodes if not node.alive]
    busy = [node for node in living if _is_busy(node)]
    idle = [node for node in living if not _is_busy(node)]
    yield paint("bold", "Node status")
    yield _RULE
    for title, group, nothing in (("Active:", busy, "no active nodes"), ("Idle:", idle, "no idle nodes")):
        yield title
        yield from [f" 1 node_{node.node_id.hex()}" for node in group] or [f" ({nothing})"]
    yield "Pending:"
    yield " (no pending nodes)"
    yield "Recent failures:"
    yield from [" " + paint("red", f"node_{node.node_id.hex()}: {node.death_reason}") for node in dead] or [
        " (no failures)"
    ]


def _is_busy(node: NodeInfo) -> bool:
    return any(node.available.get(name, 0) < units for name, units in node.total.items())


def _usage(state: ClusterState) -> list[str]:
    total: Counter[str] = Counter()
    free: Counter[str] = Counter()
    for node in state.nodes:
        if node.alive:
            total.update(node.total)
            free.update({name: max(0, node.available.get(name, 0)) for name in node.total})
    lines = []
    for name in sorted(total, key=_resource_order):
        if name.startswith("node:"):
            continue  # there to be asked for, not to be counted
        used, whole = (total[name] - free[name]) / UNIT, total[name] / UNIT
        if name == OBJECT_STORE_MEMORY:
            used, whole = state.store_used, state.store_capacity
        if name in (MEMORY, OBJECT_STORE_MEMORY):
            lines.append(f" {shown_bytes(used)}/{shown_bytes(whole)} {name}")
            if name == OBJECT_STORE_MEMORY:
                lines += [f"   of which {sentence}" for sentence in state.kept]
        else:
            lines.append(f" {_number(used)}/{_number(whole)} {name}")
    return lines or [" (no resources)"]


def _resource_order(name: str) -> tuple[int, str]:
    """CPU and GPU first, bytes next, the user's own last."""
    first = {"CPU": 0, "GPU": 1, MEMORY: 2, OBJECT_STORE_MEMORY: 3}
    return first.get(name, 4), name


def _number(value: float) -> str:
    return f"{round(value, 4)}"


def _demands(state: ClusterState, paint: Paint) -> list[str]:
    lines = []
    for resources, count, reason in state.pending:
        lines.append(" " + paint("yellow", f"{resources}: {count}+ pending tasks/actors"))
        if reason:
            lines.append(f"   because {reason}")
    return lines or [" (no resource demands)"]


def _workers(workers: list[WorkerInfo]) -> list[str]:
    rows = [
        f" {worker.pid:>8}  {worker.state:<8}  {shown_for(worker.since_s):>6}  {worker.name}".rstrip()
        for worker in sorted(workers, key=lambda worker: (worker.state == "idle", worker.pid))
    ]
    return [f" {'pid':>8}  {'state':<8}  {'for':>6}  name", *rows] if rows else [" (no workers)"]


def _actors(actors: list[ActorInfo], paint: Paint) -> list[str]:
    lines = []
    for actor in actors:
        name = f" {actor.name!r}" if actor.name else ""
        state = paint(_STATE_COLOURS.get(actor.state, "dim"), actor.state)
        where = f" pid={actor.pid}" if actor.pid and actor.state == "ALIVE" else ""
        restarts = f" restarts={actor.incarnation}" if actor.incarnation else ""
        why = f": {actor.cause}" if actor.cause and actor.state != "ALIVE" else ""
        lines.append(f" {actor.class_name}{name} {actor.actor_id.hex()[:8]} {state}{where}{restarts}{why}")
    return lines or [" (no actors)"]
