"""Making a session and its head process, without an interruption that would leave a head nobody knows.

A user's signal handler that raises (Ctrl-C) waits while a function of this module runs: it is for what takes
milliseconds and must not be torn, and what waits is in head_start.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from beamlet.base.resources import CPU, GPU, MEMORY, OBJECT_STORE_MEMORY
from beamlet.base.version import VERSION
from beamlet.head.options import ITS_PYTHONPATH, HeadOptions
from beamlet.processes.host import detect, raise_fd_limit
from beamlet.processes.session import SessionDirectory, session_root, sweep_dead

MIN_STORE_BYTES = 75 << 20


def new_session() -> SessionDirectory:
    root = session_root()
    session = SessionDirectory.create(root)
    sweep_dead(root)
    return session


class StartedHead(msgspec.Struct):
    """A head process that listens."""

    session: SessionDirectory
    process: subprocess.Popen[bytes]


def head_options(
    session: SessionDirectory,
    *,
    num_cpus: float | None,
    num_gpus: float | None,
    resources: Mapping[str, Any] | None,
    memory: float | None,
    object_store_memory: int | None,
    owned: bool,
    infeasible_grace_s: float | None,
    preload: list[str],
    turn_fd: int = -1,
) -> HeadOptions:
    """What this host has, with what the user said on top. Raises ValueError for impossible amounts."""
    host = detect()
    if object_store_memory is not None and object_store_memory < MIN_STORE_BYTES:
        raise ValueError(
            f"object_store_memory is {object_store_memory} bytes; the minimum is {MIN_STORE_BYTES} (75 MiB)"
        )
    store = int(host.object_store_bytes if object_store_memory is None else object_store_memory)
    offered: dict[str, float] = {
        CPU: float(host.cpus if num_cpus is None else num_cpus),
        MEMORY: float(max(0, host.memory_bytes - store) if memory is None else memory),
        OBJECT_STORE_MEMORY: float(store),
        f"node:{host.ip}": 1.0,
        "node:__internal_head__": 1.0,
    }
    gpus = host.gpus if num_gpus is None else num_gpus
    if gpus:
        offered[GPU] = float(gpus)
    for name, amount in (resources or {}).items():
        if name in (CPU, GPU):
            raise ValueError(f"resources may not name {name!r}: use num_cpus and num_gpus")
        if not isinstance(amount, int | float) or amount < 0:
            raise ValueError(f"resources[{name!r}] must be a number of at least 0, got {amount!r}")
        offered[name] = float(amount)
    return HeadOptions(
        session_dir=str(session.path),
        lock_fd=-1 if session.lock is None else session.lock.fd,
        turn_fd=turn_fd,
        resources={name: amount for name, amount in offered.items() if amount},
        object_store_bytes=store,
        node_ip=host.ip,
        hostname=host.hostname,
        version=VERSION,
        owned=owned,
        infeasible_grace_s=infeasible_grace_s,
        preload=preload,
    )


def start_head(session: SessionDirectory, options: HeadOptions) -> StartedHead:
    """Start the head and hand it the session's life. ``await_head`` waits until it listens."""
    raise_fd_limit()
    env = dict(os.environ)
    package_root = str(Path(__file__).parents[2])
    env[ITS_PYTHONPATH] = env.get("PYTHONPATH", "")  # workers, and what they start, are to see this
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [package_root, env[ITS_PYTHONPATH]]))
    env["BEAMLET_SESSION"] = session.marker
    process = subprocess.Popen(
        [sys.executable, "-m", "beamlet.head", msgspec.json.encode(options).decode()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=env,
        pass_fds=[fd for fd in (options.lock_fd, options.turn_fd) if fd >= 0],
    )
    session.let_go()
    return StartedHead(session, process)
