"""Names Ray has in ``ray.types``."""

from __future__ import annotations

from beamlet.api.object_ref import ObjectRef

__all__ = ["ObjectRef"]
