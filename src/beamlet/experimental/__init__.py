"""Names Ray has in ``ray.experimental``; here only ``internal_kv``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beamlet.experimental import internal_kv as internal_kv
else:

    def __getattr__(name: str) -> Any:
        if name == "internal_kv":
            return import_module("beamlet.experimental.internal_kv")
        from beamlet.api.not_here import refuse_attribute

        raise refuse_attribute("beamlet.experimental", name)
