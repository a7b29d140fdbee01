"""Names Ray has in ``ray.runtime_context``."""

from __future__ import annotations

from beamlet.api.runtime_context import RuntimeContext, get_runtime_context

__all__ = ["RuntimeContext", "get_runtime_context"]
