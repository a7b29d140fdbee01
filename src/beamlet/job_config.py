"""Names Ray has in ``ray.job_config``."""

from __future__ import annotations

from beamlet.api.job_config import JobConfig
from beamlet.api.logging_config import LoggingConfig

__all__ = ["JobConfig", "LoggingConfig"]
