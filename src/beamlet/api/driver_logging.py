"""How a driver's job logs, as ``init()`` was told; and the line that says what was started."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from beamlet.api.init_options import InitOptions
from beamlet.base.resources import CPU, GPU, MEMORY, OBJECT_STORE_MEMORY
from beamlet.core_worker import job_logging
from beamlet.protocol.node import JobLogging

if TYPE_CHECKING:
    from beamlet.core_worker.core_worker import Identity

logger = logging.getLogger("beamlet")
_GIB = 2**30


def logging_of(options: InitOptions) -> JobLogging:
    """What the workers of this job are to do, and this process too."""
    config = options.logging_config
    wanted = options.logging_level
    if wanted is None and config is not None:
        wanted = logging.getLevelNamesMapping()[config.log_level]
    level = job_logging.effective_level(wanted)
    return JobLogging(
        level=level,
        format=options.logging_format or JobLogging().format,
        configure=options.configure_logging,
        encoding=config.encoding if config is not None else "",
        root_level=config.log_level if config is not None else JobLogging().root_level,
        attributes=tuple(config.additional_log_standard_attrs) if config is not None else (),
    )


def apply(logging_: JobLogging, identity: Identity) -> None:
    """Set up this process's loggers."""
    facts = {
        "job_id": identity.job_id.hex(),
        "worker_id": identity.worker_id.hex(),
        "node_id": identity.node_id.hex(),
    }
    job_logging.apply(logging_, lambda: facts)


def tell_start(resources: Mapping[str, float], logs: str) -> None:
    """One line: what was started, what it offers, where its logs are."""
    offered = [_count(resources.get(CPU, 0), "CPU")]
    if resources.get(GPU):
        offered.append(_count(resources[GPU], "GPU"))
    offered += [
        f"{resources.get(MEMORY, 0) / _GIB:.1f} GiB of memory",
        f"{resources.get(OBJECT_STORE_MEMORY, 0) / _GIB:.1f} GiB of object store",
    ]
    logger.info("Started a local Beamlet cluster: %s. Logs: %s", ", ".join(offered), logs)


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" + ("" if number == 1 else "s")
