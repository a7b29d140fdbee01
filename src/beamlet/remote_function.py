"""Names Ray has in ``ray.remote_function``."""

from __future__ import annotations

from beamlet.api.remote_function import RemoteFunction

__all__ = ["RemoteFunction"]
