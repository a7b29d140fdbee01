"""Names Ray has in ``ray.util.serialization``: pickling of your own, per process."""

from __future__ import annotations

from beamlet.serialization.values import deregister_serializer, register_serializer

__all__ = ["deregister_serializer", "register_serializer"]
