"""Names Ray has in ``ray.runtime_env``."""

from __future__ import annotations

from beamlet.api.runtime_env import RuntimeEnv, RuntimeEnvConfig

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]
